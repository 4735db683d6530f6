"""Before a person says yes: what the study takes from the lifetime budget, and everything that will leave, in words."""

import math
from pathlib import Path
from typing import Any

import pytest

from lab import LabHospital, study_document
from solblom_client.approvals.approval import approval_folder, approve, prepare
from solblom_client.approvals.summary import ApprovalSummary, promise
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.keys.key_files import fingerprint
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument


def summary(hospital: LabHospital, study: StudyDocument) -> ApprovalSummary:
    keys = read_node_keys(hospital.config.state)
    return prepare(hospital.config, keys, hospital.sign(study), now=hospital.clock()).summary


def with_budget(hospital: LabHospital, budget: float) -> None:
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("epsilon_budget")]
    at = lines.index("[policy]") + 1
    file.write_text("\n".join([*lines[:at], f"epsilon_budget = {budget}", *lines[at:]]))
    hospital.config = load_node_config(file)
    hospital.restart()


def trained(hospital: LabHospital, study: StudyDocument, rounds: int) -> None:
    for number in range(1, rounds + 1):
        order = hospital.order(study, run=study.study.study.name, round=number)
        assert isinstance(hospital.ask(order), Result)


def after(hospital: LabHospital, study: StudyDocument) -> float:
    return float(summary(hospital, study).lifetime_after)


# --- The budget


def test_the_lifetime_after_the_study_is_what_its_rounds_then_cost(hospital: LabHospital) -> None:
    study = study_document()
    told = summary(hospital, study)
    hospital.approve(study)
    trained(hospital, study, 3)
    spent = hospital.vault.ledger.lifetime_epsilon(1e-5)
    assert told.lifetime_now == "0.000"
    assert spent <= float(told.lifetime_after) <= spent + 0.001
    assert (told.rounds_to_come, told.rounds_that_fit, told.warnings) == (3, 3, ())


