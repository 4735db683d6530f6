"""The same patients as two models see them. Everything here stays inside the hospital."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solblom_models.artefact import LoadedModel
from solblom_models.metrics import Labels, Scores

Unit = Literal["patient", "family", "publication"]
"""What is drawn as one in a resample: patients of one family, or of one publication, resemble each other."""


@dataclass(frozen=True)
class Version:
    """One of the two models, after it was verified.

    Attributes:
        model: loaded.
        artefact: its digest.
        ref: its name and version.
        folder: where it stands.
    """

    model: LoadedModel
    artefact: str
    ref: str
    folder: Path


@dataclass(frozen=True)
class ScoredPair:
    """Patients with a probability from each model.

    Attributes:
        ids: one a patient.
        clusters: which cluster each patient belongs to, shape (N,).
        unit: what a cluster is.
        labels: 0 or 1, shape (N,); None where the input says nothing of the outcome.
        old, new: probabilities, shape (N,).
    """

    ids: tuple[str, ...] = field(repr=False)
    clusters: NDArray[np.int64] = field(repr=False)
    unit: Unit
    labels: Labels | None = field(repr=False)
    old: Scores = field(repr=False)
    new: Scores = field(repr=False)


@dataclass(frozen=True)
class RankedPair:
    """Patients with an order of diseases from each model.

    Attributes:
        ids: one a patient.
        groups: which group each patient belongs to.
        unit: what a group is.
        old_first, new_first: the disease that each model puts first.
        shared: share of the first ten diseases that are in both lists, shape (N,).
        deltas: largest difference of a disease's score, each as its distance from the mean of the diseases that both
            models know, shape (N,).
        old_ranks, new_ranks: rank of the patient's own disease, shape (N,); 0 where it is not known to both models.
        left_out: cases that only one of the models can read, by what was in the way.
    """

    ids: tuple[str, ...] = field(repr=False)
    groups: tuple[str, ...] = field(repr=False)
    unit: Unit
    old_first: tuple[str, ...] = field(repr=False)
    new_first: tuple[str, ...] = field(repr=False)
    shared: NDArray[np.float64] = field(repr=False)
    deltas: NDArray[np.float64] = field(repr=False)
    old_ranks: NDArray[np.int64] = field(repr=False)
    new_ranks: NDArray[np.int64] = field(repr=False)
    left_out: dict[str, int] = field(default_factory=dict)
