"""Releases under attack: no second Table 1, no evaluation too many, no patient read out of a count."""

from typing import Any

import numpy as np
import pytest

from lab import LabHospital, study_document
from security.observer import PLANTED, Observer
from security.test_data_refusals import training_patients
from solblom_client.approvals.approval import approve
from solblom_client.keys import read_node_keys
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.errors import ConfigurationError, RefusedError
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument, parse_document
from solblom_server.rounds.releases import CountSum
from solblom_verify.canonical import canonical_json, parse_canonical
from unit.client.test_releases import releasing


@pytest.fixture
def patients() -> int:
    """Enough that ten are left for testing whatever the split key."""
    return 160


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    document = releasing()
    observer.hospital.approve(document)
    observer.reads.clear()
    return document


def model(value: float) -> bytes:
    return np.full(6, value, dtype="<f4").tobytes()


def test_an_evaluation_beyond_the_approved_number_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    observer.assert_refused(observer.hospital.evaluation(study, round=3), "SB-205")


def test_more_models_than_releases_are_refused_over_all_runs(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    for number in (1, 2):
        order = hospital.evaluation(study, run=f"run-{number}", array=model(number / 4))
        assert isinstance(hospital.ask(order), Result)
    observer.assert_refused(hospital.evaluation(study, run="run-3", array=model(1.0)), "SB-204")


def test_cheap_evaluations_are_limited_in_number_too(observer: Observer) -> None:
    """The cap on their number holds where the budget alone would admit more."""
    hospital = observer.hospital
    cheap = releasing(evaluation={"releases": 1, "epsilon": 0.6})
    hospital.approve(cheap)
    assert isinstance(hospital.ask(hospital.evaluation(cheap)), Result)
    observer.assert_refused(hospital.evaluation(cheap, run="b", array=model(0.5)), "SB-204")


def test_a_second_table_one_after_the_cohort_changed_says_nothing_about_the_change(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.description(study)), Result)
    hospital.write_rows(hospital.rows[1:])
    assert observer.refusal(hospital.description(study, attempt=2))["code"] == "SB-209"
    assert hospital.charges() == 1


