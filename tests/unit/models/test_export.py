"""`solblom model export`: what was verified, and nothing else, in another form."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from rocrate.rocrate import ROCrate
from typer.testing import CliRunner

from artefact_lab import COORDINATOR, STUDIES, TRUST, contents_of, write
from lab import NOW
from solblom_models import export
from solblom_models.cli import app
from solblom_models.export import Form, export_model
from solblom_protocol.errors import ConfigurationError, IntegrityError, RunError
from solblom_protocol.keys.key_files import public_pem
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import key_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "lab-v1"
    write(folder, contents_of(STUDIES["logistic"]()))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "lab-v1"))


def failed(folder: Path) -> list[str]:
    return [c.name for c in verify_artefact(folder, TRUST, now=NOW).checks if not c.ok]


@pytest.mark.parametrize(
    ("form", "name"), [(Form.ONNX, "model/model.onnx"), (Form.CARD, "README.md")]
)
def test_a_file_is_written_as_it_stands(
    folder: Path, tmp_path: Path, form: Form, name: str
) -> None:
    named, size = export_model(folder, form, tmp_path / "out")
    data = (tmp_path / "out").read_bytes()
    assert data == (folder / name).read_bytes()
    assert named == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert size == len(data)


def test_a_crate_is_the_whole_artefact(folder: Path, tmp_path: Path) -> None:
    export_model(folder, Form.RO_CRATE, tmp_path / "lab.zip")
    with zipfile.ZipFile(tmp_path / "lab.zip") as crate:
        crate.extractall(tmp_path / "again")
    files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = tmp_path / "again"
    assert {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()} == files
    assert failed(again) == failed(folder)


def test_rocrate_opens_the_zip(folder: Path, tmp_path: Path) -> None:
    export_model(folder, Form.RO_CRATE, tmp_path / "lab.zip")
    crate = ROCrate(tmp_path / "lab.zip")
    assert crate.dereference("model/weights.safetensors").type == "File"
    assert crate.root_dataset["name"] == "A study of the laboratory (lab v1)"


def test_a_crate_has_the_same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    first = export_model(folder, Form.RO_CRATE, tmp_path / "a.zip")
    for path in folder.rglob("*"):
        if path.is_file():
            path.touch()
    assert export_model(folder, Form.RO_CRATE, tmp_path / "b.zip") == first


def test_signatures_and_log_travel_with_the_crate(folder: Path, tmp_path: Path) -> None:
    (folder / "log").mkdir(exist_ok=True)
    (folder / "log/checkpoint.txt").write_bytes(b"note")
    export_model(folder, Form.RO_CRATE, tmp_path / "lab.zip")
    with zipfile.ZipFile(tmp_path / "lab.zip") as crate:
        assert {"log/checkpoint.txt", "attestations/model.dsse.json"} <= set(crate.namelist())


def test_an_extra_file_does_not_slip_into_the_crate(folder: Path, tmp_path: Path) -> None:
    (folder / "planted.txt").write_bytes(b"x")
    export_model(folder, Form.RO_CRATE, tmp_path / "lab.zip")
    with zipfile.ZipFile(tmp_path / "lab.zip") as crate:
        assert "planted.txt" not in crate.namelist()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (Form.ONNX, "model/model.onnx"),
        (Form.CARD, "README.md"),
        (Form.RO_CRATE, "training/study.toml"),
    ],
)
def test_a_file_that_changed_after_it_was_verified_is_not_handed_on(
    folder: Path, tmp_path: Path, form: Form, name: str
) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="changed after it was verified") as caught:
        export_model(folder, form, tmp_path / "out")
    assert caught.value.code == "SB-405"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"payload":"!"}', b'{"payload":"e30="}'])
def test_a_statement_that_changed_after_it_was_verified_is_not_believed(
    folder: Path, tmp_path: Path, data: bytes
) -> None:
    (folder / export.ATTESTATION).write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        export_model(folder, Form.CARD, tmp_path / "out")
    assert caught.value.code == "SB-405"


@pytest.mark.parametrize("form", Form)
def test_nothing_is_written_over(folder: Path, tmp_path: Path, form: Form) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(ConfigurationError) as caught:
        export_model(folder, form, tmp_path / "out")
    assert caught.value.code == "SB-113"
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("form", Form)
def test_a_place_where_nothing_can_be_written_is_named(
    folder: Path, tmp_path: Path, form: Form
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError) as caught:
        export_model(folder, form, tmp_path / "file" / "out")
    assert caught.value.code == "SB-101"


def test_a_model_without_an_onnx_file_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solblom_models.artefact_files.onnx_export.MOST_BYTES", 1)
    write(tmp_path / "lab-v1", contents_of(STUDIES["mean"]()))
    assert failed(tmp_path / "lab-v1") == []
    manifest = json.loads((tmp_path / "lab-v1/manifest.json").read_bytes())
    assert manifest["model"]["onnx"] is None
    with pytest.raises(RunError, match="more than 1 bytes") as caught:
        export_model(tmp_path / "lab-v1", Form.ONNX, tmp_path / "out")
    assert caught.value.code == "SB-431"
    assert not (tmp_path / "out").exists()


def trust_file(folder: Path) -> Path:
    path = folder / "trust.json"
    key = COORDINATOR.public_key()
    path.write_bytes(
        canonical_json(
            {
                "schema": "solblom.trust/1",
                "version": 1,
                "expires": "2036-12-31T00:00:00Z",
                "threshold": 1,
                "keys": [
                    {
                        "keyid": key_id(key),
                        "name": "coordinator",
                        "role": "coordinator",
                        "public_key": public_pem(key),
                    }
                ],
            }
        )
    )
    return path


def test_the_command_verifies_first(folder: Path, tmp_path: Path) -> None:
    arguments = ["export", str(folder), "--trust", str(trust_file(tmp_path)), "--format", "card"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "card.md"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["schema"] == "solblom.model.export/1"
    assert said["format"] == "card"
    assert said["sha256"] == hashlib.sha256((tmp_path / "card.md").read_bytes()).hexdigest()
    (folder / "model/weights.safetensors").write_bytes(b"other")
    refused = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "again.md")])
    assert refused.exit_code == 5
    assert not (tmp_path / "again.md").exists()
