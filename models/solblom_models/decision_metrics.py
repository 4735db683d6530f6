"""Figures of a yes or no, and intervals that resample patients with all their tiles.

A row is a tile, or a patient where each has one row. Tiles of a patient resemble each other, so an interval over tiles
would be too narrow: patients are drawn, each with all rows (cluster bootstrap; Field & Welsh 2007). scikit-learn is the
oracle of every figure in the tests.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solblom_models.metrics import (
    BOOTSTRAP_SEED,
    MIN_CLASS,
    Estimate,
    Labels,
    Scores,
    bootstrapped,
)

SPECIFICITY = 0.95
RESAMPLES = 1_000
MOST_DROPPED = 0.1
"""With a larger share of resamples of one class no interval is shown: it would be about the others only."""

Decisions = NDArray[np.bool_]
Counts = NDArray[np.float64]
"""How often each row counts, whole numbers, shape (T,): ones for the data themselves, others in a resample."""
Measure = Callable[[Counts], float | None]
"""A figure of rows that count so often; None where they are of one class."""


class Curve:
    """What follows from the order of scores; rows with the same score are on the same side of every threshold."""

    def __init__(self, labels: Labels, scores: Scores) -> None:
        """Sort once.

        Args:
            labels: 0 or 1, shape (T,).
            scores: shape (T,).

        Raises:
            ValueError: lengths differ, or a score is not finite.
        """
        if labels.shape != scores.shape or not bool(np.isfinite(scores).all()):
            raise ValueError("labels and finite scores of the same length are needed")
        self._order = np.argsort(-scores, kind="stable")
        falling = scores[self._order]
        self._starts = np.flatnonzero(np.diff(falling, prepend=np.nan) != 0)
        self._positive = labels[self._order] == 1

    def auroc(self, counts: Counts) -> float | None:
        """Return the probability that a positive scores above a negative; ties count half."""
        sums = self._sums(counts)
        if sums is None:
            return None
        positive, negative = sums
        below = negative.sum() - np.cumsum(negative)
        won = float((positive * (below + negative / 2)).sum())
        return won / float(positive.sum() * negative.sum())

    def average_precision(self, counts: Counts) -> float | None:
        """Return the mean precision over positives, without interpolation, as `metrics.average_precision`."""
        sums = self._sums(counts)
        if sums is None:
            return None
        positive, negative = sums
        hits = np.cumsum(positive)
        above = hits + np.cumsum(negative)
        precision = np.divide(hits, above, out=np.zeros_like(hits), where=above > 0)
        return float((precision * positive).sum() / hits[-1])

    def sensitivity(self, counts: Counts) -> float | None:
        """Return the highest sensitivity of a threshold whose specificity is at least `SPECIFICITY`.

        The threshold is one of the scores, or above all of them (sensitivity 0). Nothing is interpolated between
        thresholds, and rows with the same score are all above or all below: a step of the ROC curve that crosses the
        specificity is not taken.
        """
        sums = self._sums(counts)
        if sums is None:
            return None
        positive, negative = sums
        # 1e-9: (1 - .95) * 20 is a hair off 1 in binary numbers, and one false positive in 20 is allowed.
        allowed = math.floor((1.0 - SPECIFICITY) * float(negative.sum()) + 1e-9)
        steps = int(np.searchsorted(np.cumsum(negative), allowed, side="right"))
        return float(positive[:steps].sum() / positive.sum())

    def _sums(self, counts: Counts) -> tuple[Counts, Counts] | None:
        """Return how often positives and negatives count, by distinct score from the highest."""
        drawn = counts[self._order]
        positive = np.add.reduceat(np.where(self._positive, drawn, 0.0), self._starts)
        negative = np.add.reduceat(np.where(self._positive, 0.0, drawn), self._starts)
        return (positive, negative) if positive.any() and negative.any() else None


class Decided:
    """What follows from each row's yes or no."""

    def __init__(self, labels: Labels, yes: Decisions) -> None:
        """Say which row is right.

        Args:
            labels: 0 or 1, shape (T,).
            yes: what was decided, shape (T,).

        Raises:
            ValueError: lengths differ.
        """
        if labels.shape != yes.shape:
            raise ValueError("labels and decisions of the same length are needed")
        self._cells = 2 * labels + yes

    def balanced_accuracy(self, counts: Counts) -> float | None:
        """Return the mean of sensitivity and specificity."""
        table = self._table(counts)
        if table is None:
            return None
        true_no, false_yes, false_no, true_yes = table
        return (true_yes / (true_yes + false_no) + true_no / (true_no + false_yes)) / 2

    def f1(self, counts: Counts) -> float | None:
        """Return the harmonic mean of precision and sensitivity; 0 where no yes is right."""
        table = self._table(counts)
        if table is None:
            return None
        _, false_yes, false_no, true_yes = table
        return 2 * true_yes / (2 * true_yes + false_yes + false_no)

    def kappa(self, counts: Counts) -> float | None:
        """Return Cohen's kappa: agreement of decision and label beyond what their shares of yes give by chance."""
        table = self._table(counts)
        if table is None:
            return None
        true_no, false_yes, false_no, true_yes = table
        rows = sum(table)
        by_chance = (true_yes + false_yes) * (true_yes + false_no)
        by_chance += (true_no + false_no) * (true_no + false_yes)
        chance = by_chance / rows**2
        return ((true_yes + true_no) / rows - chance) / (1 - chance)

    def _table(self, counts: Counts) -> tuple[float, float, float, float] | None:
        """Return how often each cell counts: true no, false yes, false no, true yes."""
        found = np.bincount(self._cells, weights=counts, minlength=4).tolist()
        no, false_yes, false_no, yes = found
        return (no, false_yes, false_no, yes) if no + false_yes and false_no + yes else None


