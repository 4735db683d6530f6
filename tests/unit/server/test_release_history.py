"""What a release finds in the coordinator's folder: the version before it, and permits of pinned issuers."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from artefact_lab import contents_of, write
from lab import NOW, study_document
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.issuing import Terms, permit_for
from solblom_protocol.permits.permit import sign_permit
from solblom_protocol.studies.study import StudyDocument
from solblom_server.registry.release_history import earlier_version, held_permits, with_history
from solblom_verify.canonical import digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
ISSUER = Issuer.of("https://hdab.example.no", KEY.public_key())
STUDY = study_document()


def token(document: StudyDocument, *, key: Ed25519PrivateKey = KEY, jti: str = "permit-1") -> bytes:
    terms = Terms(sites=("north",), days=30, rounds=6, duo=("DUO:0000042",))
    claims = permit_for(document, terms, issuer=ISSUER.name, jti=jti, now=int(NOW.timestamp()))
    return sign_permit(claims, key)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "permits/issuers").mkdir(parents=True)
    (tmp_path / "permits/issuers/hdab.pub").write_bytes(ISSUER.to_bytes())
    return tmp_path


def test_the_first_version_of_a_name_supersedes_nothing(tmp_path: Path) -> None:
    assert earlier_version(tmp_path / "models", "lab", 1) is None


def test_the_newest_version_below_is_the_one_before(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number in (1, 2, 10, 11):
        write(models / f"lab-v{number}", contents_of(STUDY), version=f"v{number}")
    write(models / "lab-other-v5", contents_of(STUDY), version="v5")
    for number, expected in ((2, "v1"), (3, "v2"), (10, "v2"), (11, "v10"), (12, "v11")):
        found = earlier_version(models, "lab", number)
        assert found is not None
        assert json.loads(found.manifest)["version"] == expected
        assert found.artefact == digest(found.manifest)


def test_an_earlier_version_without_its_study_is_known_by_name_only(tmp_path: Path) -> None:
    write(tmp_path / "models/lab-v1", contents_of(STUDY))
    (tmp_path / "models/lab-v1/training/study.json").unlink()
    found = earlier_version(tmp_path / "models", "lab", 2)
    assert found is not None
    assert found.study == b""


def test_without_the_folder_there_are_no_permits(tmp_path: Path) -> None:
    assert held_permits(tmp_path) == []


def test_a_permit_of_a_pinned_issuer_is_held(home: Path) -> None:
    (home / "permits/a.jws").write_bytes(token(STUDY) + b"\n")
    (found,) = with_history(home, contents_of(STUDY), version=1).permits
    assert found.permit.jti == "permit-1"
    assert found.token == token(STUDY)


@pytest.mark.parametrize(
    "data",
    [
        token(STUDY, key=Ed25519PrivateKey.from_private_bytes(bytes([6]) * 32)),
        token(STUDY)[:-4] + b"AAAA",
        b"not a token",
        b"",
        b"x" * 200_000,
    ],
)
def test_what_no_pinned_issuer_signed_is_left_out(home: Path, data: bytes) -> None:
    (home / "permits/a.jws").write_bytes(data)
    assert held_permits(home) == []


def test_a_link_that_leads_nowhere_is_left_out(home: Path) -> None:
    (home / "permits/a.jws").symlink_to(home / "gone")
    assert held_permits(home) == []


def test_without_issuers_no_permit_is_believed(tmp_path: Path) -> None:
    (tmp_path / "permits").mkdir()
    (tmp_path / "permits/a.jws").write_bytes(token(STUDY))
    assert held_permits(tmp_path) == []


def test_an_issuers_file_that_is_none_stops_the_release(home: Path) -> None:
    (home / "permits/issuers/other.pub").write_bytes(b"{}")
    with pytest.raises(ConfigurationError):
        held_permits(home)


def test_a_permit_of_another_study_is_not_taken(home: Path) -> None:
    (home / "permits/a.jws").write_bytes(token(study_document(training={"rounds": 2})))
    assert with_history(home, contents_of(STUDY), version=1).permits == ()
