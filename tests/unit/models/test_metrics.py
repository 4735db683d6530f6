"""Metrics: DeLong's interval against its definition, its coverage, and when nothing is shown."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from solblom_models.metrics import (
    accuracy,
    auroc,
    auroc_with_interval,
    average_precision,
    average_precision_with_interval,
    brier,
    calibration_error,
)


def made_up(
    positives: int, negatives: int, *, seed: int, levels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores; with `levels`, few distinct scores and so many ties."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(1.0, 1.0, positives), rng.normal(0.0, 1.0, negatives)])
    labels = np.repeat([1, 0], [positives, negatives]).astype(np.int64)
    return labels, scores if levels is None else np.round(scores * levels) / levels


def wins(positive: float, negative: float) -> float:
    return 1.0 if positive > negative else 0.5 if positive == negative else 0.0


def slow_interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """DeLong, DeLong & Clarke-Pearson 1988, term by term over all pairs; logit interval of Pepe 2003."""
    positive, negative = scores[labels == 1].tolist(), scores[labels == 0].tolist()
    m, n = len(positive), len(negative)
    area = sum(wins(x, y) for x, y in itertools.product(positive, negative)) / (m * n)
    v10 = [sum(wins(x, y) for y in negative) / n for x in positive]
    v01 = [sum(wins(x, y) for x in positive) / m for y in negative]
    s10 = sum((v - area) ** 2 for v in v10) / (m - 1)
    s01 = sum((v - area) ** 2 for v in v01) / (n - 1)
    spread = 1.959963984540054 * math.sqrt(s10 / m + s01 / n) / (area * (1 - area))
    logit = math.log(area / (1 - area))
    return area, 1 / (1 + math.exp(spread - logit)), 1 / (1 + math.exp(-logit - spread))


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "tied"])
@pytest.mark.parametrize(("positives", "negatives"), [(5, 5), (8, 40), (30, 12)])
def test_the_interval_is_delongs_over_all_pairs(
    positives: int, negatives: int, levels: int | None
) -> None:
    labels, scores = made_up(positives, negatives, seed=positives, levels=levels)
    found = auroc_with_interval(labels, scores)
    assert (found.value, found.low, found.high) == pytest.approx(slow_interval(labels, scores))


def test_nineteen_of_twenty_intervals_hold_the_true_area() -> None:
    true_area = 0.5 * (1 + math.erf(0.5))  # one standard deviation apart: Phi(1 / sqrt 2)
    trials, inside = 2000, 0
    for seed in range(trials):
        found = auroc_with_interval(*made_up(30, 40, seed=seed))
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= true_area <= found.high
    # 95 % of 2000, with four standard deviations (0.5 %) of luck.
    assert abs(inside / trials - 0.95) < 0.02


@pytest.mark.parametrize(("positives", "negatives"), [(4, 50), (50, 4), (0, 9), (9, 0)])
def test_no_area_is_shown_where_a_class_is_too_small(positives: int, negatives: int) -> None:
    found = auroc_with_interval(*made_up(positives, negatives, seed=1))
    assert not found.shown
    assert (found.value, found.low, found.high) == (None, None, None)


@pytest.mark.parametrize(("positives", "negatives", "reason"), [(9, 2, "2 well"), (3, 9, "3 ill")])
def test_the_reason_counts_the_smaller_class(positives: int, negatives: int, reason: str) -> None:
    found = auroc_with_interval(*made_up(positives, negatives, seed=1))
    assert found.not_shown_because(positive="ill", negative="well") == reason


def test_five_of_each_class_are_enough() -> None:
    assert auroc_with_interval(*made_up(5, 5, seed=1)).shown


@pytest.mark.parametrize("better", [1, 0])
def test_a_perfect_or_perfectly_wrong_area_still_has_a_width(better: int) -> None:
    labels = np.repeat([1, 0], 10).astype(np.int64)
    found = auroc_with_interval(labels, (labels == better).astype(np.float64))
    width = 1 - 0.05 ** (1 / 10)  # rule of three on ten patients
    expected = (1.0, 1 - width, 1.0) if better else (0.0, 0.0, width)
    assert (found.value, found.low, found.high) == pytest.approx(expected)


def test_equal_scores_for_everybody_are_an_area_of_one_half() -> None:
    labels = np.repeat([1, 0], 10).astype(np.int64)
    assert auroc(labels, np.full(20, 0.3)) == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite scores"):
        auroc(np.array([0, 1]), np.array([0.1, bad]))


def test_scores_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        auroc(np.array([0, 1]), np.array([0.1]))


def test_an_area_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        auroc(np.array([1, 1]), np.array([0.1, 0.2]))


def test_brier_is_zero_for_the_truth_and_one_for_its_opposite() -> None:
    labels = np.array([0, 1, 1])
    assert brier(labels, labels.astype(np.float64)) == 0.0
    assert brier(labels, 1.0 - labels) == 1.0


def test_a_score_at_the_threshold_counts_as_yes() -> None:
    assert accuracy(np.array([1, 0]), np.array([0.5, 0.49])) == 1.0


class TestAveragePrecision:
    @staticmethod
    def sample(ties: bool) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(3)
        labels = (generator.random(200) < 0.2).astype(np.int64)
        scores = generator.random(200) + 0.4 * labels
        return labels, np.round(scores, 1) if ties else scores

    @pytest.mark.parametrize("ties", [False, True])
    def test_it_is_scikit_learns(self, ties: bool) -> None:
        labels, scores = self.sample(ties)
        assert average_precision(labels, scores) == pytest.approx(
            average_precision_score(labels, scores)
        )

    def test_its_interval_holds_it_and_narrows_with_patients(self) -> None:
        labels, scores = self.sample(ties=False)
        few = average_precision_with_interval(labels, scores)
        many = average_precision_with_interval(np.tile(labels, 9), np.tile(scores, 9))
        assert few is not None
        assert many is not None
        assert few.low < few.value < few.high
        assert many.high - many.low < 0.5 * (few.high - few.low)

    def test_it_is_not_shown_for_a_handful(self) -> None:
        assert (
            average_precision_with_interval(np.array([1, 0, 0]), np.array([0.1, 0.2, 0.3])) is None
        )


def test_calibration_error_is_the_mean_gap_by_parts() -> None:
    labels = np.array([1, 1, 0, 0])
    assert calibration_error(labels, np.array([0.95, 0.95, 0.05, 0.05])) == pytest.approx(0.05)
    assert calibration_error(labels, np.full(4, 0.5)) == 0.0
    assert calibration_error(labels, np.array([0.05, 0.05, 0.95, 0.95])) == pytest.approx(0.95)
