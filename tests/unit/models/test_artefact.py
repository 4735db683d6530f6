"""The artefact: written, verified, loaded; the same work gives the same bytes, whatever the clock."""

import datetime as dt
import hashlib
import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import NOW, LabHospital, study_document
from rounds_lab import two_rounds
from solblom_models.artefact import (
    ArtefactContents,
    SiteRecord,
    load,
    write_artefact,
)
from solblom_models.flat import layout_of, load_flat
from solblom_models.statement import Charge
from solblom_models.tabular.data import read_units
from solblom_models.tabular.table_file import read_csv
from solblom_models.task import find_task
from solblom_protocol.errors import IntegrityError
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.messages.layout import unpack
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id
from solblom_verify.trust import Trust, TrustedKey

STEWARD = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
TRUST = Trust(
    version=1,
    expires=dt.datetime(2036, 12, 31, tzinfo=dt.UTC),
    threshold=1,
    keys=(TrustedKey(key_id(STEWARD.public_key()), "x", "coordinator", STEWARD.public_key()),),
)
STUDY = study_document(training={"rounds": 2})


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> LabHospital:
    return LabHospital(tmp_path_factory.mktemp("artefact") / "north")


@pytest.fixture(scope="module")
def contents(hospital: LabHospital) -> ArtefactContents:
    """What two real rounds of one real hospital leave."""
    hospital.approve(STUDY)
    rounds, model = two_rounds(hospital, STUDY)
    public = hospital.public.signing
    return ArtefactContents(
        document=STUDY,
        study_envelope=hospital.sign(STUDY),
        run="lab-1",
        simulation=False,
        weights=model,
        sites={"north": SiteRecord(public_pem(public), key_id(public))},
        rounds=rounds,
        charges=[Charge(number, "north", STUDY.round_event) for number in (1, 2)],
    )


def write(folder: Path, contents: ArtefactContents, *, now: dt.datetime = NOW) -> str:
    folder.mkdir(parents=True)
    return write_artefact(folder, contents, version="v1", evaluation=None, key=STEWARD, now=now)


@pytest.fixture(scope="module")
def written(contents: ArtefactContents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "lab-v1"
    write(folder, contents)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "lab-v1"))


def manifest_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    return value


def failed_checks(folder: Path) -> list[tuple[str, str]]:
    checks = verify_artefact(folder, TRUST, now=NOW).checks
    return [(check.name, check.reason) for check in checks if not check.ok]


def test_a_written_artefact_verifies(written: Path) -> None:
    assert failed_checks(written) == []


def test_the_verifier_and_the_writer_agree_on_the_digest(
    contents: ArtefactContents, tmp_path: Path
) -> None:
    name = write(tmp_path / "lab-v1", contents)
    assert verify_artefact(tmp_path / "lab-v1", TRUST, now=NOW).artefact == name


def test_an_artefact_is_named_by_its_manifest(contents: ArtefactContents, tmp_path: Path) -> None:
    name = write(tmp_path / "lab-v1", contents)
    found = hashlib.sha256((tmp_path / "lab-v1/manifest.json").read_bytes()).hexdigest()
    assert name == f"sha256:{found}"


def test_an_artefact_signed_by_a_stranger_does_not_verify(
    contents: ArtefactContents, tmp_path: Path
) -> None:
    (tmp_path / "lab-v1").mkdir()
    stranger = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
    write_artefact(
        tmp_path / "lab-v1", contents, version="v1", evaluation=None, key=stranger, now=NOW
    )
    assert failed_checks(tmp_path / "lab-v1")[0][0] == "envelope"


def test_a_loaded_model_scores_patients_as_the_trained_one(
    written: Path, contents: ArtefactContents, hospital: LabHospital
) -> None:
    table = read_csv(hospital.folder / "patients.csv", id_column="patient_id")
    units = read_units(table, STUDY.contract)
    task = find_task("tabular-classification")
    trained = task.build(STUDY)
    layout = layout_of(trained, local=frozenset())
    load_flat(trained, layout, unpack(contents.weights, layout))
    loaded = load(written)
    scores = loaded.task.scores(loaded.net, units)
    assert np.array_equal(scores, task.scores(trained, units))
    assert len(set(scores.tolist())) > 10


def test_a_loaded_model_carries_its_study_and_its_contract(written: Path) -> None:
    loaded = load(written)
    assert loaded.document == STUDY
    assert loaded.contract == STUDY.contract


