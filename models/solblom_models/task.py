"""The plug-in point: what is learned, from which units, with which net and loss.

A hospital or a research group adds a task as an installed, approved package with an entry point in
the group `solblom.tasks`; never as code over the wire. A task offers **one clipped contribution per
privacy unit**: `losses` returns one loss per unit, and a unit's loss may depend on that unit and
the model only (privacy.md rule 1; checked at approval by `isolation_error`).
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument

GROUP = "solblom.tasks"


class Units(Protocol):
    """The privacy units (patients) of one hospital, ready for a net.

    Attributes:
        ids: one identifier per unit, inside the hospital only.
        labels: one integer label per unit.
    """

    @property
    def ids(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def labels(self) -> NDArray[np.int64]: ...  # noqa: D102

    def batch(self, indices: Sequence[int]) -> Any:
        """Return what `Task.losses` takes for these units; an empty list gives an empty batch."""
        ...

    def select(self, indices: Sequence[int]) -> "Units":
        """Return these units only, in the order given."""
        ...

    def row_bytes(self, index: int) -> bytes:
        """Return the unit's data as bytes, the same for the same data: input of keyed digests."""
        ...


@runtime_checkable
class GroupedUnits(Protocol):
    """Patients of whom it is known who belongs together.

    Attributes:
        groups: by kind (`family`, `publication`), each unit's group or None.
    """

    @property
    def groups(self) -> Mapping[str, tuple[str | None, ...]]: ...  # noqa: D102


@runtime_checkable
class NotedUnits(Protocol):
    """Patients whose reading left something out, or took it differently than it stands.

    Attributes:
        notes: what was counted, by name: for the hospital's own people, never for outside.
    """

    @property
    def notes(self) -> Mapping[str, int]: ...  # noqa: D102


@runtime_checkable
class FinelyLabelledUnits(Protocol):
    """Patients whose parts have labels of their own, such as tiles.

    Attributes:
        tile_labels: one integer label a part.
    """

    @property
    def tile_labels(self) -> NDArray[np.int64]: ...  # noqa: D102


def has_one_label(units: Units) -> bool:
    """Tell whether a loss would see one label only: of the patients, or of their parts where these have labels."""
    labels = units.tile_labels if isinstance(units, FinelyLabelledUnits) else units.labels
    return len(set(labels.tolist())) < 2


@runtime_checkable
class Task(Protocol):
    """What a study can learn.

    Attributes:
        name: as in `task.name` of a study file.
        connector: the kind of data source it reads, as in node.toml.
        ragged: whether patients differ in size (bags, visits); they are then trained one at a time.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def connector(self) -> str: ...  # noqa: D102

    @property
    def ragged(self) -> bool: ...  # noqa: D102

    def local_parameters(self, document: StudyDocument) -> frozenset[str]:
        """Return the names of parameters that stay at each hospital.

        They are trained inside the same clipped and noised step as all others and never leave.
        """
        ...

    def check(self, document: StudyDocument) -> None:
        """Refuse a study that this task cannot run.

        Raises:
            ConfigurationError: SB-106 or SB-107.
        """
        ...

    def read_units(self, source: Any, document: StudyDocument) -> Units:
        """Return the units in a connector's source.

        Raises:
            DataError: the source does not obey the contract.
        """
        ...

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Return the net with its initial weights, which depend on the public seed only."""
        ...

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return one loss per unit, shape (B,)."""
        ...

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return one probability per unit, shape (N,)."""
        ...


class AllShared:
    """What a task inherits of whose model nothing stays at a hospital."""

    def local_parameters(self, document: StudyDocument) -> frozenset[str]:
        """Return none: all of the model is shared."""
        return frozenset()


@runtime_checkable
class RankingTask(Protocol):
    """A task whose answer is an order of many labels, not a probability of one."""

    def rankings(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return one score for each unit and label, shape (N, K); larger is likelier."""
        ...


@runtime_checkable
class DescribingTask(Protocol):
    """A task that can also count its patients for a study's Table 1."""

    def table_one_cells(self, document: StudyDocument) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return (variable with its unit, its cells) in order; public, follows from the study alone."""
        ...

    def table_one_counts(
        self, source: Any, ids: Collection[str], document: StudyDocument
    ) -> NDArray[np.int64]:
        """Return how many of these patients are in each cell, blocks one after another.

        Raises:
            DataError: the source does not obey the contract.
        """
        ...


def find_task(name: str) -> Task:
    """Return the installed task of that name.

    Raises:
        ConfigurationError: SB-107, no installed part offers it.
    """
    points = _installed_tasks(tuple(sys.path))
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise ConfigurationError("SB-107", f"No task {name} is installed; installed: {known}")
    task = points[name].load()()
    if not isinstance(task, Task):
        raise ConfigurationError(
            "SB-107", f"The installed task {name} lacks parts of the interface"
        )
    return task


@lru_cache(maxsize=1)
def _installed_tasks(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Return what is installed on Python's path. A look takes milliseconds, and each order needs one."""
    return {point.name: point for point in entry_points(group=GROUP)}


def unit_gradients(task: Task, model: torch.nn.Module, batch: Any) -> list[torch.Tensor]:
    """Return one flat gradient per unit by plain autograd, one backward pass a unit: slow and certain."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
        for loss in task.losses(model, batch)
    ]


def isolation_error(task: Task, model: torch.nn.Module, units: Units) -> float:
    """Return how much removing the other units changes a unit's gradient, relative to its norm.

    A batch norm, a class-weighted mean or a contrastive loss would show here; exact isolation gives
    rounding error.
    """
    count = min(len(units.ids), 4)
    if count < 2:
        return 0.0
    together = unit_gradients(task, model, units.batch(range(count)))
    worst = 0.0
    for index in range(count):
        alone = unit_gradients(task, model, units.batch([index]))[0]
        scale = max(float(alone.norm()), 1e-12)
        worst = max(worst, float((together[index] - alone).norm()) / scale)
    return worst
