"""A support bundle leaves for people outside: nothing that is planted in a hospital can be found in it."""

import base64
import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from click.testing import Result
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from lab import LabHospital, patient_rows, study_document, write_table
from solblom_client import vault as vault_module
from solblom_client.cli import app
from solblom_client.policy import load_node_config
from solblom_client.support.gather import gather
from solblom_client.support.report import CheckLight, SupportReport, VersionText
from solblom_client.support.writing import as_text, as_zip
from solblom_protocol.messages.message import as_json
from solblom_protocol.studies.study import StudyDocument

PATIENT, SLIDE, TERM = "19531212-43210", "S24-11873-HE-3", "HP:0001250"
WORDS = (
    PATIENT,
    SLIDE,
    TERM,
    "plantedhost",
    "plantedsite",
    "plantedset",
    "plantedrun",
    "plantedtitle",
    "plantedcomment",
    "plantedpassword",
    "plantedreason",
)


@dataclass
class Planted:
    """A hospital with planted words everywhere, and the secrets that it made itself."""

    hospital: LabHospital
    study: StudyDocument
    secrets: dict[str, bytes]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("hospital") / PATIENT
    hospital = LabHospital(folder, site="plantedsite")
    hospital.rows[0]["patient_id"] = PATIENT
    (folder / "patients.csv").unlink()
    plant_settings(folder)
    hospital.config = load_node_config(folder)
    write_table(folder / f"{SLIDE}.csv", hospital.rows)
    hospital.restart()
    study = study_document(study={"title": f"plantedtitle {PATIENT} {SLIDE} {TERM}"})
    hospital.approve(study)
    hospital.ask(hospital.order(study, run="plantedrun"))
    plant_failures(hospital, study)
    plant_files(folder)
    return Planted(hospital, study, secrets_of(hospital, study))


def plant_settings(folder: Path) -> None:
    """Put planted words wherever node.toml takes a text."""
    file = folder / "node.toml"
    text = (
        file.read_text()
        .replace("patients.csv", f"{SLIDE}.csv")
        .replace('"patients"', '"plantedset"')
    )
    text = text.replace(
        "[policy]",
        f"""inbox = "{PATIENT}"
outbox = "{SLIDE}"
url = "https://plantedhost.example:8443"
proxy = "http://plantedhost:plantedpassword@proxy.example:3128"
carrier_before = ["fetch", "{PATIENT}"]
[log]
syslog = "udp:plantedhost.example:514"
[permit]
folder = "{PATIENT}"
[policy]""",
    )
    text += f"\n# plantedcomment {PATIENT} {SLIDE} {TERM}\n"
    file.write_text(text)


