"""Metrics against scikit-learn, the oracle, for any labels and scores, ties included."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from solblom_models.metrics import accuracy, auroc, auroc_with_interval, brier

# Few distinct scores: most pairs tie.
tied = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
patients = st.lists(st.tuples(st.integers(0, 1), tied | st.floats(0, 1)), min_size=2, max_size=60)


def arrays_of(drawn: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([label for label, _ in drawn], dtype=np.int64)
    return labels, np.array([score for _, score in drawn], dtype=np.float64)


@given(patients)
def test_auroc_is_that_of_scikit_learn(drawn: list[tuple[int, float]]) -> None:
    labels, scores = arrays_of(drawn)
    assume(0 < labels.sum() < len(labels))
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(patients)
def test_turning_all_scores_round_turns_auroc_round(drawn: list[tuple[int, float]]) -> None:
    labels, scores = arrays_of(drawn)
    assume(0 < labels.sum() < len(labels))
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


@given(patients)
def test_brier_is_that_of_scikit_learn(drawn: list[tuple[int, float]]) -> None:
    labels, scores = arrays_of(drawn)
    assume(0 < labels.sum() < len(labels))
    assert brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)


@given(patients, st.floats(0, 1))
def test_accuracy_is_that_of_scikit_learn(drawn: list[tuple[int, float]], threshold: float) -> None:
    labels, scores = arrays_of(drawn)
    expected = accuracy_score(labels, scores >= threshold)
    assert accuracy(labels, scores, threshold=threshold) == pytest.approx(expected)


@given(patients)
def test_an_interval_holds_its_area_and_stays_within_zero_and_one(
    drawn: list[tuple[int, float]],
) -> None:
    found = auroc_with_interval(*arrays_of(drawn))
    if found.value is None or found.low is None or found.high is None:
        assert min(found.positives, found.negatives) < 5
        return
    assert 0 <= found.low <= found.value <= found.high <= 1
