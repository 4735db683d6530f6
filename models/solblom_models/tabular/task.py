"""`tabular-classification`: yes or no from a table, one row per patient."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from solblom_models.tabular.data import Table, TableUnits, feature_names, read_units
from solblom_models.tabular.net import LogisticRegression
from solblom_models.task import Units
from solblom_protocol.study import StudyDocument
from solblom_protocol.toml_file import parse


class ModelSettings(BaseModel):
    """`task.model` of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["logistic"]


class TabularClassification:
    """The task of a table with a yes-or-no target; the privacy unit is the row's patient."""

    name: ClassVar[str] = "tabular-classification"
    connector: ClassVar[str] = "table"
    local_parameters: ClassVar[frozenset[str]] = frozenset()

    def check(self, document: StudyDocument) -> None:
        """Refuse unknown model kinds and settings."""
        parse(ModelSettings, document.study.task.model, source="task.model")

    def read_units(self, source: Table, document: StudyDocument) -> TableUnits:
        """Return the table's patients by the study's contract."""
        return read_units(source, document.contract)

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Return logistic regression at zero."""
        self.check(document)
        return LogisticRegression(len(feature_names(document.contract)))

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the log loss of each patient, shape (B,)."""
        features, labels = batch
        return torch.nn.functional.binary_cross_entropy_with_logits(
            model(features), labels, reduction="none"
        )

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return each patient's probability of yes, shape (N,)."""
        if not isinstance(units, TableUnits):
            raise TypeError("tabular-classification scores tables")
        with torch.no_grad():
            logits = model(torch.from_numpy(units.features))
        return torch.sigmoid(logits.double()).numpy().astype(np.float64)
