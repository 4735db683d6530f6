"""How often a heatmap's highest tiles lie in a lesion whose place is known, beside what chance would give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IN_LESION = 0.5  # of a tile's area
TOP = 5


@dataclass(frozen=True)
class HitRate:
    """Means over slides, each counted once.

    Attributes:
        slides: with a tile in a lesion; the others are not counted.
        highest: share of slides whose highest tile lies in a lesion.
        top: share of the five highest tiles that lie in a lesion.
        chance: share of all scored tiles that do: what tiles drawn at random would give for both.
    """

    slides: int
    highest: float
    top: float
    chance: float


def hit_rate(
    scores: Sequence[NDArray[np.float64]], lesion_shares: Sequence[NDArray[np.float64]]
) -> HitRate | None:
    """Return how often the highest tiles lie in a lesion, or None without any slide with a tile in one.

    Equal scores share their places, so a heatmap of one colour gets chance, whatever the order of its tiles.

    Args:
        scores: of each slide's tiles, each of shape (n,).
        lesion_shares: of each tile's area, from 0 to 1; same shapes.

    Raises:
        ValueError: shapes differ, a score is not finite, or a share is beyond 0 to 1.
    """
    rows = []
    for of_slide, shares in zip(scores, lesion_shares, strict=True):
        if of_slide.shape != shares.shape or of_slide.ndim != 1:
            raise ValueError(f"scores {of_slide.shape} and shares {shares.shape} differ")
        if not np.isfinite(of_slide).all():
            raise ValueError("a score is not finite")
        if not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError("a lesion's share lies between 0 and 1")
        inside = shares >= IN_LESION
        if inside.any():
            rows.append(
                (_highest(of_slide, inside, 1), _highest(of_slide, inside, TOP), inside.mean())
            )
    if not rows:
        return None
    highest, top, chance = np.mean(rows, axis=0).tolist()
    return HitRate(len(rows), highest, top, chance)


def _highest(scores: NDArray[np.float64], inside: NDArray[np.bool_], k: int) -> float:
    """Return the share of the k highest tiles inside, in expectation over the order of equal scores."""
    k = min(k, len(scores))
    last = np.partition(scores, -k)[-k]
    above, equal = scores > last, scores == last
    hits = inside[above].sum() + (k - above.sum()) * inside[equal].mean()
    return float(hits / k)
