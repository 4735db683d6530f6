"""The link as a process: a file that is missing, or holds nonsense, is named before anything connects."""

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from lab import LabHospital
from solblom_client.link.errors import LinkError
from solblom_client.link.link import LinkStatus
from solblom_client.link.process import ID_FILE, STATUS_FILE, StatusFile, read_status, run_link
from solblom_client.link.transport_key import FILE, create_transport_key
from solblom_client.link.vault_client import VaultClient, VaultUnavailableError
from solblom_client.policy import NodeConfig, load_node_config
from solblom_protocol.errors import CODES, SolblomError

URL = "https://127.0.0.1:1"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    yield folder
    shutil.rmtree(folder)


def with_url(hospital: LabHospital, *lines: str) -> NodeConfig:
    toml = hospital.folder / "node.toml"
    text = toml.read_text(encoding="utf-8")
    more = "\n".join(("[coordinator]", *lines))
    toml.write_text(text.replace("[coordinator]", more), encoding="utf-8")
    return load_node_config(hospital.folder)


def trouble(config: NodeConfig) -> SolblomError:
    """Start the link; return what it says instead of connecting."""
    started: list[object] = []
    with pytest.raises(SolblomError) as caught:
        run_link(config, on_start=started.append)
    assert started == []
    assert caught.value.hint == CODES[caught.value.code].hint != ""
    return caught.value


def test_a_node_without_an_address_is_told_to_join(hospital: LabHospital) -> None:
    found = trouble(hospital.config)
    assert (found.code, "coordinator.url" in found.message) == ("SB-628", True)
    assert "node join" in found.hint


@pytest.mark.parametrize("line", ['url = "http://127.0.0.1:1"', 'url = "127.0.0.1:1"'])
def test_an_address_without_tls_is_refused(hospital: LabHospital, line: str) -> None:
    assert trouble(with_url(hospital, line)).code == "SB-103"


def test_a_missing_transport_key_is_named_with_its_path(hospital: LabHospital) -> None:
    found = trouble(with_url(hospital, f'url = "{URL}"'))
    assert found.code == "SB-109"
    assert str(hospital.folder / "link" / FILE) in found.message


def pem(key: object, password: bytes | None = None) -> bytes:
    lock = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)  # type: ignore[attr-defined, no-any-return]


NO_KEYS = [
    pytest.param(b"", id="empty"),
    pytest.param(b"not a key", id="nonsense"),
    pytest.param(pem(Ed25519PrivateKey.generate()), id="a signing key"),
    pytest.param(pem(rsa.generate_private_key(65537, 2048)), id="RSA"),
    pytest.param(pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), id="with a password"),
]


@pytest.mark.parametrize("content", NO_KEYS)
def test_a_transport_key_that_is_none_is_named(hospital: LabHospital, content: bytes) -> None:
    config = with_url(hospital, f'url = "{URL}"')
    (hospital.folder / "link").mkdir()
    (hospital.folder / "link" / FILE).write_bytes(content)
    assert trouble(config).code == "SB-109"


def test_an_authority_file_that_is_missing_is_named(hospital: LabHospital) -> None:
    config = with_url(hospital, f'url = "{URL}"', 'ca_file = "gone.pem"')
    create_transport_key(config)
    found = trouble(config)
    assert isinstance(found, LinkError)
    assert (found.code, "gone.pem" in found.message) == ("SB-621", True)


def vault_trouble(path: Path) -> SolblomError:
    client = VaultClient(path)
    try:
        with pytest.raises(VaultUnavailableError) as caught:
            client.process(b"sealed")
    finally:
        client.close()
    assert caught.value.code == "SB-611"
    return caught.value


def test_a_vault_that_does_not_run_is_named(short_folder: Path) -> None:
    assert "no socket" in vault_trouble(short_folder / "v.sock").message


def test_a_file_in_the_sockets_place_is_named(short_folder: Path) -> None:
    (short_folder / "v.sock").write_bytes(b"")
    assert "no socket" in vault_trouble(short_folder / "v.sock").message


def test_a_socket_that_nobody_listens_on_is_named(short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_folder / "v.sock"))
    assert "Nobody listens" in vault_trouble(short_folder / "v.sock").message


@pytest.mark.parametrize("content", ["", "[]", "{", '"connected"', "\x00"])
def test_a_status_file_with_nonsense_is_no_status(hospital: LabHospital, content: str) -> None:
    folder = hospital.folder / "link"
    folder.mkdir()
    (folder / STATUS_FILE).write_text(content, encoding="utf-8")
    assert read_status(hospital.config) == {}


def test_a_folder_that_cannot_be_written_does_not_stop_the_link(tmp_path: Path) -> None:
    report = StatusFile(tmp_path / "gone")
    report(LinkStatus(state="connected", node_id=5))
    assert list(tmp_path.iterdir()) == []


def test_status_and_number_of_the_node_are_written_whole(tmp_path: Path) -> None:
    StatusFile(tmp_path)(LinkStatus(state="connected", node_id=5))
    assert json.loads((tmp_path / STATUS_FILE).read_text())["state"] == "connected"
    assert (tmp_path / ID_FILE).read_text() == "5"
    assert {path.name for path in tmp_path.iterdir()} == {STATUS_FILE, ID_FILE}
