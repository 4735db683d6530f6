"""What two people read to each other over the phone, from whatever file they have."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from lab import LabHospital
from solblom_protocol.cli import app
from solblom_protocol.keys.key_files import fingerprint, private_pem, public_pem
from solblom_protocol.keys.public_keys import PublicKeys

SIGNING, SEALING = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
PUBLIC = PublicKeys("kari", SIGNING.public_key(), SEALING.public_key())
SIGNS, OPENS = fingerprint(SIGNING.public_key()), fingerprint(SEALING.public_key())

Solblom = Callable[..., Result]


@pytest.fixture
def solblom(monkeypatch: pytest.MonkeyPatch) -> Solblom:
    def invoke(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["solblom", *arguments])
        return CliRunner().invoke(app, arguments)

    return invoke


@pytest.mark.parametrize(
    ("data", "name", "signing", "sealing"),
    [
        (PUBLIC.to_bytes(), "kari", SIGNS, OPENS),
        (private_pem(SIGNING), None, SIGNS, None),
        (public_pem(SIGNING.public_key()).encode(), None, SIGNS, None),
        (private_pem(SEALING), None, None, OPENS),
    ],
    ids=["public-keys", "private", "public", "sealing"],
)
def test_every_form_of_a_key_has_the_same_fingerprint(
    tmp_path: Path,
    solblom: Solblom,
    data: bytes,
    name: str | None,
    signing: str | None,
    sealing: str | None,
) -> None:
    file = tmp_path / "key"
    file.write_bytes(data)
    told = json.loads(solblom("key", "fingerprint", str(file), "--json").stdout)
    assert told["schema"] == "solblom.key.fingerprint/1"
    assert told["keys"] == [
        {"file": str(file), "name": name, "signing": signing, "sealing": sealing}
    ]


def test_a_person_reads_name_and_groups(tmp_path: Path, solblom: Solblom) -> None:
    (tmp_path / "kari.pub").write_bytes(PUBLIC.to_bytes())
    shown = solblom("key", "fingerprint", str(tmp_path / "kari.pub")).stdout
    assert f"  signs  {SIGNS}\n  opens  {OPENS}\n" in shown
    assert shown.startswith("kari  ")


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"",
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["json", "empty", "hollow", "other-kind"],
)
def test_what_holds_no_key_of_solblom_has_no_fingerprint(
    tmp_path: Path, solblom: Solblom, data: bytes
) -> None:
    (tmp_path / "key").write_bytes(data)
    done = solblom("key", "fingerprint", str(tmp_path / "key"))
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("error[SB-109]")


def test_a_node_shows_its_keys_and_everybodys_whom_it_trusts(
    hospital: LabHospital, solblom: Solblom
) -> None:
    done = solblom("node", "fingerprint", str(hospital.folder), "--json")
    told = json.loads(done.stdout)
    assert told["schema"] == "solblom.node.fingerprint/1"
    expected = {
        "this node": fingerprint(hospital.public.signing),
        "coordinator": fingerprint(hospital.coordinator.signing.public_key()),
        "researcher": fingerprint(hospital.researcher.public_key()),
    }
    assert {row["whose"]: row["signing"] for row in told["keys"]} == expected


def test_a_node_that_pinned_nobody_yet_says_so(hospital: LabHospital, solblom: Solblom) -> None:
    (hospital.folder / "coordinator.pub").unlink()
    done = solblom("node", "fingerprint", str(hospital.folder))
    assert done.exit_code == 0
    assert "coordinator.pub is not there yet" in done.stderr
    assert "(coordinator" not in done.stdout
