"""What a new model gains on the same patients: paired intervals, and two tests where patients are independent.

scikit-learn and scipy are the oracles of the tests.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.comparison.pair import ScoredPair
from solblom_models.comparison.small_groups import shown_parts
from solblom_models.decision_metrics import (
    Clustered,
    Counts,
    Curve,
    Measure,
    difference,
    patient_bootstrap,
)
from solblom_models.metrics import MIN_CLASS, Estimate, Labels, Scores, placements

DISCORDANT = MIN_CLASS
"""With fewer patients on whom only one model is right, no test is shown: it would count them out."""


def performance(
    pair: ScoredPair, *, threshold: float, resamples: int, seed: int
) -> dict[str, Any] | None:
    """Return AUROC, average precision and Brier score of both models and new minus old, each with a 95 % interval.

    All figures see the same resamples of whole clusters, so differences are paired. None without labels.

    Args:
        pair: of the two models.
        threshold: yes at or above it, for McNemar's test.
        resamples: of the bootstrap.
        seed: public.
    """
    if pair.labels is None:
        return None
    labels = pair.labels
    found = patient_bootstrap(
        _measures(labels, pair),
        labels,
        pair.clusters,
        positive="",
        negative="",
        resamples=resamples,
        seed=seed,
    )
    some = next(iter(found.values()))
    shown: dict[str, Any] = {"reason": _too_few(labels, pair) or some.reason}
    for figure in ("auroc", "auprc", "brier"):
        shown[figure] = {part: listed(found[f"{figure} {part}"]) for part in _PARTS}
    independent = len(np.unique(pair.clusters)) == len(pair.ids)
    tested = independent and shown["reason"] is None
    shown["delong_p"] = delong_p_value(labels, pair.old, pair.new) if tested else None
    old_right = (pair.old >= threshold) == (labels == 1)
    new_right = (pair.new >= threshold) == (labels == 1)
    shown["mcnemar"] = mcnemar(old_right, new_right) if tested else None
    if not independent:
        shown["tests"] = f"not shown: patients of one {pair.unit} are not independent"
    return shown


_PARTS = ("old", "new", "difference")


def _too_few(labels: Labels, pair: ScoredPair) -> str | None:
    """Return the class that has too few clusters for a figure, without how few."""
    for label, words in ((1, "with the outcome"), (0, "without the outcome")):
        if len(np.unique(pair.clusters[labels == label])) < MIN_CLASS:
            many = "patients" if pair.unit == "patient" else f"groups by {pair.unit}"
            return f"fewer than {MIN_CLASS} {many} {words}"
    return None


def _measures(labels: Labels, pair: ScoredPair) -> dict[str, Measure]:
    old, new = Curve(labels, pair.old), Curve(labels, pair.new)
    both: dict[str, tuple[Measure, Measure]] = {
        "auroc": (old.auroc, new.auroc),
        "auprc": (old.average_precision, new.average_precision),
        "brier": (_brier(labels, pair.old), _brier(labels, pair.new)),
    }
    found: dict[str, Measure] = {}
    for name, measures in both.items():
        ours, theirs = (_Once(measure) for measure in measures)
        found[f"{name} old"], found[f"{name} new"] = ours, theirs
        found[f"{name} difference"] = difference(theirs, ours)
    return found


class _Once:
    """A measure that is worked out once for a resample, though it is asked for its value and for a difference."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._counts: Counts | None = None
        self._value: float | None = None

    def __call__(self, counts: Counts) -> float | None:
        if (
            counts is not self._counts
        ):  # the array is kept, so that no other one can stand in its place
            self._counts, self._value = counts, self._measure(counts)
        return self._value


def _brier(labels: Labels, scores: Scores) -> Measure:
    squares = (scores - labels) ** 2

    def measure(counts: Counts) -> float | None:
        return float((squares * counts).sum() / counts.sum())

    return measure


def listed(found: Clustered | Estimate | None) -> list[float] | None:
    """Return value, low and high with six decimals."""
    estimate = found.estimate if isinstance(found, Clustered) else found
    if estimate is None:
        return None
    return [round(x, 6) + 0.0 for x in (estimate.value, estimate.low, estimate.high)]


def delong_p_value(labels: Labels, old: Scores, new: Scores) -> float | None:
    """Return the two-sided p-value of equal AUROCs on the same patients; None where their difference has no variance.

    DeLong, DeLong & Clarke-Pearson 1988, with the placements of both models.
    """
    by_positive, by_negative = [], []
    for scores in (old, new):
        positive, negative = scores[labels == 1], scores[labels == 0]
        by_positive.append(placements(positive, negative))
        by_negative.append(1.0 - placements(negative, positive))
    over_positive = by_positive[1] - by_positive[0]
    over_negative = by_negative[1] - by_negative[0]
    gained = float(over_positive.mean())
    variance = float(
        over_positive.var(ddof=1) / len(over_positive)
        + over_negative.var(ddof=1) / len(over_negative)
    )
    if variance <= 0.0:
        return 1.0 if gained == 0.0 else None
    return round(math.erfc(abs(gained) / math.sqrt(2.0 * variance)), 6)


def mcnemar(old_right: NDArray[np.bool_], new_right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return McNemar's exact test of being right equally often, and on how many patients only one model is right."""
    only_old = int((old_right & ~new_right).sum())
    only_new = int((new_right & ~old_right).sum())
    total = only_old + only_new
    if 0 < total < DISCORDANT:
        words = f"fewer than {DISCORDANT} patients on whom only one model is right"
        return {"p": None, "only_old_right": None, "only_new_right": None, "reason": words}
    tail = sum(math.comb(total, k) for k in range(min(only_old, only_new) + 1))
    p = min(1.0, 2 * tail / 2**total)
    old_count, new_count = shown_parts(only_old, only_new)
    return {
        "p": round(p, 6),
        "only_old_right": old_count,
        "only_new_right": new_count,
        "reason": None,
    }
