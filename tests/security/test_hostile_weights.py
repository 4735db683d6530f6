"""The coordinator chooses the model that a hospital trains on. It must not become a question about one patient."""

from typing import Any

import numpy as np
import pytest

from lab import LabHospital, study_document
from security.observer import Observer
from solblom_client.keys import is_test_patient, read_node_keys
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument

WEIGHT = {"name": "linear.weight", "shape": [1, 5]}
BIAS = {"name": "linear.bias", "shape": [1]}

# age, smoker, grade a, b, c, bias: +inf for the old, -inf for grade a; NaN for whoever is both.
OLD_WITH_GRADE_A = [3e38, 0.0, -3e38, 0.0, 0.0, 0.0]


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """A study in which every patient takes part in every step, approved."""
    document = study_document(privacy={"sampling_rate": 1.0})
    observer.hospital.approve(document)
    return document


def packed(values: list[float]) -> bytes:
    with np.errstate(over="ignore"):
        return np.array(values, dtype="<f4").tobytes()


def kind_of_answer(reply: Result | Refusal) -> str:
    return reply.code if isinstance(reply, Refusal) else "result"


def change_one_patient(hospital: LabHospital, **values: str) -> None:
    """Replace the values of one training patient in a table of otherwise equal patients."""
    split = read_node_keys(hospital.config.state).split
    rows = [row | {"age": "40", "grade": "b"} for row in hospital.rows]
    chosen = next(row for row in rows if not is_test_patient(split, row["patient_id"], 0.3))
    chosen.update(values)
    hospital.write_rows(rows)


@pytest.mark.parametrize(
    "layout",
    [
        [WEIGHT | {"name": "linear.weights"}, BIAS],
        [WEIGHT | {"shape": [5, 1]}, BIAS],
        [WEIGHT | {"shape": [6]}],
        [WEIGHT, BIAS, {"name": "extra", "shape": [1]}],
        [BIAS, WEIGHT],
        [WEIGHT],
        [],
        [WEIGHT | {"shape": [True, 5]}, BIAS],
    ],
    ids=["renamed", "shape", "merged", "extra", "swapped", "missing", "empty", "true-for-one"],
)
def test_another_layout_than_the_approved_net_is_refused(
    observer: Observer, study: StudyDocument, layout: list[dict[str, Any]]
) -> None:
    observer.assert_refused(observer.hospital.order(study, layout=layout), "SB-212")


@pytest.mark.parametrize("count", [0, 1, 5, 7, 600])
def test_weights_of_another_length_than_the_layout_are_refused(
    observer: Observer, study: StudyDocument, count: int
) -> None:
    observer.assert_refused(observer.hospital.order(study, array=bytes(4 * count)), "SB-212")


@pytest.mark.parametrize("length", [23, 25])
def test_weights_that_end_inside_a_number_are_refused(
    observer: Observer, study: StudyDocument, length: int
) -> None:
    observer.assert_refused(observer.hospital.order(study, array=bytes(length)), "SB-212")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", [0, 5])
def test_weights_that_are_not_finite_are_refused(
    observer: Observer, study: StudyDocument, value: float, position: int
) -> None:
    values = [0.0] * 6
    values[position] = value
    observer.assert_refused(observer.hospital.order(study, array=packed(values)), "SB-212")


@pytest.mark.parametrize(
    "weights",
    [
        [1e30] * 6,
        [-1e30, 1e30] * 3,
        OLD_WITH_GRADE_A,
    ],
    ids=["huge", "huge-with-signs", "overflow-for-chosen-patients"],
)
def test_one_patient_never_changes_whether_hostile_weights_get_an_update_or_a_refusal(
    observer: Observer, study: StudyDocument, weights: list[float]
) -> None:
    hospital = observer.hospital
    change_one_patient(hospital)
    without = hospital.ask(hospital.order(study, array=packed(weights), run="without"))
    change_one_patient(hospital, age="90", grade="a")
    present = hospital.ask(hospital.order(study, array=packed(weights), run="with"))
    assert kind_of_answer(present) == kind_of_answer(without)


def test_an_update_that_the_export_gate_stops_counts_as_a_refusal_that_depends_on_data(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solblom_client.export_gate.norm_bound", lambda *_: -1.0)
    observer.assert_data_refused(observer.hospital.order(study))
    assert observer.strikes(study.digest) == 1


def test_huge_weights_are_charged_like_any_other_order(
    observer: Observer, study: StudyDocument
) -> None:
    reply = observer.hospital.ask(observer.hospital.order(study, array=packed([1e30] * 6)))
    assert kind_of_answer(reply) in ("result", "SB-212")
    assert observer.hospital.charges() == (1 if isinstance(reply, Result) else 0)


def test_every_weight_file_of_one_round_has_its_own_charge(observer: Observer) -> None:
    study = study_document()
    observer.hospital.approve(study)
    codes = []
    for attempt in range(1, 6):
        values = packed([attempt / 16] * 6)
        reply = observer.hospital.ask(observer.hospital.order(study, array=values, attempt=attempt))
        codes.append(kind_of_answer(reply))
    assert codes == ["result"] * 3 + ["SB-204"] * 2
    assert observer.hospital.charges() == 3
