"""What a released histogram says: right without noise, and intervals that keep their promise with it."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from solblom_models.released_metrics import ScoreHistogram, histogram_auroc, released_metrics

BINS = 10


def patients(rng: np.random.Generator, count: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 2, count)
    scores = 1 / (1 + np.exp(-(rng.standard_normal(count) + shift * (labels - 0.5))))
    return labels, scores


def counts_of(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    cells = np.minimum((scores * BINS).astype(int), BINS - 1) + BINS * labels
    return np.bincount(cells, minlength=2 * BINS).astype(np.int64)


def test_without_noise_the_auroc_is_that_of_the_binned_scores() -> None:
    labels, scores = patients(np.random.default_rng(1), 500, 1.5)
    found = histogram_auroc(ScoreHistogram.of(counts_of(labels, scores), deviation=0.0))
    assert found.value == pytest.approx(roc_auc_score(labels, np.floor(scores * BINS)))


def test_without_noise_sensitivity_and_specificity_are_exact() -> None:
    labels, scores = patients(np.random.default_rng(2), 400, 1.5)
    found = released_metrics(ScoreHistogram.of(counts_of(labels, scores), deviation=0.0))
    assert found["sensitivity"] == pytest.approx((scores[labels == 1] >= 0.5).mean(), abs=1e-6)
    assert found["specificity"] == pytest.approx((scores[labels == 0] < 0.5).mean(), abs=1e-6)
    assert found["prevalence"] == pytest.approx(labels.mean(), abs=1e-6)


@pytest.mark.parametrize("shift", [1.5, 3.0])
@pytest.mark.parametrize("deviation", [0.0, 3.0, 8.0])
def test_the_interval_covers_the_populations_auroc_about_as_often_as_it_says(
    deviation: float, shift: float
) -> None:
    rng = np.random.default_rng(3)
    labels, scores = patients(rng, 400_000, shift)
    truth = roc_auc_score(labels, np.floor(scores * BINS))
    hits = 0
    for _ in range(400):
        counts = counts_of(*patients(rng, 270, shift))
        noise = np.rint(deviation * rng.standard_normal(2 * BINS)).astype(np.int64)
        found = histogram_auroc(ScoreHistogram.of(counts + noise, deviation=deviation))
        hits += found.low <= truth <= found.high
    assert hits / 400 >= 0.917  # 95 % wanted; three standard errors below


def test_noise_widens_the_interval() -> None:
    counts = counts_of(*patients(np.random.default_rng(4), 300, 1.0))
    quiet, loud = (histogram_auroc(ScoreHistogram.of(counts, deviation=d)) for d in (0.0, 6.0))
    assert loud.high - loud.low > quiet.high - quiet.low


def test_a_class_that_noise_could_have_made_up_is_not_shown() -> None:
    counts = np.zeros(2 * BINS, dtype=np.int64)
    counts[:BINS] = 30
    counts[BINS] = 12
    found = released_metrics(ScoreHistogram.of(counts, deviation=4.0))
    assert found["auroc"] is None
    assert "with the outcome" in found["reason"]


def test_counts_below_zero_do_no_harm() -> None:
    counts = counts_of(*patients(np.random.default_rng(5), 300, 4.0))
    counts[0:3] -= 9
    found = released_metrics(ScoreHistogram.of(counts, deviation=3.0))
    assert 0.0 <= found["auroc_interval"][0] <= found["auroc"] <= found["auroc_interval"][1] <= 1.0


def test_a_perfect_model_has_an_interval_too() -> None:
    counts = np.zeros(2 * BINS, dtype=np.int64)
    counts[0], counts[-1] = 80, 70
    found = released_metrics(ScoreHistogram.of(counts, deviation=1.0))
    assert found["auroc"] == 1.0
    assert found["auroc_interval"][0] < 1.0