def plant_failures(hospital: LabHospital, study: StudyDocument) -> None:
    """Let the vault fail with planted words in the error, and refuse what depends on data."""

    def explode(*_: object, **__: object) -> Any:
        raise RuntimeError(f"plantedreason {PATIENT} in {SLIDE}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault_module, "open_source", explode)
        hospital.ask(hospital.order(study, run="plantedrun", round=2))
    hospital.rows[1]["grade"] = TERM
    write_table(hospital.folder / f"{SLIDE}.csv", hospital.rows)
    hospital.ask(hospital.order(study, run="plantedrun", round=3))
    assert "plantedreason" in (hospital.config.state / "log" / "vault.jsonl").read_text()


def plant_files(folder: Path) -> None:
    """Leave files with planted names and words in the folders that the command looks at."""
    for name in (f"{PATIENT}.key", f"{SLIDE}.svs"):
        (folder / "state" / name).write_text(PATIENT)
        (folder / "state" / "keys" / name).symlink_to(f"/{PATIENT}")
    status = {
        "state": PATIENT,
        "code": f"SB-{PATIENT}",
        "trouble": f"plantedreason {PATIENT}",
        "working_on": "plantedrun",
        "last_contact": PATIENT,
        "orders": PATIENT,
        "replies": [SLIDE],
        "pid": os.getpid(),
    }
    (folder / "link").mkdir(exist_ok=True)
    (folder / "link" / "status.json").write_text(json.dumps(status))


def secrets_of(hospital: LabHospital, study: StudyDocument) -> dict[str, bytes]:
    """Return keys, roots, ids and digests of the hospital, as bytes."""
    found = {}
    for path in hospital.config.state.rglob("*"):
        if path.suffix in (".key", ".root") and path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found[path.name] = data
            if data.startswith(b"-----"):
                body = base64.b64decode(b"".join(data.splitlines()[1:-1]))
                found[f"{path.name}, raw"] = body[-32:]
    found["node"] = bytes.fromhex(hospital.public.key_id)
    found["coordinator"] = bytes.fromhex(hospital.coordinator.public.key_id)
    found["study"] = bytes.fromhex(study.digest.removeprefix("sha256:"))
    found["machine"] = socket.gethostname().encode() * (len(socket.gethostname()) > 3)
    return {name: data for name, data in found.items() if data}


def spellings(data: bytes) -> Iterator[bytes]:
    """Give bytes as they stand, in hexadecimal, and in base64 wherever they begin."""
    yield data
    yield data.hex().encode()
    yield data[::-1]
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(shift) + data).rstrip(b"=")
            yield text[(shift * 8 + 5) // 6 : -1]


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def made_by(folder: Path, into: Path, *more: str) -> Result:
    words = ["support-bundle", "--out", str(into), "--node", str(folder), "--yes", *more]
    return CliRunner().invoke(app, words)


def test_what_is_planted_everywhere_is_nowhere_in_the_bundle(
    planted: Planted, tmp_path: Path
) -> None:
    into = tmp_path / "support.zip"
    result = made_by(planted.hospital.folder, into, "--by", "Kari Nordmann")
    assert result.exit_code == 0, result.output
    members = unpacked(into.read_bytes())
    assert set(members) == {"README.txt", "report.txt", "report.json"}
    everything = b"\0".join([into.read_bytes(), *members.values(), result.stdout.encode()])
    folded = everything.lower()
    secrets = planted.secrets | {word: word.encode() for word in WORDS}
    assert {"signing.key, raw", "sealing.key", "split.key", "noise.root"} <= set(secrets)
    found = [
        name
        for name, secret in secrets.items()
        for text in spellings(secret)
        if text in everything or text.lower() in folded
    ]
    assert found == []
    assert b"nordmann" not in folded


def test_the_search_of_these_tests_finds_what_is_there() -> None:
    hidden = b"\xff\x3e secret \xfe"
    for text in (
        hidden,
        hidden.hex().encode(),
        base64.b64encode(hidden),
        base64.b64encode(b"a" + hidden),
        base64.urlsafe_b64encode(b"ab" + hidden + b"more"),
    ):
        assert any(spelling in text for spelling in spellings(hidden)), text


def test_a_refusal_that_depends_on_data_has_its_outside_code_only(planted: Planted) -> None:
    report = gather(planted.hospital.config, now=planted.hospital.clock())
    codes = {row.code for row in report.refusals}
    assert "SB-209" in codes
    assert all(code.startswith("SB-2") for code in codes)
    assert "SB-3" not in as_text(report)


def test_hospitals_that_differ_in_their_patients_alone_give_the_same_bundle(tmp_path: Path) -> None:
    made = []
    for count in (40, 400):
        hospital = LabHospital(tmp_path / str(count), patients=count)
        study = study_document()
        hospital.approve(study)
        hospital.ask(hospital.order(study))
        made.append(as_zip(gather(hospital.config, now=hospital.clock())))
    assert made[0] == made[1]


def test_a_hospital_too_small_is_told_apart_by_the_outside_code_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Three patients and none at all: both refused, neither says how many there are."""
    made = []
    for count in (3, 1):
        hospital = LabHospital(tmp_path / str(count), patients=60)
        study = study_document()
        hospital.approve(study)
        hospital.write_rows(patient_rows(count, site="north"))
        hospital.ask(hospital.order(study))
        made.append(as_zip(gather(hospital.config, now=hospital.clock())))
    assert made[0] == made[1]


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in _inside(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _models(inner)


def _inside(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _inside(inner)


def test_no_field_of_the_report_takes_free_text() -> None:
    for model in set(_models(SupportReport)):
        for name, field in model.model_fields.items():
            schema = json.dumps(model.model_json_schema(by_alias=False)["properties"][name])
            takes_text = str in set(_inside(field.annotation))
            if takes_text:
                assert '"pattern"' in schema, f"{model.__name__}.{name}"
            assert dict not in {get_origin(one) for one in _inside(field.annotation)}


@pytest.mark.parametrize("text", [PATIENT, SLIDE, "1.0+" + PATIENT, "1.0 ", "1.0\n", TERM, "1.0-x"])
def test_a_version_that_says_more_than_a_version_is_left_out(text: str) -> None:
    from pydantic import TypeAdapter

    with pytest.raises(ValidationError):
        TypeAdapter(VersionText).validate_python(text)


def test_a_check_of_another_name_cannot_stand_in_the_report() -> None:
    with pytest.raises(ValidationError):
        CheckLight(name=f"keys\n{PATIENT}", light="ok")


def test_settings_of_unknown_words_are_called_another(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path)
    file = tmp_path / "node.toml"
    text = file.read_text().replace('"tabular-classification"', f'"{SLIDE}", "slide-mil"')
    file.write_text(text.replace('"table"', f'"{PATIENT}"'))
    report = gather(load_node_config(tmp_path), now=hospital.clock())
    assert report.settings is not None
    assert set(report.settings.tasks) == {"another", "slide-mil"}
    assert report.settings.connectors == ("another",)
    assert PATIENT not in json.dumps(as_json(report))


def test_a_broken_node_toml_says_its_code_and_none_of_its_words(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(f'[node]\nsite = "{PATIENT} {SLIDE}"\n{TERM} = 1\n')
    result = made_by(tmp_path, tmp_path / "support.zip")
    assert result.exit_code == 0, result.output
    members = unpacked((tmp_path / "support.zip").read_bytes())
    assert json.loads(members["report.json"])["settings_code"].startswith("SB-10")
    assert all(word.encode() not in text for word in WORDS for text in members.values())
