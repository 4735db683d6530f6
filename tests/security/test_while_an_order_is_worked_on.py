"""What changes while an order is worked on, or when a process dies in between: no answer, and nothing forgotten."""

from pathlib import Path

import pytest

from lab import LabHospital, study_document
from solblom_client import vault as vault_module
from solblom_client.approvals.approval import revoke
from solblom_client.log.decision_log import log_place, read_entries
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.result import Refusal, Result


@pytest.fixture
def approved(tmp_path: Path) -> LabHospital:
    hospital = LabHospital(tmp_path / "north")
    hospital.approve(study_document())
    return hospital


def test_a_study_that_is_revoked_during_training_gives_no_answer(
    approved: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_document()
    honest = vault_module.Answers.to

    def train_and_revoke(self: object, *arguments: object) -> object:
        answer = honest(self, *arguments)  # type: ignore[arg-type]
        revoke(approved.config, study.digest)
        return answer

    monkeypatch.setattr(vault_module.Answers, "to", train_and_revoke)
    reply = approved.ask(approved.order(study))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"
    assert approved.charges() == 1


def test_a_log_that_cannot_be_written_costs_no_charge(approved: LabHospital) -> None:
    study = study_document()
    place = log_place(approved.config)
    checkpoint = next(path for path in (approved.config.state / "log").glob("checkpoint*"))
    checkpoint.write_text("not a note", encoding="utf-8")
    for round_number in range(3):
        reply = approved.ask(approved.order(study, run=f"lab-{round_number}"))
        assert isinstance(reply, Refusal)
    assert approved.charges() == 0
    assert place is not None


def test_a_death_between_erasing_and_answering_anew_avoids_no_strike(
    approved: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, order = study_document(), None
    order = approved.order(study)
    assert isinstance(approved.ask(order), Result)
    approved.write_rows(approved.rows[:-3])

    def die(self: object, *arguments: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vault_module.Answers, "to", die)
        with pytest.raises(KeyboardInterrupt):
            approved.vault.process(order)
    approved.restart()
    assert isinstance(approved.ask(order), Result)
    assert approved.vault._store.strikes(study.digest) == 1


def test_an_answer_is_logged_before_it_can_leave(
    approved: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_document()
    order = approved.order(study)

    def full(self: object, *arguments: object, **options: object) -> None:
        raise IntegrityError("SB-402", "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(vault_module.Store, "keep_receipt", full)
        assert isinstance(approved.ask(order), Refusal)
    entries = "".join(read_entries(log_place(approved.config)))
    assert entries.count('"released"') == 1
    approved.restart()
    approved.vault.clear_strikes(study.digest)
    assert isinstance(approved.ask(order), Result)
    entries = "".join(read_entries(log_place(approved.config)))
    assert entries.count('"released"') == 2
