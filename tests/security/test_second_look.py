"""Attacks on the repairs: the anchor outside the state folder, restored backups, two couriers in one process."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from lab import LabHospital, study_document
from security.observer import Observer
from solblom_client import answers as answers_module
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved."""
    document = study_document()
    observer.hospital.approve(document)
    return document


def anchor_of(hospital: LabHospital) -> Path:
    return hospital.config.path(str(hospital.config.node.anchor))


def back_up(hospital: LabHospital) -> bytes:
    return (hospital.config.state / "vault.sqlite").read_bytes()


def restore(hospital: LabHospital, backup: bytes) -> None:
    hospital.vault.close()
    (hospital.config.state / "vault.sqlite").write_bytes(backup)
    hospital.vault = hospital.open_vault()


# --- The anchor


def test_a_missing_anchor_of_a_ledger_with_charges_stops_the_node(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    for number in (1, 2):
        assert isinstance(hospital.ask(hospital.order(study, round=number)), Result)
    anchor_of(hospital).unlink()
    observer.assert_refused(hospital.order(study, round=3), "SB-214")


def test_a_charge_that_the_anchor_does_not_know_trains_nothing(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    anchor_of(hospital).with_suffix(".partial").mkdir()
    assert isinstance(hospital.ask(hospital.order(study)), Refusal)
    assert isinstance(hospital.ask(hospital.order(study, attempt=2)), Refusal)
    assert observer.reads == []


def test_an_anchor_that_was_altered_stops_the_node(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    anchor_of(hospital).write_bytes(b"{}")
    observer.assert_refused(hospital.order(study, round=2), "SB-214")


def test_a_ledger_of_the_same_length_but_other_charges_stops_the_node(
    observer: Observer, study: StudyDocument, tmp_path: Path
) -> None:
    hospital, other = observer.hospital, LabHospital(tmp_path / "other")
    other.approve(study)
    for each, run in ((hospital, "one"), (other, "another")):
        assert isinstance(each.ask(each.order(study, run=run)), Result)
    anchor_of(hospital).write_bytes(anchor_of(other).read_bytes())
    observer.assert_refused(hospital.order(study, run="one", round=2), "SB-214")


def test_a_restored_backup_never_gives_two_updates_for_one_charge(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    hospital.write_rows(hospital.rows[:5])
    assert isinstance(hospital.ask(hospital.order(study)), Refusal)
    backup = back_up(hospital)
    hospital.write_rows(hospital.rows)
    first = hospital.ask(hospital.order(study, attempt=2))
    restore(hospital, backup)
    hospital.write_rows([*hospital.rows[:-20], *hospital.rows[-10:]])
    second = hospital.ask(hospital.order(study, attempt=3))
    updates = {reply.update for reply in (first, second) if isinstance(reply, Result)}
    assert len(updates) <= hospital.charges()


def test_a_restored_folder_with_an_older_approval_is_no_approval_of_today(
    observer: Observer, study: StudyDocument, tmp_path: Path
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    backup = tmp_path / "backup"
    shutil.copytree(hospital.config.state, backup)
    assert isinstance(hospital.ask(hospital.order(study, round=2)), Result)
    hospital.vault.close()
    shutil.rmtree(hospital.config.state)
    shutil.copytree(backup, hospital.config.state)
    hospital.vault = hospital.open_vault()
    observer.assert_refused(hospital.order(study, round=3), "SB-214")


# --- Two couriers in one process


def test_an_order_that_waits_never_hides_that_another_one_failed_over_the_rows(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, waiter = observer.hospital, threading.Event()

    def train(*_: Any, **__: Any) -> None:
        courier.start()
        waiter.wait(5)
        waiter.clear()
        waiter.wait(0.3)  # the second order is at the lock by now
        raise RuntimeError("over the rows")

    def second() -> None:
        waiter.set()
        hospital.vault.process(b"anything")

    courier = threading.Thread(target=second)
    monkeypatch.setattr(answers_module, "train", train)
    refusal = hospital.ask(hospital.order(study))
    courier.join()
    assert isinstance(refusal, Refusal)
    assert (refusal.code, observer.strikes(study.digest)) == ("SB-209", 1)
