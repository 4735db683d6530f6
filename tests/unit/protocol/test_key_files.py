"""Keys on disk: readable by their owner alone, never overwritten, and never mistaken for another kind."""

import os
import stat
from pathlib import Path

import pytest

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import (
    fingerprint,
    private_pem,
    public_pem,
    read_sealing_key,
    read_secret,
    read_signing_key,
    sealing_key_from_pem,
    signing_key_from_pem,
    write_new,
)
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_verify.envelope import key_id
from unit.protocol.samples import NODE, NODE_SEALING, STRANGER


@pytest.fixture
def public() -> PublicKeys:
    return PublicKeys("north", NODE.public_key(), NODE_SEALING.public_key())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def code(error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    return error.value.code


def test_a_secret_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_new(tmp_path / "new.key", b"secret")
    finally:
        os.umask(old)
    assert mode(tmp_path / "new.key") == 0o600


def test_a_public_file_may_be_read_by_others(tmp_path: Path) -> None:
    write_new(tmp_path / "new.pub", b"public", mode=0o644)
    assert mode(tmp_path / "new.pub") == 0o644


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    write_new(tmp_path / "new.key", b"first")
    with pytest.raises(ConfigurationError) as caught:
        write_new(tmp_path / "new.key", b"second")
    assert code(caught) == "SB-113"
    assert (tmp_path / "new.key").read_bytes() == b"first"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "new.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError):
        write_new(tmp_path / "new.key", b"secret")
    assert not (tmp_path / "elsewhere").exists()


def test_a_signing_key_comes_back(tmp_path: Path) -> None:
    write_new(tmp_path / "signing.key", private_pem(NODE))
    assert read_signing_key(tmp_path / "signing.key").public_key() == NODE.public_key()


def test_a_sealing_key_comes_back(tmp_path: Path) -> None:
    write_new(tmp_path / "sealing.key", private_pem(NODE_SEALING))
    read = read_sealing_key(tmp_path / "sealing.key")
    assert read.public_key() == NODE_SEALING.public_key()


def test_a_sealing_key_does_not_pass_as_a_signing_key(tmp_path: Path) -> None:
    write_new(tmp_path / "sealing.key", private_pem(NODE_SEALING))
    with pytest.raises(ConfigurationError, match="not an Ed25519 private key") as caught:
        read_signing_key(tmp_path / "sealing.key")
    assert code(caught) == "SB-109"


def test_a_signing_key_does_not_pass_as_a_sealing_key(tmp_path: Path) -> None:
    write_new(tmp_path / "signing.key", private_pem(NODE))
    with pytest.raises(ConfigurationError, match="not an X25519 private key") as caught:
        read_sealing_key(tmp_path / "signing.key")
    assert code(caught) == "SB-109"


@pytest.mark.parametrize(
    "data", [b"", b"-----BEGIN PRIVATE KEY-----\n", public_pem(NODE.public_key()).encode()]
)
def test_what_is_no_private_key_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "signing.key").write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        read_signing_key(tmp_path / "signing.key")
    assert code(caught) == "SB-109"


def test_a_missing_key_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file") as caught:
        read_signing_key(tmp_path / "signing.key")
    assert code(caught) == "SB-109"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "split.key").write_bytes(bytes(length))
    with pytest.raises(ConfigurationError) as caught:
        read_secret(tmp_path / "split.key", length=32)
    assert code(caught) == "SB-109"


def test_public_keys_of_the_two_kinds_are_not_interchangeable() -> None:
    signing = public_pem(NODE.public_key())
    sealing = public_pem(NODE_SEALING.public_key())
    with pytest.raises(ConfigurationError):
        signing_key_from_pem(sealing, source="x")
    with pytest.raises(ConfigurationError):
        sealing_key_from_pem(signing, source="x")


def test_a_fingerprint_is_the_key_id_in_groups_of_four() -> None:
    shown = fingerprint(NODE.public_key())
    assert [len(group) for group in shown.split(" ")] == [4] * 16
    assert shown.replace(" ", "") == key_id(NODE.public_key())


def test_keys_of_both_kinds_have_a_fingerprint() -> None:
    shown = {fingerprint(NODE.public_key()), fingerprint(NODE_SEALING.public_key())}
    assert len(shown) == 2


def test_two_keys_have_two_fingerprints() -> None:
    assert fingerprint(NODE.public_key()) != fingerprint(STRANGER.public_key())


def test_public_keys_come_back_from_their_file(tmp_path: Path, public: PublicKeys) -> None:
    (tmp_path / "node.pub").write_bytes(public.to_bytes())
    read = PublicKeys.read(tmp_path / "node.pub")
    assert (read.name, read.key_id) == ("north", public.key_id)
    assert read.sealing == public.sealing


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"north"', b'"../north"'),
        (b"public-keys/1", b"public-keys/2"),
        (b'"name"', b'"title"'),
        (b"{", b"{ "),
    ],
)
def test_a_changed_public_keys_file_is_refused(
    tmp_path: Path, public: PublicKeys, old: bytes, new: bytes
) -> None:
    (tmp_path / "node.pub").write_bytes(public.to_bytes().replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        PublicKeys.read(tmp_path / "node.pub")
    assert code(caught) == "SB-109"


def test_a_missing_public_keys_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PublicKeys.read(tmp_path / "node.pub")
    assert code(caught) == "SB-109"
