"""The vault's promises on honest orders: same work same bytes, other work other noise, one charge each."""

from typing import Any

import numpy as np
import pytest

from lab import LabHospital, study_document
from solblom_client.state import VaultState
from solblom_models.accountant import pld_epsilon
from solblom_protocol.messages.layout import is_on_grid, unpack
from solblom_protocol.messages.result import Refusal, Result
from solblom_server.rounds.rounds import initial_model


def result(reply: Result | Refusal) -> Result:
    assert isinstance(reply, Result), reply
    return reply


def test_an_honest_order_gives_an_update_and_one_charge(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    reply = result(hospital.ask(hospital.order(study)))
    assert reply.receipt.privacy_event() == study.round_event
    assert hospital.charges() == 1
    assert hospital.vault.ledger.entries()[0].status == "spent"


def test_an_update_lies_on_the_public_grid(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    reply = result(hospital.ask(hospital.order(study)))
    assert is_on_grid(unpack(reply.update, initial_model(study)[1]))


def test_the_same_work_again_gives_the_same_bytes_and_no_new_charge(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    order = hospital.order(study)
    first = hospital.vault.process(order)
    hospital.restart()
    assert hospital.vault.process(order) == first
    assert hospital.vault.process(hospital.order(study, attempt=2)) == first
    assert hospital.charges() == 1


@pytest.mark.parametrize(
    "change",
    [
        {"run": "lab-2"},
        {"round": 2},
        {"array": np.full(6, 0.25, dtype="<f4").tobytes()},
    ],
    ids=["run", "round", "model"],
)
def test_other_work_gets_independent_noise_and_a_new_charge(
    hospital: LabHospital, change: dict[str, Any]
) -> None:
    study = study_document(privacy={"epsilon": 0.05}, training={"rounds": 3})
    hospital.approve(study)
    first = result(hospital.ask(hospital.order(study)))
    if "array" in change:
        change = {**change, "attempt": 2}
    second = result(hospital.ask(hospital.order(study, **change)))
    assert first.receipt.work != second.receipt.work
    assert first.receipt.noise_commitment != second.receipt.noise_commitment
    # At epsilon 0.05 the updates are nearly all noise: equal noise would show as equal updates.
    a, b = (np.frombuffer(r.update, dtype="<f4") for r in (first, second))
    assert np.abs(a - b).min() > 0
    assert hospital.charges() == 2


def test_only_the_newest_reply_of_a_run_is_kept_and_what_a_crash_left_is_swept(
    hospital: LabHospital,
) -> None:
    study = study_document()
    hospital.approve(study)
    replies = hospital.config.state / "replies"
    hospital.ask(hospital.order(study))
    (first,) = replies.iterdir()
    (replies / f"{'0' * 64}.{'1' * 64}.reply").write_bytes(b"left by a crash")
    hospital.ask(hospital.order(study, round=2))
    (second,) = replies.iterdir()
    assert first != second


def test_a_stored_reply_that_was_changed_on_disk_is_not_given_out(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    before = hospital.ask(hospital.order(study))
    (file,) = (hospital.config.state / "replies").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    again = hospital.ask(hospital.order(study, attempt=2))
    assert isinstance(before, Result)
    assert isinstance(again, Result)
    assert again.update == before.update  # the same work draws the same noise
    assert hospital.charges() == 2


def test_a_crash_while_a_reply_is_erased_leaves_no_file(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_document()
    hospital.approve(study)
    hospital.ask(hospital.order(study))
    store = hospital.vault._store
    ((request,),) = hospital.vault._state.query("SELECT request FROM results")
    with monkeypatch.context() as broken:
        broken.setattr(VaultState, "transaction", _crash)
        with pytest.raises(RuntimeError, match="power"):
            store.erase_reply(str(request))
    assert not list((hospital.config.state / "replies").iterdir())


def _crash(self: VaultState) -> None:
    raise RuntimeError("power cut")


def test_a_changed_cohort_erases_the_stored_reply_and_is_charged_again(
    hospital: LabHospital,
) -> None:
    study = study_document()
    hospital.approve(study)
    first = result(hospital.ask(hospital.order(study)))
    training = {row["patient_id"] for row in hospital.rows}
    hospital.write_consent([f"{patient},withdrawn," for patient in sorted(training)[:10]])
    second = result(hospital.ask(hospital.order(study, attempt=2)))
    assert second.receipt.work != first.receipt.work
    assert second.update != first.update
    assert hospital.charges() == 2


def test_a_changed_setting_is_another_study_with_independent_noise(hospital: LabHospital) -> None:
    first_study, second_study = study_document(), study_document(training={"learning_rate": 0.25})
    for study in (first_study, second_study):
        hospital.approve(study)
    first = result(hospital.ask(hospital.order(first_study)))
    second = result(hospital.ask(hospital.order(second_study, run="lab-2")))
    a, b = (np.frombuffer(r.update, dtype="<f4") for r in (first, second))
    assert not np.allclose(a, 2 * b, rtol=1e-3)
    assert hospital.charges() == 2


def test_the_order_of_rows_in_the_table_changes_nothing(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    order = hospital.order(study)
    first = hospital.vault.process(order)
    hospital.write_rows(hospital.rows[::-1])
    assert hospital.vault.process(order) == first


def test_a_crash_after_the_reservation_counts_once_and_the_retry_gives_the_reserved_work(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_document()
    hospital.approve(study)
    with monkeypatch.context() as broken:
        broken.setattr("solblom_client.answers.train", _explode)
        refusal = hospital.ask(hospital.order(study))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "SB-209"
    assert [entry.status for entry in hospital.vault.ledger.entries()] == ["reserved"]
    result(hospital.ask(hospital.order(study, attempt=2)))
    assert [entry.status for entry in hospital.vault.ledger.entries()] == ["spent"]


def test_a_run_of_all_rounds_spends_the_promised_epsilon_and_not_more(
    hospital: LabHospital,
) -> None:
    study = study_document()
    hospital.approve(study)
    for number in (1, 2, 3):
        result(hospital.ask(hospital.order(study, round=number)))
    spent = pld_epsilon([entry.event for entry in hospital.vault.ledger.entries()], 1e-5)
    assert 1.99 < spent <= 2.0
    refusal = hospital.ask(hospital.order(study, run="lab-2"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "SB-204"
    assert hospital.charges() == 3


def _explode(*_: object, **__: object) -> None:
    raise RuntimeError("PATIENT=secret42")
