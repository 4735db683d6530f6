"""How well a model tells patients apart, with intervals. scikit-learn is the oracle of every metric in the tests."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_CLASS = 5
"""Fewer patients of a class than this and no AUROC is shown: it would be noise with two decimals."""

Z95 = 1.959963984540054
BOOTSTRAP_SEED = 20261124

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Auroc:
    """An area under the ROC curve with a 95 % interval, or the reason why none is shown."""

    value: float | None
    low: float | None
    high: float | None
    positives: int
    negatives: int

    @property
    def shown(self) -> bool:
        """Whether there were enough patients of both classes."""
        return self.value is not None

    def not_shown_because(self, *, positive: str, negative: str) -> str:
        """Return the reason in words, such as `2 without disease`."""
        if self.negatives < MIN_CLASS:
            return f"{self.negatives} {negative}"
        return f"{self.positives} {positive}"


def auroc(labels: Labels, scores: Scores) -> float:
    """Return the probability that a positive scores above a negative; ties count half (Mann-Whitney).

    Raises:
        ValueError: only one class, or lengths differ, or a score is not finite.
    """
    positive, negative = _by_class(labels, scores)
    return float(placements(positive, negative).mean())


def auroc_with_interval(labels: Labels, scores: Scores) -> Auroc:
    """Return AUROC with DeLong's 95 % interval on the logit scale, which stays within 0 and 1.

    Variance: DeLong, DeLong & Clarke-Pearson 1988. Logit scale: Pepe 2003, section 5.2. An area of
    exactly 1 (or 0) has no variance; the interval then comes from the rule of three on the smaller
    class.
    """
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    if min(positives, negatives) < MIN_CLASS:
        return Auroc(None, None, None, positives, negatives)
    positive, negative = _by_class(labels, scores)
    over_negatives = placements(positive, negative)
    over_positives = 1.0 - placements(negative, positive)
    value = float(over_negatives.mean())
    variance = float(
        over_negatives.var(ddof=1) / positives + over_positives.var(ddof=1) / negatives
    )
    low, high = logit_interval(value, variance, min(positives, negatives))
    return Auroc(value, low, high, positives, negatives)


def average_precision(labels: Labels, scores: Scores) -> float:
    """Return the area under the precision-recall curve as the mean precision over positives, without interpolation.

    Patients with the same score enter together; no straight lines between points (Davis & Goadrich 2006).

    Raises:
        ValueError: only one class, or lengths differ, or a score is not finite.
    """
    positive, _ = _by_class(labels, scores)
    falling = -np.sort(-scores)
    thresholds = np.unique(positive)[::-1]
    above = np.searchsorted(-falling, -thresholds, side="right").astype(np.float64)
    ordered = np.sort(positive)
    hits = (len(ordered) - np.searchsorted(ordered, thresholds, side="left")).astype(np.float64)
    gained = np.diff(hits, prepend=0.0) / len(positive)
    return float((hits / above * gained).sum())


def average_precision_with_interval(
    labels: Labels, scores: Scores, *, resamples: int = 500, seed: int = BOOTSTRAP_SEED
) -> Estimate | None:
    """Return the average precision with a 95 % bootstrap interval over patients; None below MIN_CLASS of a class.

    Classes are resampled apart, so that every resample has both.
    """
    where = [np.flatnonzero(labels == label) for label in (0, 1)]
    if min(len(part) for part in where) < MIN_CLASS:
        return None
    value, generator, drawn = average_precision(labels, scores), np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = np.concatenate([generator.choice(part, len(part)) for part in where])
        drawn.append(average_precision(labels[chosen], scores[chosen]))
    return bootstrapped(value, np.array(drawn))


def bootstrapped(value: float, drawn: NDArray[np.float64]) -> Estimate:
    """Return a value with the 95 % percentile interval of its resamples, which always holds it."""
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (value, value)
    return Estimate(value, min(float(low), value), max(float(high), value))


def calibration_error(labels: Labels, scores: Scores, *, bins: int = 10) -> float:
    """Return the expected calibration error: the mean gap of probability and outcome over equal parts of [0, 1].

    Each part counts by its patients (Naeini et al. 2015). 0 for nobody.
    """
    if not len(labels):
        return 0.0
    cells = np.minimum((np.clip(scores, 0.0, 1.0) * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(cells, weights=scores - labels, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def brier(labels: Labels, scores: Scores) -> float:
    """Return the mean squared difference between probability and outcome (Brier 1950)."""
    return float(np.mean((scores - labels) ** 2))


def accuracy(labels: Labels, scores: Scores, *, threshold: float = 0.5) -> float:
    """Return the share of patients on the right side of `threshold`."""
    return float(np.mean((scores >= threshold) == (labels == 1)))


def _by_class(labels: Labels, scores: Scores) -> tuple[Scores, Scores]:
    if labels.shape != scores.shape or not bool(np.isfinite(scores).all()):
        raise ValueError("labels and finite scores of the same length are needed")
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        raise ValueError("both classes are needed")
    return positive, negative


def placements(these: Scores, others: Scores) -> NDArray[np.float64]:
    """Return for each of `these` the share of `others` below it, ties half. O(n log n)."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, these, side="left")
    not_above = np.searchsorted(ordered, these, side="right")
    return np.asarray((below + not_above) / (2.0 * len(others)), dtype=np.float64)


def logit_interval(value: float, variance: float, smaller: int) -> tuple[float, float]:
    """Return a 95 % interval for a share in [0, 1]; at the edges the rule of three on `smaller` cases."""
    if variance <= 0.0 or value in (0.0, 1.0):
        edge = 1.0 - 0.05 ** (1.0 / smaller)
        return (max(0.0, value - edge), min(1.0, value + edge))
    logit = math.log(value / (1.0 - value))
    spread = Z95 * math.sqrt(variance) / (value * (1.0 - value))
    return _logistic(logit - spread), _logistic(logit + spread)


def _logistic(x: float) -> float:
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))
