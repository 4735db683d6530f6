"""What a released score histogram says about a model, with intervals that know of the noise.

The coordinator has counts of test patients by class and score, with integer noise of known size, and
nothing else (privacy.md rule 9). Every interval covers both: which patients happened to be there, and
the noise. Bins cost some resolution: patients in one bin count as tied.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.metrics import MIN_CLASS, Z95, logit_interval

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreHistogram:
    """Noisy counts of patients by score: shape (B,) each, bins are equal parts of [0, 1].

    `deviation` is the standard deviation of the noise on each count, all hospitals' noise together.
    """

    negatives: Counts
    positives: Counts
    deviation: float

    @classmethod
    def of(cls, counts: NDArray[np.int64], *, deviation: float) -> "ScoreHistogram":
        """Split the counts of a release, shape (2B,): first those without, then those with."""
        half = len(counts) // 2
        values = counts.astype(np.float64)
        return cls(values[:half], values[half:], deviation)

    @property
    def too_noisy(self) -> str | None:
        """Why nothing can be said, or None: a class that the noise alone could have made up."""
        needed = max(MIN_CLASS, 3.0 * self.deviation * math.sqrt(len(self.positives)))
        for name, counts in (("without", self.negatives), ("with", self.positives)):
            if counts.sum() < needed:
                return (
                    f"fewer than {math.ceil(needed)} patients {name} the outcome beside this noise"
                )
        return None


def histogram_auroc(histogram: ScoreHistogram) -> Estimate:
    """Return the AUROC with an interval on the logit scale.

    Sampling variance: DeLong, DeLong & Clarke-Pearson 1988, on the binned scores. Noise variance: the
    delta method, since the AUROC is a ratio of sums of the counts.
    """
    n, p = histogram.negatives, histogram.positives
    below = np.tril(np.ones((len(p), len(p))), -1) + 0.5 * np.eye(len(p))  # [i, j]: j under i
    above_n, above_p = below @ n / n.sum(), below.T @ p / p.sum()
    value = float(p @ above_n / p.sum())
    by_p, by_n = (above_n - value) / p.sum(), (above_p - value) / n.sum()
    noise = histogram.deviation**2 * float((by_p**2).sum() + (by_n**2).sum())
    sampling = _spread(p, above_n) + _spread(n, above_p)
    return _on_logit_scale(value, noise + sampling, smaller=int(min(p.sum(), n.sum())))


def histogram_share(part: float, total: float, *, deviation: float, cells: int) -> Estimate:
    """Return part / total with an interval: binomial variance and the noise of `cells` counts in total."""
    value = part / total
    bounded = min(max(value, 0.0), 1.0)
    noise = deviation**2 * cells / total**2  # at most: the parts' noises partly cancel
    variance = bounded * (1.0 - bounded) / total + noise
    return _on_logit_scale(value, variance, smaller=max(1, int(total)))


def released_metrics(histogram: ScoreHistogram) -> dict[str, Any]:
    """Return AUROC, sensitivity and specificity at one half, prevalence and calibration as JSON."""
    reason = histogram.too_noisy
    if reason is not None:
        return {"auroc": None, "reason": reason}
    n, p, bins = histogram.negatives, histogram.positives, len(histogram.positives)
    half, deviation = bins // 2, histogram.deviation
    result: dict[str, Any] = {"reason": None}
    result |= _json("auroc", histogram_auroc(histogram))
    result |= _json(
        "prevalence",
        histogram_share(p.sum(), p.sum() + n.sum(), deviation=deviation, cells=2 * bins),
    )
    if bins % 2 == 0:  # otherwise one half lies inside a bin
        for name, part, whole in (
            ("sensitivity", p[half:].sum(), p.sum()),
            ("specificity", n[:half].sum(), n.sum()),
        ):
            result |= _json(name, histogram_share(part, whole, deviation=deviation, cells=bins))
    result["calibration"] = [_calibration(histogram, i) for i in range(bins)]
    return result


def _calibration(histogram: ScoreHistogram, index: int) -> dict[str, Any]:
    bins = len(histogram.positives)
    positives = float(histogram.positives[index])
    total = positives + float(histogram.negatives[index])
    score = (index + 0.5) / bins
    if total < max(MIN_CLASS, 3.0 * histogram.deviation * math.sqrt(2.0)):
        return {"score": round(score, 4), "observed": None}
    share = histogram_share(positives, total, deviation=histogram.deviation, cells=2)
    return {"score": round(score, 4), **_json("observed", share)}


def _spread(counts: Counts, placements: Counts) -> float:
    """Return the variance of the mean placement; noisy counts below zero count as zero here."""
    weights = np.maximum(counts, 0.0)
    total = float(weights.sum())
    if total <= 1.0:
        return 0.25
    mean = float(weights @ placements) / total
    return float(weights @ (placements - mean) ** 2) / (total - 1.0) / total


def _on_logit_scale(value: float, variance: float, *, smaller: int) -> Estimate:
    """Return value and interval; noise may push a value to or beyond the edges of [0, 1]."""
    if not 0.0 < value < 1.0:
        spread = Z95 * math.sqrt(variance)
        bounded = min(max(value, 0.0), 1.0)
        return Estimate(bounded, max(0.0, bounded - spread), min(1.0, bounded + spread))
    return Estimate(value, *logit_interval(value, variance, smaller))


def _json(name: str, estimate: Estimate) -> dict[str, Any]:
    interval = [round(estimate.low, 6), round(estimate.high, 6)]
    return {name: round(estimate.value, 6), f"{name}_interval": interval}
