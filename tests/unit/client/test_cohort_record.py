"""Who was in which round: on disk before training, checked against the receipt, rebuilt years later, never outside."""

import datetime as dt
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from lab import NOW, LabHospital, study_document
from solblom_client import answers as answers_module
from solblom_client.approvals.approval import revoke
from solblom_client.budget.ledger import Ledger
from solblom_client.cohorts.rebuild import find_cohort, rebuild_today
from solblom_client.cohorts.record import (
    FrozenCohort,
    forget_old,
    frozen_cohorts,
    read_manifest,
    rebuild,
)
from solblom_client.policy import load_node_config
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.messages.result import Refusal, Result

STUDY = study_document()


@pytest.fixture
def north(hospital: LabHospital) -> LabHospital:
    hospital.approve(STUDY)
    return hospital


def round_of(hospital: LabHospital, number: int, **changes: Any) -> Result:
    reply = hospital.ask(hospital.order(STUDY, round=number, **changes))
    assert isinstance(reply, Result)
    return reply


def records(hospital: LabHospital) -> list[FrozenCohort]:
    return frozen_cohorts(hospital.vault._state)


def manifests(hospital: LabHospital) -> list[Path]:
    folder = hospital.config.state / "cohorts"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def rebuilt(hospital: LabHospital, record: FrozenCohort) -> Any:
    return rebuild_today(hospital.config, hospital.vault._state, record)


# --- What is kept


def test_a_round_leaves_the_cohort_of_its_receipt(north: LabHospital) -> None:
    receipt = round_of(north, 1).receipt
    (record,) = records(north)
    assert record.cohort == receipt.cohort
    assert (record.study, record.run, record.round) == (STUDY.digest, "lab-1", 1)
    assert record.work == receipt.work
    ids = set(read_manifest(north.vault._state, record))
    assert ids < {row["patient_id"] for row in north.rows}
    assert len(ids) >= 20


def test_a_record_names_the_receipt_with_which_it_left(north: LabHospital) -> None:
    result = round_of(north, 1)
    assert records(north)[0].receipt == result.receipt_digest


