"""Do the intervals of a released evaluation keep their promise, and how much wider does noise make them?

Patients are made up: scores of a known population (two normal distributions a known distance apart), so its true AUROC
is known. They are split over four hospitals; each adds the product's own discrete Gaussian noise, from its own key, at
the deviation that the product calibrates for the epsilon of a test patient; counts are added as the coordinator adds
them. A release of an epsilon is compared with DeLong's interval on the exact scores of the same patients.

GOAL: the interval covers the population's AUROC in at least 95 % of the releases shown, less three standard errors.

Run: OMP_NUM_THREADS=1 python bench/released_metrics.py [--repeats 500] [--out FILE]
"""

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import Goal, Table, finish, load_average
from sklearn.metrics import roc_auc_score

from solblom_client.training.discrete_gaussian import discrete_gaussian
from solblom_client.training.keystream import KeyStream
from solblom_models.accountant import calibrate_noise
from solblom_models.metrics import auroc_with_interval
from solblom_models.released_metrics import ScoreHistogram, histogram_auroc

BINS, HOSPITALS, DELTA, SEED = 10, 4, 1e-5, 1
EPSILONS, SIZES, DISTANCES = (1.0, 3.0, 8.0), (100, 270, 1000), (1.0, 1.8)
POPULATION = 1_000_000


@dataclass(frozen=True)
class Found:
    """One case, over all repeats. Widths are medians; `shown` is the share of releases that say something."""

    distance: float
    patients: int
    epsilon: float
    deviation: float
    true_auroc: float
    shown: float
    covered: float
    width: float
    exact_width: float


def patients(
    rng: np.random.Generator, count: int, distance: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels (half positive on average) and scores in (0, 1)."""
    labels = rng.integers(0, 2, count)
    logits = 1.5 * (rng.standard_normal(count) + distance * (labels - 0.5))
    return labels, 1.0 / (1.0 + np.exp(-logits))


def cells_of(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return counts by class and bin, shape (2 * BINS,)."""
    cells = np.minimum((scores * BINS).astype(np.int64), BINS - 1) + BINS * labels
    return np.bincount(cells, minlength=2 * BINS).astype(np.int64)


def measure(distance: float, count: int, epsilon: float, repeats: int) -> Found:
    """Release `repeats` times and return how often and how widely the interval covered the truth."""
    rng = np.random.default_rng([SEED, int(10 * distance), count, int(epsilon)])
    labels, scores = patients(rng, POPULATION, distance)
    truth = float(roc_auc_score(labels, scores))
    noise = calibrate_noise(epsilon, DELTA, steps=1, kind="discrete-gaussian")
    deviation = float(noise) * math.sqrt(HOSPITALS)
    streams = [KeyStream(rng.bytes(32)) for _ in range(HOSPITALS)]
    widths, exact_widths, hits = [], [], 0
    for _ in range(repeats):
        labels, scores = patients(rng, count, distance)
        exact = auroc_with_interval(labels, scores)
        if exact.low is not None and exact.high is not None:
            exact_widths.append(exact.high - exact.low)
        counts = cells_of(labels, scores)
        for stream in streams:
            counts = counts + discrete_gaussian(stream, noise, len(counts))
        histogram = ScoreHistogram.of(counts, deviation=deviation)
        if histogram.too_noisy is None:
            found = histogram_auroc(histogram)
            hits += found.low <= truth <= found.high
            widths.append(found.high - found.low)
    return Found(
        distance=distance,
        patients=count,
        epsilon=epsilon,
        deviation=deviation,
        true_auroc=truth,
        shown=len(widths) / repeats,
        covered=hits / len(widths) if widths else math.nan,
        width=float(np.median(widths)) if widths else math.nan,
        exact_width=float(np.median(exact_widths)),
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    load_at_start, begun = load_average(), time.monotonic()
    found = [
        measure(distance, count, epsilon, options.repeats)
        for distance in DISTANCES
        for count in SIZES
        for epsilon in EPSILONS
    ]
    finish(
        "released_metrics",
        measures="coverage and width of the interval of a released AUROC, on made-up patients",
        settings={
            "repeats": options.repeats,
            "bins": BINS,
            "hospitals": HOSPITALS,
            "delta": DELTA,
            "seconds": round(time.monotonic() - begun),
        },
        seeds=[SEED],
        tables=[_table(found)],
        goals=_goals(found, options.repeats),
        notes=[
            "One release. Each hospital adds all of its noise itself; a secure sum would halve it here.",
            "Bins cost resolution: the interval is for the AUROC of binned scores, compared with the unbinned.",
        ],
        results={"cases": [asdict(case) for case in found]},
        load_at_start=load_at_start,
        out=options.out,
    )


def _table(found: list[Found]) -> Table:
    columns = (
        "true AUROC",
        "test patients",
        "epsilon",
        "noise",
        "shown",
        "covered",
        "width",
        "exact",
    )
    rows = tuple(
        (
            f"{c.true_auroc:.3f}",
            str(c.patients),
            f"{c.epsilon:g}",
            f"{c.deviation:.2f}",
            f"{c.shown:.0%}",
            f"{c.covered:.1%}",
            f"{c.width:.3f}",
            f"{c.exact_width:.3f}",
        )
        for c in found
    )
    return Table(
        "Released AUROC: 95 % intervals, beside DeLong's on the exact scores", columns, rows
    )


def _goals(found: list[Found], repeats: int) -> list[Goal]:
    worst = min(found, key=lambda c: c.covered if c.shown > 0.1 else 1.0)
    slack = 3 * math.sqrt(0.95 * 0.05 / (worst.shown * repeats))
    return [
        Goal(
            what="the interval of a released AUROC covers the truth, worst case shown in over 10 %",
            goal="at least 95 % less three standard errors",
            found=f"{worst.covered:.1%} ({len(found)} cases)",
            met=worst.covered >= 0.95 - slack,
        )
    ]


if __name__ == "__main__":
    main()
