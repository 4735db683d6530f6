"""What a hospital's data say stays inside: named codes at approval, one outside code and three strikes afterwards."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import NOW, LabHospital, study_document
from security.observer import PLANTED, Observer
from solblom_client import answers as answers_module
from solblom_client import vault as vault_module
from solblom_client.cli import app
from solblom_client.keys import is_test_patient, read_node_keys
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.errors import DataError
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong with a hospital's data, and its code inside."""

    name: str
    code: str
    spoil: Callable[[LabHospital], None]


def _rows(change: Callable[[Rows], Rows]) -> Callable[[LabHospital], None]:
    return lambda hospital: hospital.write_rows(change([dict(r) for r in hospital.rows]))


def _cell(column: str, value: str) -> Callable[[LabHospital], None]:
    return _rows(lambda rows: [rows[0] | {column: value}, *rows[1:]])


def _without(column: str) -> Callable[[LabHospital], None]:
    return _rows(lambda rows: [{k: v for k, v in r.items() if k != column} for r in rows])


def _file(name: str, data: bytes | None) -> Callable[[LabHospital], None]:
    def spoil(hospital: LabHospital) -> None:
        path = hospital.folder / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    return spoil


def _ragged(hospital: LabHospital) -> None:
    with (hospital.folder / "patients.csv").open("a", encoding="utf-8") as file:
        file.write(f"{PLANTED},40\n")


def _stale_consent(hospital: LabHospital) -> None:
    os.utime(hospital.folder / "consent.csv", (0, 0))
    _edit(hospital, "max_age_hours = 10000000", "max_age_hours = 24")


def _edit(hospital: LabHospital, old: str, new: str) -> None:
    Observer(hospital).edit_config(old, new)


FLAWS = (
    Flaw("missing-column", "SB-301", _without("age")),
    Flaw("missing-target", "SB-301", _without("ill")),
    Flaw("missing-id-column", "SB-301", _without("patient_id")),
    Flaw("text-for-a-number", "SB-302", _cell("age", PLANTED)),
    Flaw("unknown-level", "SB-302", _cell("grade", PLANTED)),
    Flaw("unknown-boolean", "SB-302", _cell("smoker", PLANTED)),
    Flaw("unknown-label", "SB-302", _cell("ill", PLANTED)),
    Flaw("missing-label", "SB-302", _cell("ill", "")),
    Flaw("missing-id", "SB-302", _cell("patient_id", " ")),
    Flaw("row-of-another-length", "SB-302", _ragged),
    Flaw("above-the-range", "SB-303", _cell("age", "121")),
    Flaw("not-a-finite-number", "SB-302", _cell("age", "nan")),
    Flaw("infinite-number", "SB-303", _cell("age", "1e999")),
    Flaw("patient-twice", "SB-304", _rows(lambda rows: [*rows, rows[0]])),
    Flaw("one-class", "SB-305", _rows(lambda rows: [r | {"ill": "1"} for r in rows])),
    Flaw("too-few-patients", "SB-306", _rows(lambda rows: rows[:9])),
    Flaw("no-patients", "SB-306", _rows(lambda _: [])),
    Flaw("empty-file", "SB-307", _file("patients.csv", b"")),
    Flaw("no-file", "SB-307", _file("patients.csv", None)),
    Flaw("not-utf-8", "SB-307", _file("patients.csv", b"patient_id\xff\n" + PLANTED.encode())),
    Flaw("open-quote", "SB-307", _file("patients.csv", b'patient_id,age\n"' + PLANTED.encode())),
    Flaw("no-consent", "SB-308", _file("consent.csv", None)),
    Flaw("unreadable-consent", "SB-308", _file("consent.csv", b"\xff" + PLANTED.encode())),
    Flaw(
        "consent-without-columns", "SB-308", _file("consent.csv", b"patient\n" + PLANTED.encode())
    ),
    Flaw("empty-consent-file", "SB-308", _file("consent.csv", b"")),
    Flaw("stale-consent", "SB-308", _stale_consent),
)
EVERY_FLAW = pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.name)


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """A hospital with a planted patient, and the laboratory's study, not approved yet."""
    observer.hospital.rows[0]["patient_id"] = PLANTED
    observer.hospital.write_rows(observer.hospital.rows)
    return study_document()


