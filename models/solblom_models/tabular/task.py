"""`tabular-classification`: yes or no from a table, one row per patient."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.layer_settings import LayerSettings
from solblom_models.tabular.data import TableUnits, feature_names, read_units, table_contract
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.tabular.table_file import Table
from solblom_models.tabular.table_one import cell_blocks, count_cells
from solblom_models.task import Units
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.toml_file import parse


class ModelSettings(LayerSettings):
    """`task.model` of a study."""

    kind: Literal["logistic", "mlp"]
    # Each hospital keeps an intercept of its own: how common the disease is there. It is trained in the
    # same clipped and noised steps as the rest, in the vault, and never leaves.
    local_intercept: bool = False


class TabularClassification:
    """The task of a table with a yes-or-no target; the privacy unit is the row's patient."""

    name: ClassVar[str] = "tabular-classification"
    connector: ClassVar[str] = "table"
    ragged: ClassVar[bool] = False

    def local_parameters(self, document: StudyDocument) -> frozenset[str]:
        """Return the intercept's name where the study leaves it at each hospital."""
        settings = _settings(document)
        if not settings.local_intercept:
            return frozenset()
        last = f"layers.{len(settings.hidden)}" if settings.hidden else "linear"
        return frozenset({f"{last}.bias"})

    def check(self, document: StudyDocument) -> None:
        """Refuse another kind of contract, unknown model kinds and settings."""
        table_contract(document)
        _settings(document)

    def read_units(self, source: Table, document: StudyDocument) -> TableUnits:
        """Return the table's patients by the study's contract."""
        units = read_units(source, table_contract(document))
        return replace(units, positive_weight=_settings(document).positive_weight)

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Return logistic regression at zero, or a perceptron with weights from the public seed."""
        settings = _settings(document)
        features = len(feature_names(table_contract(document)))
        if settings.kind == "logistic":
            return LogisticRegression(features)
        return MultilayerPerceptron(features, settings.hidden, seed=document.study.training.seed)

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the log loss of each patient, shape (B,)."""
        features, labels, weights = batch
        losses: torch.Tensor = weights * torch.nn.functional.binary_cross_entropy_with_logits(
            model(features), labels, reduction="none"
        )
        return losses

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return each patient's probability of yes, shape (N,)."""
        if not isinstance(units, TableUnits):
            raise TypeError("tabular-classification scores tables")
        with torch.no_grad():
            logits = model(torch.from_numpy(units.features))
        return torch.sigmoid(logits.double()).numpy().astype(np.float64)

    def table_one_cells(self, document: StudyDocument) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the cells of Table 1, by the contract's public constants."""
        return tuple(
            (f"{block.variable} ({block.unit})" if block.unit else block.variable, block.cells)
            for block in cell_blocks(document)
        )

    def table_one_counts(
        self, source: Table, ids: Collection[str], document: StudyDocument
    ) -> NDArray[np.int64]:
        """Return how many of these patients are in each cell of Table 1."""
        return count_cells(source, ids, document)


def _settings(document: StudyDocument) -> ModelSettings:
    return parse(ModelSettings, document.study.task.model, source="task.model")