def test_the_cohort_is_on_disk_before_the_charge_is_bound_and_before_training(
    north: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def noting(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            seen.append((name, len(records(north)) * len(manifests(north))))
            return real(*args, **options)

        monkeypatch.setattr(owner, name, wrapped)

    noting(Ledger, "reserve")
    noting(Ledger, "bind")
    noting(answers_module, "train")
    round_of(north, 1)
    assert seen == [("reserve", 0), ("bind", 1), ("train", 1)]


def test_where_the_disk_takes_no_record_nothing_is_trained(
    north: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("trained without a record")

    monkeypatch.setattr(answers_module, "train", train)
    (north.config.state / "cohorts").write_text("a file where the folder should be")
    reply = north.ask(north.order(STUDY))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"
    assert north.charges() == 1  # the reservation stays
    assert [entry.status for entry in north.vault.ledger.entries()] == ["reserved"]


def test_a_dropped_update_is_on_record_without_a_receipt(
    north: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = answers_module.train

    def train(*args: Any, **options: Any) -> Any:
        trace = real(*args, **options)
        north.write_consent([f"{row['patient_id']},withdrawn," for row in north.rows[:10]])
        return trace

    monkeypatch.setattr(answers_module, "train", train)
    assert isinstance(north.ask(north.order(STUDY)), Refusal)
    assert [record.receipt for record in records(north)] == [None]


def test_the_same_work_again_adds_no_record(north: LabHospital) -> None:
    round_of(north, 1)
    north.restart()
    round_of(north, 1, attempt=2)
    assert len(records(north)) == 1


def test_rounds_with_the_same_patients_share_a_manifest(north: LabHospital) -> None:
    for number in (1, 2):
        round_of(north, number)
    one, two = records(north)
    assert one.manifest == two.manifest
    assert one.cohort != two.cohort  # each receipt has a salt of its own
    assert len(manifests(north)) == 1


def test_releases_are_on_record_too(north: LabHospital) -> None:
    document = study_document(evaluation={"releases": 1})
    north.approve(document)
    assert isinstance(north.ask(north.evaluation(document)), Result)
    assert [record.kind for record in records(north)] == ["evaluate"]


# --- Where it is kept


def test_a_manifest_is_for_the_nodes_user_alone(north: LabHospital) -> None:
    round_of(north, 1)
    (path,) = manifests(north)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_name_of_a_manifest_is_no_plain_digest_of_its_patients(north: LabHospital) -> None:
    round_of(north, 1)
    from solblom_verify.canonical import digest

    (path,) = manifests(north)
    assert path.stem not in digest(path.read_bytes())


def test_the_text_form_of_a_record_has_neither_key_nor_ids(north: LabHospital) -> None:
    round_of(north, 1)
    (record,) = records(north)
    north.write_rows(north.rows[1:])
    assert record.key.hex() not in repr(record)
    assert "patient" not in repr(rebuilt(north, record)).replace("patients=", "")


# --- Whether it can be built again


def test_the_same_data_rebuild_the_cohort_exactly(north: LabHospital) -> None:
    round_of(north, 1)
    (record,) = records(north)
    found = rebuilt(north, record)
    assert found.exact
    assert found.patients == len(read_manifest(north.vault._state, record))


def test_a_missing_patient_and_a_changed_row_are_named(north: LabHospital) -> None:
    round_of(north, 1)
    (record,) = records(north)
    inside = sorted(read_manifest(north.vault._state, record))
    rows = [dict(row) for row in north.rows if row["patient_id"] != inside[0]]
    for row in rows:
        if row["patient_id"] == inside[1]:
            row["smoker"] = str(1 - int(row["smoker"]))
    north.write_rows(rows)
    found = rebuilt(north, record)
    assert (found.missing, found.changed, found.exact) == ((inside[0],), (inside[1],), False)


def test_later_patients_and_withdrawals_do_not_matter(north: LabHospital) -> None:
    round_of(north, 1)
    (record,) = records(north)
    north.write_rows([*north.rows, north.rows[0] | {"patient_id": "new"}])
    north.write_consent([f"{row['patient_id']},withdrawn," for row in north.rows])
    assert rebuilt(north, record).exact


def test_years_later_neither_approval_nor_noise_root_is_needed(north: LabHospital) -> None:
    receipt = round_of(north, 1).receipt
    revoke(north.config, STUDY.digest)
    north.clock.now = NOW + dt.timedelta(days=3650)
    record = find_cohort(north.vault._state, receipt.work)
    assert rebuilt(north, record).exact


@pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
def test_a_manifest_that_is_not_the_receipts_is_refused(north: LabHospital, damage: str) -> None:
    round_of(north, 1)
    (record,), (path,) = records(north), manifests(north)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            data[:-1] if damage == "cut" else data.replace(b"-patient-", b"-patienT-", 1)
        )
    with pytest.raises(IntegrityError) as caught:
        read_manifest(north.vault._state, record)
    assert caught.value.code == "SB-407"
    assert "patient-" not in caught.value.message


def test_a_damaged_manifest_is_written_anew_by_the_next_round(north: LabHospital) -> None:
    round_of(north, 1)
    manifests(north)[0].write_bytes(b"half")
    round_of(north, 2)
    assert all(read_manifest(north.vault._state, record) for record in records(north))


def test_an_unknown_digest_is_refused(north: LabHospital) -> None:
    with pytest.raises(ConfigurationError):
        find_cohort(north.vault._state, "sha256:" + "0" * 64)


def test_a_node_without_rounds_has_no_record(north: LabHospital) -> None:
    assert records(north) == []


@pytest.mark.parametrize(
    ("today", "missing", "changed"),
    [
        ({"a": "1", "b": "2"}, (), ()),
        ({"a": "1", "b": "2", "c": "3"}, (), ()),
        ({"a": "1"}, ("b",), ()),
        ({"a": "1", "b": "3"}, (), ("b",)),
        ({}, ("a", "b"), ()),
    ],
)
def test_rebuilding_compares_row_by_row(
    today: dict[str, str], missing: tuple[str, ...], changed: tuple[str, ...]
) -> None:
    found = rebuild({"a": "1", "b": "2"}, today)
    assert (found.missing, found.changed) == (missing, changed)


# --- For how long


@pytest.mark.parametrize(("seconds", "left"), [(0, 1), (1, 0)])
def test_what_is_older_than_its_years_is_forgotten(
    north: LabHospital, seconds: int, left: int
) -> None:
    round_of(north, 1)
    state = north.vault._state
    with state.transaction():
        forget_old(state, before=NOW + dt.timedelta(seconds=seconds))
    assert len(records(north)) == left


def test_a_round_forgets_what_is_older_than_node_toml_says(north: LabHospital) -> None:
    round_of(north, 1)
    file = north.folder / "node.toml"
    text = file.read_text().replace("[consent]", "[consent]\ncohort_record_years = 0.01")
    file.write_text(text, encoding="utf-8")
    north.config = load_node_config(file)
    north.restart()
    north.write_rows(north.rows[1:])
    north.clock.advance(days=5)
    round_of(north, 2)
    assert [record.round for record in records(north)] == [2]
    assert len(manifests(north)) == 1


# --- Never outside


def test_nothing_of_the_record_leaves(north: LabHospital) -> None:
    result = round_of(north, 1)
    (record,) = records(north)
    crossed = result.envelope + bytes(result.update)
    assert record.key not in crossed
    assert record.manifest.encode() not in crossed
    assert (
        json.dumps(sorted(read_manifest(north.vault._state, record)))[2:20].encode() not in crossed
    )
