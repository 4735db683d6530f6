"""Calibration of both models in one picture: how often it was so among patients to whom a model gave a probability.

Tenths of [0, 1] with few patients are left out of the picture. Counts of patients stand below. SVG that reads in print.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.comparison.agreement import TENTHS, tenths
from solblom_models.comparison.pair import ScoredPair
from solblom_models.comparison.small_groups import is_small
from solblom_models.metrics import MIN_CLASS, Z95, Labels, Scores
from solblom_models.svg import FONT, svg_drawing

SIZE = (6.4, 6.8)  # inches
LOOKS = {"old": ("s", "0.45", "--"), "new": ("o", "0.0", "-")}  # marker, grey, line


@dataclass(frozen=True)
class CalibrationPoint:
    """One tenth of [0, 1] of one model: mean probability, observed share with its 95 % interval, patients."""

    predicted: float
    observed: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True)
class Calibration:
    """One model's points; `hidden` tenths have patients, but fewer than are shown.

    Attributes:
        points: ascending.
        hidden: how many tenths were left out.
        counts: patients in each tenth, shape (10,); a small count is 0 here.
    """

    points: tuple[CalibrationPoint, ...]
    hidden: int
    counts: NDArray[np.int64]


def calibration_of(labels: Labels, scores: Scores) -> Calibration:
    """Return observed shares by tenth of probability; intervals are Wilson's (1927)."""
    places = tenths(scores)
    counts = np.bincount(places, minlength=TENTHS)
    points = []
    for tenth in range(TENTHS):
        members = places == tenth
        count, positives = int(members.sum()), int(labels[members].sum())
        if count < MIN_CLASS:
            continue
        low, high = _wilson(positives, count)
        mean = float(scores[members].mean())
        points.append(CalibrationPoint(mean, positives / count, low, high, count))
    hidden = sum(is_small(int(count)) for count in counts)
    shown = np.where((counts > 0) & (counts < MIN_CLASS), 0, counts)
    return Calibration(tuple(points), hidden, shown.astype(np.int64))


def _wilson(part: int, whole: int) -> tuple[float, float]:
    share, z2 = part / whole, Z95**2
    middle = (share + z2 / (2 * whole)) / (1 + z2 / whole)
    half = Z95 * np.sqrt(share * (1 - share) / whole + z2 / (4 * whole**2)) / (1 + z2 / whole)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def calibration_overlay(pair: ScoredPair, *, old: str, new: str) -> bytes:
    """Return the picture as SVG; the same pair gives the same bytes.

    Args:
        pair: with labels.
        old: the old model's name and version.
        new: the new one's.

    Raises:
        ConfigurationError: SB-118, matplotlib is not installed.
        ValueError: there are no labels.
    """
    if pair.labels is None:
        raise ValueError("calibration needs outcomes")
    picture = svg_drawing()
    found = {
        "old": (old, calibration_of(pair.labels, pair.old)),
        "new": (new, calibration_of(pair.labels, pair.new)),
    }
    title = f"Calibration: {old} and {new}"

    def paint(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _draw_shares(above, found, title)
        _draw_counts(below, found)

    return picture(paint, SIZE, title)


def _draw_shares(axes: Any, found: dict[str, tuple[str, Calibration]], title: str) -> None:
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=0.8, zorder=0)
    for which, (name, calibration) in found.items():
        marker, grey, line = LOOKS[which]
        points = calibration.points
        axes.errorbar(
            [p.predicted for p in points],
            [p.observed for p in points],
            yerr=[
                [max(p.observed - p.low, 0.0) for p in points],
                [max(p.high - p.observed, 0.0) for p in points],
            ],
            fmt=marker,
            linestyle=line,
            color=grey,
            markerfacecolor="white" if which == "old" else grey,
            capsize=2,
            markersize=5,
            label=f"{which}: {name}",
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("observed share with the outcome, 95 % interval")
    axes.set_title(title, loc="left", fontsize=FONT + 1)
    axes.legend(loc="upper left", frameon=False)
    hidden = sum(calibration.hidden for _, calibration in found.values())
    if hidden:
        words = f"{hidden} tenths with fewer than {MIN_CLASS} patients are left out"
        axes.text(0.98, 0.02, words, ha="right", color="0.4", transform=axes.transAxes)


def _draw_counts(axes: Any, found: dict[str, tuple[str, Calibration]]) -> None:
    middles = (np.arange(TENTHS) + 0.5) / TENTHS
    for number, (which, (_, calibration)) in enumerate(found.items()):
        places = middles + (number - 0.5) * 0.036
        face = "white" if which == "old" else "0.3"
        axes.bar(places, calibration.counts, width=0.034, color=face, edgecolor="0.3")
        for place, count in zip(places, calibration.counts.tolist(), strict=True):
            if count:
                axes.annotate(
                    str(count), (place, count), ha="center", va="bottom", fontsize=FONT - 3
                )
    axes.margins(y=0.25)
    axes.set_ylabel("patients")
    axes.set_xlabel("probability that the model gives")
