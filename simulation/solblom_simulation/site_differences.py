"""How far hospitals lie apart in what the model sees: batch effects, case mix and chance together.

Possible in a simulation only, where one machine holds all data; outside epsilon.
"""

import math

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


def distances(training: list[Features]) -> list[dict[str, float] | None]:
    """Return how far the mean of each hospital's training patients lies from that of all others'.

    Args:
        training: features of each hospital, shape (n, D).

    Returns:
        For each hospital `distance`, the root mean square over features of the difference of means in
        standard deviations inside hospitals; and `by_chance`, what it would be about if patients had been
        dealt at random. None where it cannot be said: a hospital or the rest has fewer than two patients,
        or no feature varies.
    """
    return [
        _distance(own, [other for j, other in enumerate(training) if j != i])
        for i, own in enumerate(training)
    ]


def _distance(own: Features, others: list[Features]) -> dict[str, float] | None:
    rest = sum(len(group) for group in others)
    if len(own) < 2 or rest < 2:
        return None
    away = np.concatenate(others).astype(np.float64)
    inside = [group.astype(np.float64) for group in (own, *others) if len(group)]
    squares = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in inside)
    variance = np.asarray(squares) / max(1, len(own) + rest - len(inside))
    varies = variance > 0
    if not varies.any():
        return None
    apart = own.astype(np.float64).mean(axis=0) - away.mean(axis=0)
    square = float((apart[varies] ** 2 / variance[varies]).mean())
    return {
        "distance": round(math.sqrt(square), 4),
        # The variance of a difference of two means is variance / n + variance / m.
        "by_chance": round(math.sqrt(1 / len(own) + 1 / rest), 4),
    }
