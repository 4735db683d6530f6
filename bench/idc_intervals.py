"""AUROC over resampled patients for the tile benches: every patient counts as often as drawn, in all draws at once."""

from dataclasses import dataclass

import numpy as np
from idc_data import Floats
from numpy.typing import NDArray

RESAMPLES, SEED = 1_000, 20261124


@dataclass(frozen=True)
class Patients:
    """Tiles of the patients over whom intervals are taken.

    Attributes:
        labels: of all tiles, 0 or 1, shape (T,).
        owners: each tile's patient, shape (T,).
        where: tiles of the patients in question, shape (T,).
    """

    labels: NDArray[np.int64]
    owners: NDArray[np.str_]
    where: NDArray[np.bool_]

    def counts(self) -> Floats:
        """Return how often each tile's patient was drawn, (1 + RESAMPLES, T); the first row is everybody once."""
        rng = np.random.default_rng(SEED)
        names = np.unique(self.owners[self.where])
        place = {name: number for number, name in enumerate(names)}
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
        drawn = np.concatenate([np.ones((1, len(names)), dtype=drawn.dtype), drawn])
        found = np.zeros((1 + RESAMPLES, len(self.owners)))
        of = [place[name] for name in self.owners[self.where]]
        found[:, self.where] = drawn[:, of]
        return found


def concordance(labels: NDArray[np.int64], scores: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return how many pairs of a positive and a negative tile are in order, and how many there are, each (R,).

    Scores are of a linear head or a net on features that are real numbers: ties are not looked for.
    """
    order = np.argsort(scores, kind="stable")
    yes = labels[order] == 1
    counted = counts[:, order]
    below = np.cumsum(np.where(yes, 0.0, counted), axis=1)
    agreeing: Floats = (counted[:, yes] * below[:, yes]).sum(axis=1)
    pairs: Floats = counted[:, yes].sum(axis=1) * counted[:, ~yes].sum(axis=1)
    return agreeing, pairs


def areas(labels: NDArray[np.int64], scores: Floats, counts: Floats) -> Floats:
    """Return the AUROC under each row of counts, shape (R,); not a number where a class is missing."""
    agreeing, pairs = concordance(labels, scores, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = agreeing / pairs
    return found


Interval = tuple[float, float, float]


def interval(values: Floats) -> Interval:
    """Return the value of everybody, and the 95 % interval of the resampled ones."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def text(found: Interval, *, sign: bool = False) -> str:
    """Return a value with its interval."""
    form = "+.3f" if sign else ".3f"
    return f"{found[0]:{form}} [{found[1]:{form}}, {found[2]:{form}}]"