def test_fifty_saves_give_the_same_weights_and_the_same_manifest(
    contents: ArtefactContents, tmp_path: Path
) -> None:
    names, weights = set(), set()
    for number in range(50):
        folder = tmp_path / str(number)
        names.add(write(folder, contents, now=NOW + dt.timedelta(days=number)))
        weights.add((folder / "model/weights.safetensors").read_bytes())
    assert len(weights) == len(names) == 1


def test_the_weights_have_no_metadata(written: Path) -> None:
    data = (written / "model/weights.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(header) == {"linear.weight", "linear.bias"}


def test_the_order_of_hospitals_in_memory_does_not_matter(
    contents: ArtefactContents, tmp_path: Path
) -> None:
    other = SiteRecord(public_pem(STEWARD.public_key()), key_id(STEWARD.public_key()))
    both = {"south": other, **contents.sites}
    first = write(tmp_path / "a", replace(contents, sites=both))
    turned = dict(reversed(both.items()))
    assert write(tmp_path / "b", replace(contents, sites=turned)) == first


@pytest.mark.parametrize("change", [{"run": "lab-2"}, {"simulation": True}, {"weights": bytes(24)}])
def test_other_work_is_another_artefact(
    contents: ArtefactContents, written: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    name = digest((written / "manifest.json").read_bytes())
    assert write(tmp_path / "lab-v1", replace(contents, **change)) != name


@pytest.mark.parametrize("name", ["model/weights.safetensors", "training/study.json"])
def test_weights_or_a_study_that_are_not_the_manifests_are_not_loaded(
    copy: Path, name: str
) -> None:
    data = bytearray((copy / name).read_bytes())
    data[-3] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(IntegrityError) as caught:
        load(copy)
    assert caught.value.code == "SB-401"


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[]", b'{"b":1,"a":2}'])
def test_an_artefact_with_a_malformed_manifest_is_not_loaded(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        load(copy)
    assert caught.value.code == "SB-401"


def test_an_artefact_without_a_manifest_is_not_loaded(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(IntegrityError) as caught:
        load(copy)
    assert caught.value.code == "SB-401"


def test_the_study_file_in_an_artefact_is_the_study(written: Path) -> None:
    text = (written / "training/study.toml").read_text(encoding="utf-8")
    assert parse(Study, tomllib.loads(text), source="study.toml") == STUDY.study


def test_every_file_but_manifest_card_and_records_is_in_the_manifest(written: Path) -> None:
    files = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()}
    beside = {
        "manifest.json",
        "README.md",
        "consent/summary.json",
        "model/equivalence.json",
        "permits/index.json",
        "ro-crate-metadata.json",
        "training/rounds.jsonl",
        "training/receipts/001-north.dsse.json",
        "training/receipts/002-north.dsse.json",
        "attestations/model.dsse.json",
    }
    assert set(manifest_of(written)["files"]) == files - beside


def test_no_file_holds_a_patients_id_or_an_exact_count(
    written: Path, hospital: LabHospital
) -> None:
    ids = [row["patient_id"].encode() for row in hospital.rows]
    for path in written.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(patient in data for patient in ids), path
            assert b'"patients":60' not in data
            assert hashlib.sha256(ids[0]).hexdigest().encode() not in data


def test_the_manifest_has_no_clock(written: Path) -> None:
    text = (written / "manifest.json").read_text(encoding="utf-8")
    assert re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None


def test_the_card_names_model_hospital_and_epsilon(written: Path) -> None:
    card = (written / "README.md").read_text(encoding="utf-8")
    epsilon = manifest_of(written)["privacy"]["sites"]["north"]["epsilon"]
    assert f"| north | {epsilon} | 1e-5 |" in card
    assert "Simulation" not in card


def test_the_card_of_a_simulation_says_so(contents: ArtefactContents, tmp_path: Path) -> None:
    write(tmp_path / "lab-v1", replace(contents, simulation=True))
    assert "**Simulation.**" in (tmp_path / "lab-v1/README.md").read_text(encoding="utf-8")


def test_the_statement_charges_the_rounds_that_a_hospital_took_part_in(
    contents: ArtefactContents, written: Path, tmp_path: Path
) -> None:
    first = contents.rounds[0]
    absent = replace(contents.rounds[1], receipts={}, missing=["north"])
    fewer = replace(contents, rounds=[first, absent], charges=contents.charges[:1])
    write(tmp_path / "lab-v1", fewer)
    less = manifest_of(tmp_path / "lab-v1")["privacy"]["sites"]["north"]["epsilon"]
    assert float(less) < float(manifest_of(written)["privacy"]["sites"]["north"]["epsilon"])
