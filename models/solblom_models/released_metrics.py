"""What a released histogram says about a model, with intervals that know of the noise.

The coordinator has counts of test patients by class and score, or by the rank of their disease, with integer noise of
known size, and nothing else (privacy.md rule 9). Every interval covers both: which patients happened to be there, and
the noise. Bins cost some resolution: patients in one bin count as tied.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.metrics import MIN_CLASS, Z95, Estimate, logit_interval
from solblom_models.ranking import TOPS

Counts = NDArray[np.float64]


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
    """Return the AUROC with an interval that covers which patients were there, and the noise.

    The AUROC is a ratio whose denominator is noisy too, so the interval is Fieller's (1954): all values
    a for which p (W - a) n does not differ from zero by more than its error, W being 1 where the
    positive scores higher and 1/2 in ties. Sampling variance: DeLong, DeLong & Clarke-Pearson 1988, on
    the binned scores. Never narrower than DeLong's interval on the logit scale.
    """
    n, p = histogram.negatives, histogram.positives
    above = np.tril(np.ones((len(p), len(p))), -1) + 0.5 * np.eye(len(p))
    total_n, total_p = float(n.sum()), float(p.sum())
    value = float(p @ above @ n) / (total_p * total_n)
    seen_n, seen_p = _not_negative(n), _not_negative(p)
    by_p, by_n = above @ seen_n / total_n, above.T @ seen_p / total_p
    sampling = _spread(seen_p, by_p) + _spread(seen_n, by_n)
    bounded = min(max(value, 0.0), 1.0)
    low, high = logit_interval(bounded, sampling, int(min(total_p, total_n)))
    found = _fieller(histogram, above, sampling)
    return Estimate(bounded, min(low, found[0], bounded), max(high, found[1], bounded))


def _fieller(histogram: ScoreHistogram, above: Counts, sampling: float) -> tuple[float, float]:
    """Return the smallest and the largest AUROC in steps of 0.0005 that the counts do not refute."""
    n, p, variance = histogram.negatives, histogram.positives, histogram.deviation**2
    total_n, total_p = float(n.sum()), float(p.sum())
    grid = np.linspace(0.0, 1.0, 2001)
    difference = float(p @ above @ n) - grid * total_p * total_n
    over_n = ((above @ n - grid[:, None] * total_n) ** 2).sum(axis=1)
    over_p = ((above.T @ p - grid[:, None] * total_p) ** 2).sum(axis=1)
    squares = ((above - grid[:, None, None]) ** 2).sum(axis=(1, 2))
    # Noise on n and p; squares of noisy counts count the noise twice, hence the last term.
    noise = np.maximum(variance * (over_n + over_p) - variance**2 * squares, 0.0)
    kept = grid[difference**2 <= Z95**2 * (noise + sampling * (total_p * total_n) ** 2)]
    return (float(kept[0]), float(kept[-1])) if len(kept) else (1.0, 0.0)


def _not_negative(counts: Counts) -> Counts:
    """Return counts without what noise pushed below zero, with the same sum."""
    kept = np.maximum(counts, 0.0)
    scaled: Counts = kept * (counts.sum() / kept.sum())
    return scaled


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


def released_rank_metrics(counts: NDArray[np.int64], *, deviation: float) -> dict[str, Any]:
    """Return top-1, top-5 and top-10 recall from a released rank histogram as JSON.

    Args:
        counts: noisy counts of patients whose disease ranked first, second, …, and further down.
        deviation: standard deviation of the noise on each count, all hospitals' noise together.
    """
    total, cells = float(counts.sum()), len(counts)
    needed = max(MIN_CLASS, 3.0 * deviation * math.sqrt(cells))
    if total < needed:
        reason = f"fewer than {math.ceil(needed)} patients beside this noise"
        return {f"top_{TOPS[0]}": None, "reason": reason}
    result: dict[str, Any] = {"reason": None}
    for top in TOPS:
        part = float(counts[:top].sum())
        share = histogram_share(part, total, deviation=deviation, cells=cells)
        result |= _json(f"top_{top}", share)
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
    """Return the variance of the mean placement over patients."""
    total = float(counts.sum())
    mean = float(counts @ placements) / total
    return float(counts @ (placements - mean) ** 2) / max(total - 1.0, 1.0) / total


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