def sensitivity_at_specificity(labels: Labels, scores: Scores) -> float:
    """Return the sensitivity at 95 % specificity; `Curve.sensitivity` says how ties are handled.

    Raises:
        ValueError: only one class, or lengths differ, or a score is not finite.
    """
    return _of_all(Curve(labels, scores).sensitivity, len(labels))


def balanced_accuracy(labels: Labels, yes: Decisions) -> float:
    """Return the mean of sensitivity and specificity.

    Raises:
        ValueError: only one class, or lengths differ.
    """
    return _of_all(Decided(labels, yes).balanced_accuracy, len(labels))


def f1(labels: Labels, yes: Decisions) -> float:
    """Return the harmonic mean of precision and sensitivity; 0 where no yes is right.

    Raises:
        ValueError: only one class, or lengths differ.
    """
    return _of_all(Decided(labels, yes).f1, len(labels))


def kappa(labels: Labels, yes: Decisions) -> float:
    """Return Cohen's kappa of decisions and labels (Cohen 1960).

    Raises:
        ValueError: only one class, or lengths differ.
    """
    return _of_all(Decided(labels, yes).kappa, len(labels))


def _of_all(measure: Measure, rows: int) -> float:
    value = measure(np.ones(rows)) if rows else None
    if value is None:
        raise ValueError("both classes are needed")
    return value


def best_threshold(labels: Labels, scores: Scores) -> float:
    """Return the threshold with the highest balanced accuracy on these rows; yes is a score at or above it.

    Candidates lie halfway between neighbouring scores. Of equally good ones the nearest to 0.5 is taken, the lower of
    two as near. 0.5 where rows are of one class or no candidate beats saying the same to all.
    """
    values = np.unique(scores)
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if len(values) < 2 or not len(positive) or not len(negative):
        return 0.5
    lower, upper = values[:-1], values[1:]
    middle = (lower + upper) / 2
    # Between two neighbours of the number line the middle is one of them, and must not let the lower one in.
    candidates = np.where(middle > lower, middle, upper)
    true_yes = len(positive) - np.searchsorted(positive, candidates, side="left")
    false_yes = len(negative) - np.searchsorted(negative, candidates, side="left")
    # Youden's index times both sizes: whole numbers, so that equal ones are equal.
    gained = true_yes * len(negative) - false_yes * len(positive)
    if gained.max() <= 0:
        return 0.5
    best = candidates[gained == gained.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


@dataclass(frozen=True)
class Clustered:
    """A figure with its 95 % interval over patients, or the reason why none is shown.

    Attributes:
        estimate: None where there is a reason.
        dropped: how many resamples were of one class, and did not count.
        reason: such as `3 patients with a positive tile`.
    """

    estimate: Estimate | None
    dropped: int = 0
    reason: str | None = None


def patient_bootstrap(
    measures: Mapping[str, Measure],
    labels: Labels,
    patients: NDArray[np.int64],
    *,
    positive: str,
    negative: str,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> dict[str, Clustered]:
    """Return each figure with the 2.5th and 97.5th percentile of its resamples; all see the same resamples.

    As many patients as there are, drawn with replacement, each with all rows. A difference of two models is a measure
    like any other (`difference`), and so is paired. Percentiles are a little narrow with few patients: in the tests'
    made-up data they hold the truth in 92 of 100 cases with 40 patients, in 95 with 100.

    Args:
        measures: by name.
        labels: 0 or 1, shape (T,).
        patients: whose each row is, shape (T,).
        positive: patients with a positive row, in words; with fewer than MIN_CLASS no figure is shown.
        negative: those with a negative row.
        resamples: how many.
        seed: public; the same data give the same interval.
    """
    for label, words in ((0, negative), (1, positive)):
        found = len(np.unique(patients[labels == label]))
        if found < MIN_CLASS:
            return dict.fromkeys(measures, Clustered(None, reason=f"{found} {words}"))
    _, rows = np.unique(patients, return_inverse=True)
    count = int(rows.max()) + 1
    generator, drawn = np.random.default_rng(seed), {name: list[float]() for name in measures}
    for _ in range(resamples):
        often = np.bincount(generator.integers(0, count, count), minlength=count)
        counts = often[rows].astype(np.float64)
        for name, measure in measures.items():
            value = measure(counts)
            if value is not None:
                drawn[name].append(value)
    whole = np.ones(len(rows))
    return {name: _clustered(m(whole), drawn[name], resamples) for name, m in measures.items()}


def _clustered(value: float | None, drawn: list[float], resamples: int) -> Clustered:
    dropped = resamples - len(drawn)
    if value is None or dropped > MOST_DROPPED * resamples:
        return Clustered(None, dropped, f"{dropped} of {resamples} resamples have one class")
    return Clustered(bootstrapped(value, np.array(drawn)), dropped)


def difference(ours: Measure, theirs: Measure) -> Measure:
    """Return ours minus theirs on the same rows."""

    def measure(counts: Counts) -> float | None:
        one, other = ours(counts), theirs(counts)
        return None if one is None or other is None else one - other

    return measure