def training_patients(hospital: LabHospital) -> list[str]:
    split = read_node_keys(hospital.config.state).split
    ids = [row["patient_id"] for row in hospital.rows]
    return [patient for patient in ids if not is_test_patient(split, patient, 0.3)]


def during_training(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen at the hospital while the real training runs."""
    real = answers_module.train

    def train(*args: Any, **kwargs: Any) -> Any:
        trace = real(*args, **kwargs)
        happens()
        return trace

    monkeypatch.setattr(answers_module, "train", train)


# --- At approval: codes with names, for the people inside


@EVERY_FLAW
def test_a_flaw_of_the_data_has_its_own_code_at_approval_and_names_no_patient(
    observer: Observer, study: StudyDocument, flaw: Flaw
) -> None:
    flaw.spoil(observer.hospital)
    with pytest.raises(DataError) as error:
        observer.hospital.approve(study)
    assert error.value.code == flaw.code
    assert PLANTED not in f"{error.value} {error.value.hint}"


def test_data_that_were_refused_leave_no_approval(observer: Observer, study: StudyDocument) -> None:
    FLAWS[0].spoil(observer.hospital)
    with pytest.raises(DataError):
        observer.hospital.approve(study)
    observer.hospital.write_rows(observer.hospital.rows)
    observer.assert_refused(observer.hospital.order(study), "SB-203")


def test_a_task_that_mixes_patients_is_found_at_approval(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TabularClassification.losses

    def mixed(self: TabularClassification, model: Any, batch: Any) -> Any:
        losses = real(self, model, batch)
        return losses * losses.mean()

    monkeypatch.setattr(TabularClassification, "losses", mixed)
    with pytest.raises(DataError) as error:
        observer.hospital.approve(study)
    assert error.value.code == "SB-309"


# --- At an order: one code for all


@EVERY_FLAW
def test_a_flaw_of_the_data_is_one_code_outside_and_keeps_its_reservation(
    observer: Observer, study: StudyDocument, flaw: Flaw
) -> None:
    observer.hospital.approve(study)
    flaw.spoil(observer.hospital)
    observer.assert_data_refused(observer.hospital.order(study))
    assert observer.hospital.charges() == 1
    assert observer.strikes(study.digest) == 1


def test_a_refused_round_keeps_one_charge_however_often_it_is_asked(
    observer: Observer, study: StudyDocument
) -> None:
    observer.hospital.approve(study)
    FLAWS[0].spoil(observer.hospital)
    for attempt in (1, 2, 3):
        observer.assert_data_refused(observer.hospital.order(study, attempt=attempt))
    assert observer.hospital.charges() == 1


def test_three_data_refusals_stop_the_study_even_when_the_data_are_repaired(
    observer: Observer, study: StudyDocument
) -> None:
    observer.hospital.approve(study)
    for attempt, flaw in enumerate((FLAWS[0], FLAWS[5], FLAWS[-2]), start=1):
        flaw.spoil(observer.hospital)
        observer.assert_data_refused(observer.hospital.order(study, attempt=attempt))
    observer.hospital.write_rows(observer.hospital.rows)
    observer.hospital.write_consent([])
    observer.hospital.restart()
    observer.assert_refused(observer.hospital.order(study, attempt=4), "SB-210")
    observer.assert_refused(observer.hospital.order(study, run="another"), "SB-210")


def test_strikes_of_one_study_do_not_stop_another(observer: Observer, study: StudyDocument) -> None:
    other = study_document(study={"title": "Another study"})
    observer.hospital.approve(study)
    observer.hospital.approve(other)
    FLAWS[0].spoil(observer.hospital)
    for attempt in (1, 2, 3):
        observer.assert_data_refused(observer.hospital.order(study, attempt=attempt))
    observer.hospital.write_rows(observer.hospital.rows)
    reply = observer.hospital.ask(observer.hospital.order(other, run="other"))
    assert isinstance(reply, Result)


def test_a_stopped_study_goes_on_when_a_person_approves_it_again(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = observer.hospital
    hospital.approve(study)
    FLAWS[0].spoil(hospital)
    for attempt in (1, 2, 3):
        observer.assert_data_refused(hospital.order(study, attempt=attempt))
    hospital.write_rows(hospital.rows)
    signed = hospital.folder / "study.signed.json"
    signed.write_bytes(hospital.sign(study))
    monkeypatch.setattr(vault_module, "utc_now", lambda: NOW)
    typed = CliRunner().invoke(app, ["approve", str(signed), str(hospital.folder)])
    assert typed.exit_code == 0, typed.output
    assert isinstance(hospital.ask(hospital.order(study, attempt=4)), Result)


def test_a_study_that_is_approved_again_with_flawed_data_stays_stopped(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = observer.hospital
    hospital.approve(study)
    FLAWS[0].spoil(hospital)
    for attempt in (1, 2, 3):
        observer.assert_data_refused(hospital.order(study, attempt=attempt))
    signed = hospital.folder / "study.signed.json"
    signed.write_bytes(hospital.sign(study))
    monkeypatch.setattr(vault_module, "utc_now", lambda: NOW)
    assert CliRunner().invoke(app, ["approve", str(signed), str(hospital.folder)]).exit_code == 1
    observer.assert_refused(hospital.order(study, attempt=4), "SB-210")


# --- Withdrawal


def test_consent_withdrawn_during_training_drops_the_update_and_keeps_the_charge(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = observer.hospital
    hospital.approve(study)
    patient = training_patients(hospital)[0]
    with monkeypatch.context() as meanwhile:
        during_training(meanwhile, lambda: hospital.write_consent([f"{patient},withdrawn,"]))
        observer.assert_data_refused(hospital.order(study))
    assert hospital.charges() == 1
    assert isinstance(hospital.ask(hospital.order(study, attempt=2)), Result)
    assert hospital.charges() == 2


def test_consent_that_became_unreadable_during_training_drops_the_update(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer.hospital.approve(study)
    during_training(monkeypatch, lambda: _file("consent.csv", None)(observer.hospital))
    observer.assert_data_refused(observer.hospital.order(study))


def test_a_changed_cohort_erases_the_stored_reply_even_when_the_budget_is_spent(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    hospital.approve(study)
    for number in (1, 2, 3):
        assert isinstance(hospital.ask(hospital.order(study, round=number)), Result)
    patient = training_patients(hospital)[1]
    hospital.write_consent([f"{patient},withdrawn,"])
    observer.refusal(hospital.order(study, round=3, attempt=2))
    assert hospital.vault._state.query("SELECT count(*) FROM results") == [(0,)]
    assert not list((hospital.config.state / "replies").iterdir())


def test_a_stored_reply_is_not_given_out_when_consent_cannot_be_read(
    observer: Observer, study: StudyDocument
) -> None:
    observer.hospital.approve(study)
    assert isinstance(observer.hospital.ask(observer.hospital.order(study)), Result)
    _file("consent.csv", None)(observer.hospital)
    assert observer.refusal(observer.hospital.order(study, attempt=2))["code"] == "SB-209"


def test_a_spent_budget_does_not_tell_whether_one_patient_changed(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    hospital.approve(study)
    for number in (1, 2, 3):
        assert isinstance(hospital.ask(hospital.order(study, round=number)), Result)
    patient = training_patients(hospital)[1]
    hospital.write_consent([f"{patient},withdrawn,"])
    assert observer.refusal(hospital.order(study, round=3, attempt=2))["code"] == "SB-209"
    assert observer.strikes(study.digest) == 1
