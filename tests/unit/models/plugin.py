"""A task as a research group would ship it: a distribution of its own, installed beside Solblom.

Slopes are shared; the intercept stays at the hospital. `SEEN` lets a test look at the intercept with which
training began.
"""

from pathlib import Path
from typing import Literal

Form = Literal["package", "namespace", "module"]
NAME = "lab-intercept"
PACKAGE = "solblom_lab_intercept"

METADATA = "Metadata-Version: 2.1\nName: solblom-lab-intercept\nVersion: 1.0\n"
ENTRY_POINTS = "[solblom.tasks]\n{name} = {module}:LabIntercept\n"
SOURCE = '''
"""Logistic regression with one intercept for each hospital."""

import numpy as np
import torch

from solblom_models.tabular.data import feature_names, read_units
from solblom_protocol.errors import ConfigurationError

SEEN: list[float] = []


class Net(torch.nn.Module):
    """Shared slopes and a local intercept, all zero at first."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.slopes = torch.nn.Linear(features, 1, bias=False)
        self.intercept = torch.nn.Linear(1, 1, bias=False)
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.slopes(x) + self.intercept(x.new_ones(len(x), 1))).squeeze(-1)


class LabIntercept:
    """Yes or no from a table, one row per patient."""

    name = "lab-intercept"
    connector = "table"
    ragged = False

    def local_parameters(self, document):
        return frozenset({"intercept.weight"})  # never leaves the hospital

    def check(self, document):
        if document.study.task.model != {"kind": "logistic"}:
            raise ConfigurationError("SB-107", "task.model must be logistic")

    def read_units(self, source, document):
        return read_units(source, document.contract)

    def build(self, document):
        return Net(len(feature_names(document.contract)))

    def losses(self, model, batch):
        SEEN.append(model.intercept.weight.item())
        features, labels = batch[:2]
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        return loss(model(features), labels, reduction="none")

    def scores(self, model, units):
        with torch.no_grad():
            logits = model(torch.from_numpy(units.features))
        return torch.sigmoid(logits.double()).numpy().astype(np.float64)
'''


def install(folder: Path, *, form: Form = "package") -> Path:
    """Write what `pip install --target folder` leaves of a pure Python wheel; return the task's file."""
    package, information = folder / PACKAGE, folder / f"{PACKAGE}-1.0.dist-info"
    information.mkdir(parents=True)
    source = folder / f"{PACKAGE}.py" if form == "module" else package / "task.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text(SOURCE, encoding="utf-8")
    if form == "package":
        (package / "__init__.py").write_text('"""A task of the laboratory."""\n', encoding="utf-8")
    module = PACKAGE if form == "module" else f"{PACKAGE}.task"
    (information / "METADATA").write_text(METADATA, encoding="utf-8")
    points = ENTRY_POINTS.format(name=NAME, module=module)
    (information / "entry_points.txt").write_text(points, encoding="utf-8")
    return source