def test_rounds_that_were_charged_are_not_counted_again(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    whole = after(hospital, study)
    trained(hospital, study, 2)
    told = summary(hospital, study)
    assert (told.rounds_to_come, float(told.lifetime_after)) == (1, whole)
    assert 0 < float(told.lifetime_now) < whole


def test_a_study_of_which_a_part_fits_is_approved_with_a_warning(hospital: LabHospital) -> None:
    study = study_document()
    with_budget(hospital, after(hospital, study) - 0.1)
    told = summary(hospital, study)
    assert (told.rounds_to_come, told.rounds_that_fit) == (3, 2)
    (warning,) = told.warnings
    assert warning.startswith("Only 2 of the study's 3 rounds fit the lifetime budget of ")
    hospital.approve(study)
    trained(hospital, study, 2)
    order = hospital.order(study, run="lab", round=3)
    assert getattr(hospital.ask(order), "code", None) == "SB-204"


def test_a_study_of_which_not_one_round_fits_is_not_approved(hospital: LabHospital) -> None:
    first, second = study_document(), study_document(training={"learning_rate": 0.25})
    hospital.approve(first)
    trained(hospital, first, 3)
    with_budget(hospital, hospital.vault.ledger.lifetime_epsilon(1e-5) + 0.01)
    with pytest.raises(RefusedError, match="Not one of the study's 3 rounds fits") as caught:
        hospital.approve(second)
    assert caught.value.code == "SB-204"
    assert not approval_folder(hospital.config, second.digest).exists()


def test_no_row_is_read_for_a_study_that_does_not_fit(
    hospital: LabHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_budget(hospital, 0.01)
    monkeypatch.setattr(
        "solblom_client.approvals.approval.open_source", lambda *_: pytest.fail("read")
    )
    with pytest.raises(RefusedError):
        hospital.approve(study_document())


def test_a_finished_study_may_be_approved_again_though_the_budget_is_used_up(
    hospital: LabHospital,
) -> None:
    study = study_document()
    hospital.approve(study)
    trained(hospital, study, 3)
    with_budget(hospital, hospital.vault.ledger.lifetime_epsilon(1e-5))
    assert summary(hospital, study).warnings == ()


def test_releases_that_do_not_fit_are_said(hospital: LabHospital) -> None:
    change = {"epsilon": 1.0, "variables": ("age", "grade")}
    study = study_document(table_one=change)
    with_budget(hospital, after(hospital, study) - 0.01)
    told = summary(hospital, study)
    assert told.rounds_that_fit == told.rounds_to_come == 3
    assert told.warnings[0].startswith("All rounds fit")
    assert "not all releases" in told.warnings[0]


def test_a_study_without_privacy_says_that_it_uses_up_the_lifetime(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / "north", policy="allow_privacy_off = true")
    told = summary(hospital, study_document(privacy={"epsilon": "off"}))
    assert told.lifetime_after == "inf"
    assert "uses up the lifetime budget for good" in told.warnings[0]
    assert told.promise.startswith("NONE")
    assert "WITHOUT NOISE" in told.leaves[0]


@pytest.mark.parametrize("harm", ["rolled back", "gone", "altered"])
def test_a_ledger_that_its_anchor_does_not_know_stops_the_approval(
    hospital: LabHospital, harm: str
) -> None:
    study, other = study_document(), study_document(training={"learning_rate": 0.25})
    hospital.approve(study)
    state, anchor = hospital.config.state / "vault.sqlite", hospital.folder / "anchor.json"
    trained(hospital, study, 1)
    before = state.read_bytes()
    assert isinstance(hospital.ask(hospital.order(study, run="lab", round=2)), Result)
    hospital.vault.close()
    if harm == "rolled back":
        state.write_bytes(before)
    elif harm == "gone":
        anchor.unlink()
    else:
        anchor.write_bytes(b"{}")
    with pytest.raises(IntegrityError) as caught:
        hospital.approve(other)
    assert caught.value.code == "SB-402"
    assert not approval_folder(hospital.config, other.digest).exists()


# --- The summary


def test_a_person_reads_who_signed_with_the_fingerprint(hospital: LabHospital) -> None:
    shown = fingerprint(hospital.researcher.public_key())
    told = summary(hospital, study_document())
    assert told.signed_by == ({"name": "researcher", "fingerprint": shown},)


def test_a_person_reads_purpose_legal_basis_end_and_patients(hospital: LabHospital) -> None:
    study = study_document()
    told = summary(hospital, study)
    lines = dict(told.lines())
    assert lines["purpose"] == study.study.study.purpose
    assert lines["legal basis"] == study.study.study.legal_basis[0]
    assert lines["ends"] == "2027-12-31"
    assert told.training_patients + told.test_patients == 60
    assert lines["data set"].startswith(f"patients: {told.training_patients} patients for training")
    assert lines["study"] == study.digest


def test_everything_that_leaves_is_a_line(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / "north", policy='named_releases = ["site-auroc"]')
    study = study_document(
        evaluation={"releases": 2, "bins": 12, "named": ("site-auroc",)},
        table_one={"epsilon": 0.5, "variables": ("age", "grade")},
    )
    updates, kept, histograms, table, named = summary(hospital, study).leaves
    assert updates.startswith("3 updates of 6 numbers with noise, each with a signed receipt")
    assert kept.startswith("your updates with their noise are kept in the model folder")
    assert histograms == "2 score histograms of the test patients, 24 counts with noise"
    assert table == "Table 1 of all patients, counts with noise: age, grade"
    assert named == "WITHOUT NOISE, outside epsilon: site-auroc"


@pytest.mark.parametrize(
    ("epsilon", "times"),
    [(0.1, "1.11"), (1.0, "2.72"), (3.0, "20.1"), (8.0, "2,981"), (100.0, "10^44")],
)
def test_a_promise_is_in_words_and_rounded_towards_more_loss(epsilon: float, times: str) -> None:
    text = promise(epsilon, 1e-5)
    assert f"more than {times} times as likely" in text
    assert "probability 1 in 100,000" in text
    assert "delta 1e-5" in text
    if "^" not in times:
        assert float(times.replace(",", "")) >= math.exp(epsilon)


def test_preparing_writes_nothing(hospital: LabHospital) -> None:
    study = study_document()

    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in hospital.folder.rglob("*") if p.is_file()}

    before = files()
    summary(hospital, study)
    assert files() == before


def test_an_approval_returns_what_the_person_was_shown(hospital: LabHospital) -> None:
    study, keys = study_document(), read_node_keys(hospital.config.state)
    shown: Any = summary(hospital, study)
    assert approve(hospital.config, keys, hospital.sign(study), now=hospital.clock()) == shown


# --- A rule that compares hospitals


@pytest.mark.parametrize(
    ("divisor", "warned"), [(5.0, True), (15.0, False), (25.0, False), (100.0, True)]
)
def test_a_hospital_of_quite_another_size_than_a_rule_expects_is_warned(
    hospital: LabHospital, divisor: float, warned: bool
) -> None:
    """About half of some 42 training patients are in a step; by chance of the split a few more or fewer."""
    training = {"strategy": "median", "expected_batch_size": {"north": divisor, "b": 1.0, "c": 1.0}}
    study = study_document(training=training, cohort={"min_nodes": 3, "quorum": 3})
    told = summary(hospital, study)
    expected = 0.5 * told.training_patients
    assert (abs(math.log2(expected / divisor)) > 1) == warned
    (*_, last) = ["", *told.warnings]
    assert (
        f"divides your sums by {divisor:g} patients; about {expected:.0f} of yours" in last
    ) == warned


def test_a_sum_of_another_size_is_no_reason_to_warn(hospital: LabHospital) -> None:
    assert (
        summary(hospital, study_document(training={"expected_batch_size": 4000.0})).warnings == ()
    )
