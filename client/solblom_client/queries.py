"""What leaves a hospital besides updates: counts with integer noise, and releases that its policy names.

A patient is counted in one cell of a score histogram, and in one cell of each variable of Table 1.
So one patient more or less changes one count by one, once or as often as there are variables, and
the noise on each cell is charged exactly so (privacy.md rule 9).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_client.approvals.approval import Approval
from solblom_client.training.discrete_gaussian import Counts, discrete_gaussian
from solblom_client.training.keystream import KeyStream
from solblom_client.work import OrderedModel, build_model
from solblom_models.metrics import auroc_with_interval
from solblom_models.ranking import ranks_of
from solblom_models.task import DescribingTask, RankingTask, Task, Units
from solblom_protocol.contracts.kinds import RANK_CELLS
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.counts import LARGEST_COUNT, pack_release, pack_values
from solblom_protocol.messages.order import NamedRelease, Order
from solblom_protocol.studies.study import StudyDocument

VALUES_OF_A_NAME = 3  # site-auroc: the value, and its interval's ends


@dataclass(frozen=True)
class Release:
    """Numbers ready to leave. `named` stand outside epsilon; their values follow the counts."""

    counts: Counts
    named: tuple[NamedRelease, ...] = ()
    values: tuple[float, ...] = ()


def exact_counts(
    order: Order,
    approval: Approval,
    model: OrderedModel | None,
    source: Any,
    units: Units,
    local: bytes,
) -> bytes:
    """Return the exact counts of a release, little-endian int64; they stay here. Empty for training.

    Raises:
        RefusedError: SB-205, the task counts no Table 1.
        DataError: the source does not obey the contract.
    """
    if order.header.kind == "train":
        return b""
    if model is None:
        if not isinstance(approval.task, DescribingTask):
            raise RefusedError("SB-205", "The task counts no Table 1")
        counts = approval.task.table_one_counts(source, units.ids, approval.document)
    else:
        net = build_model(approval, model, local)
        counts = evaluation_counts(approval.task, net, units, approval.document)
    return counts.astype("<i8").tobytes()


def evaluation_counts(
    task: Task, model: torch.nn.Module, units: Units, document: StudyDocument
) -> Counts:
    """Return the counts of one evaluation, shape (document.evaluation_cells,): each patient in one cell."""
    if isinstance(task, RankingTask):
        return rank_histogram(task, model, units)
    return score_histogram(task, model, units, bins=document.study.evaluation.bins)


def rank_histogram(task: RankingTask, model: torch.nn.Module, units: Units) -> Counts:
    """Return patients by the rank of their disease: first, second, … tenth, and further down, shape (11,)."""
    ranks = ranks_of(task.rankings(model, units), np.asarray(units.labels))
    places = np.minimum(ranks, RANK_CELLS) - 1
    return np.bincount(places, minlength=RANK_CELLS).astype(np.int64)


def score_histogram(task: Task, model: torch.nn.Module, units: Units, *, bins: int) -> Counts:
    """Return patients by class and score: first those without, then those with, shape (2 * bins,).

    Bins are equal parts of [0, 1]. A score that is not a number counts as 0: hostile weights must not
    make an answer depend on one patient.
    """
    scores = np.nan_to_num(task.scores(model, units), nan=0.0, posinf=1.0, neginf=0.0)
    cells = np.minimum((np.clip(scores, 0.0, 1.0) * bins).astype(np.int64), bins - 1)
    where = cells + bins * (np.asarray(units.labels) == 1)
    return np.bincount(where, minlength=2 * bins).astype(np.int64)


def add_noise(counts: Counts, *, deviation: str, stream: KeyStream) -> Counts:
    """Return the counts with independent discrete Gaussian noise on every cell."""
    return counts + discrete_gaussian(stream, deviation, len(counts))


def site_auroc(task: Task, model: torch.nn.Module, units: Units) -> tuple[float, ...]:
    """Return this hospital's AUROC with its 95 % interval to three decimals; zeros where none is shown.

    Without noise: leaves only under the name `site-auroc`, which study and policy must both allow.
    """
    labels: NDArray[np.int64] = np.asarray(units.labels)
    found = auroc_with_interval(labels, np.nan_to_num(task.scores(model, units)))
    if found.value is None or found.low is None or found.high is None:
        return (0.0, 0.0, 0.0)
    # Adding nothing turns -0.0 into 0.0: one value, one spelling.
    low, high = round(found.low, 3) + 0.0, round(found.high, 3) + 0.0
    return (round(found.value, 3) + 0.0, low, high)


def export_release(release: Release, *, cells: int) -> bytes:
    """Return the bytes that may leave: the same size always.

    Raises:
        RefusedError: SB-213, another number of cells than the study fixes, or a count out of range.
    """
    counts = release.counts
    if counts.shape != (cells,) or counts.dtype != np.int64:
        raise RefusedError("SB-213", f"A release must have {cells} whole numbers")
    # Not by their absolute value: of the least number of 64 bits it is negative.
    if int(counts.max(initial=0)) > LARGEST_COUNT or int(counts.min(initial=0)) < -LARGEST_COUNT:
        raise RefusedError("SB-213", "A count of a release is out of range")
    check_named(release.named, release.values)
    return pack_release(counts, release.values)


def check_named(named: tuple[NamedRelease, ...], values: tuple[float, ...]) -> None:
    """Refuse named values but three numbers from 0 to 1 each, with three decimals: ten bits a number, no more.

    Raises:
        RefusedError: SB-213.
    """
    if len(values) != VALUES_OF_A_NAME * len(named):
        raise RefusedError("SB-213", "A named release has another number of values than its name")
    # Compared as bytes: -0.0 equals 0.0, and would be a bit more.
    spelt = np.array([abs(round(value, 3)) for value in values], dtype="<f8").tobytes()
    if not all(0.0 <= value <= 1.0 for value in values) or spelt != pack_values(values):
        raise RefusedError(
            "SB-213", "A named release is not a number from 0 to 1 in three decimals"
        )