def test_an_answer_that_a_changed_cohort_alters_counts_as_a_refusal(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    trained = training_patients(hospital)
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    for attempt in (2, 3, 4):
        gone = set(
            trained[: attempt - 1]
        )  # one patient more each time, of those who were trained on
        hospital.write_rows([row for row in hospital.rows if row["patient_id"] not in gone])
        hospital.ask(hospital.order(study, attempt=attempt))
        assert observer.strikes(study.digest) == attempt - 1
    observer.assert_refused(hospital.order(study, attempt=5), "SB-210")


def test_an_altered_answer_whose_strike_cannot_be_noted_does_not_leave(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    gone = training_patients(hospital)[0]
    hospital.write_rows([row for row in hospital.rows if row["patient_id"] != gone])
    full = "CREATE TRIGGER full BEFORE INSERT ON strikes BEGIN SELECT RAISE(ABORT, 'full'); END"
    hospital.vault._state._connection.execute(full)
    assert observer.refusal(hospital.order(study, attempt=2))["code"] == "SB-209"
    assert hospital.vault._state.query("SELECT count(*) FROM results")[0][0] == 0
    assert hospital.charges() == 2
    observer.assert_refused(hospital.order(study, attempt=3), "SB-210")


@pytest.fixture
def named_study(observer: Observer) -> StudyDocument:
    """A study that releases everything it can, with a planted patient in every cell of the way."""
    hospital = observer.hospital
    for row in hospital.rows:
        row["patient_id"] = f"{PLANTED}-{row['patient_id']}"
    hospital.write_rows(hospital.rows)
    observer.edit_config("[consent]", 'named_releases = ["site-auroc"]\n[consent]')
    document = releasing(evaluation={"releases": 1, "named": ["site-auroc"]})
    hospital.approve(document)
    observer.reads.clear()
    return document


def test_no_patient_and_no_file_is_named_in_what_a_release_carries(
    observer: Observer, named_study: StudyDocument
) -> None:
    hospital = observer.hospital
    for order in (hospital.evaluation(named_study), hospital.description(named_study)):
        reply = hospital.vault.process(order)
        assert isinstance(hospital.read(reply), Result)
        observer.assert_silent(observer.crossed(reply))


@pytest.mark.parametrize("method", ["scores", "table_one_counts"])
def test_the_text_of_an_exception_over_a_release_stays_inside(
    observer: Observer,
    named_study: StudyDocument,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError(f"row of {PLANTED}")

    monkeypatch.setattr(TabularClassification, method, explode)
    hospital = observer.hospital
    order = hospital.evaluation if method == "scores" else hospital.description
    assert observer.refusal(order(named_study))["code"] == "SB-209"
    assert PLANTED in observer.log()[-1]["trace"]


@pytest.mark.parametrize("kind", ["evaluate", "describe"])
def test_a_study_that_releases_nothing_answers_no_query(observer: Observer, kind: str) -> None:
    hospital, silent = observer.hospital, study_document()
    hospital.approve(silent)
    observer.reads.clear()
    order = hospital.evaluation(silent) if kind == "evaluate" else hospital.description(silent)
    observer.assert_refused(order, "SB-205")


@pytest.mark.parametrize(
    "changes",
    [
        {"array": b"\x00" * 24},
        {"layout": [{"name": "linear.weight", "shape": [1, 5]}]},
        {"round": 2},
        {"noise": "shared"},
    ],
)
def test_an_order_for_table_one_that_carries_more_is_refused(
    observer: Observer, study: StudyDocument, changes: dict[str, Any]
) -> None:
    reply = observer.refusal(observer.hospital.description(study, **changes))
    assert reply["code"] in {"SB-205", "SB-212"}
    assert not observer.reads


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_is_not_evaluated(
    observer: Observer, study: StudyDocument, value: float
) -> None:
    observer.assert_refused(observer.hospital.evaluation(study, array=model(value)), "SB-212")


def test_weights_that_overflow_for_some_patients_still_give_an_answer_of_the_same_size(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    reply = hospital.ask(hospital.evaluation(study, array=model(3e38)))
    assert isinstance(reply, Result)
    assert len(reply.update) == 8 * 20


def test_no_row_is_read_before_a_release_is_reserved(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    assert isinstance(hospital.ask(hospital.evaluation(study)), Result)
    assert isinstance(hospital.ask(hospital.description(study)), Result)
    assert all("reserved" in statuses for statuses in observer.reads)
    assert len(observer.reads) == 2


def test_a_test_set_below_the_hospitals_threshold_is_not_evaluated(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    hospital.write_rows(hospital.rows[:12])
    observer.assert_data_refused(hospital.evaluation(study))


def test_a_named_release_that_the_policy_does_not_list_is_not_approved(
    hospital: LabHospital,
) -> None:
    named = releasing(evaluation={"releases": 1, "named": ["site-auroc"]})
    keys = read_node_keys(hospital.config.state)
    with pytest.raises(RefusedError, match="site-auroc") as caught:
        approve(hospital.config, keys, hospital.sign(named), now=hospital.clock())
    assert caught.value.code == "SB-205"


def test_less_noise_than_the_releases_promise_is_not_approved(hospital: LabHospital) -> None:
    honest = parse_canonical(releasing().payload())
    assert isinstance(honest, dict)
    document = parse_document(canonical_json(honest | {"evaluation_noise": "0.5000"}))
    keys = read_node_keys(hospital.config.state)
    with pytest.raises(RefusedError, match="releases") as caught:
        approve(hospital.config, keys, hospital.sign(document), now=hospital.clock())
    assert caught.value.code == "SB-204"


@pytest.mark.parametrize(
    "change", [{"evaluation_noise": None}, {"table_one_noise": None}, {"table_one_noise": "0.1000"}]
)
def test_a_signed_study_whose_noise_does_not_fit_its_releases_is_no_study(
    change: dict[str, Any],
) -> None:
    honest = parse_canonical(releasing().payload())
    assert isinstance(honest, dict)
    with pytest.raises(ConfigurationError):
        parse_document(canonical_json(honest | change))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 159,
        b"\x00" * 161,
        b"\x00" * 184,
        np.full(20, 2**41, dtype="<i8").tobytes(),
        np.full(20, -(2**63), dtype="<i8").tobytes(),
    ],
)
def test_the_coordinator_adds_no_malformed_release(data: bytes) -> None:
    found = CountSum(20, ())
    with pytest.raises(Exception, match="release"):
        found.add("north", data)
    assert not found.total.any()


def test_the_coordinator_takes_no_named_value_outside_zero_to_one() -> None:
    found = CountSum(2, ("site-auroc",))
    values = np.array([0.9, np.nan, 1.0], dtype="<f8").tobytes()
    with pytest.raises(Exception, match="named value"):
        found.add("north", bytes(16) + values)
