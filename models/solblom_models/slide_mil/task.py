"""`slide-mil`: yes or no for a patient, from the tiles of all slides; nobody says which tiles matter."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_models.slide_mil.bags import BagIndex, BagUnits, read_bags
from solblom_models.slide_mil.net import GatedAttention, MeanPooling
from solblom_models.task import AllShared, Units
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.contracts.kinds import contract_as
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.toml_file import parse


class ModelSettings(BaseModel):
    """`task.model` of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mean", "gated-attention"]
    hidden: Annotated[int, Field(ge=1, le=4096)] | None = None  # gated-attention: units
    positive_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0  # public, of a patient's loss

    @model_validator(mode="after")
    def _hidden(self) -> "ModelSettings":
        if (self.kind == "gated-attention") != (self.hidden is not None):
            raise ValueError("hidden belongs to gated-attention, which needs it")
        return self


class SlideMil(AllShared):
    """The task of bags; the privacy unit is the patient with all slides, whose gradient is clipped as one."""

    name: ClassVar[str] = "slide-mil"
    connector: ClassVar[str] = "bags"
    ragged: ClassVar[bool] = True

    def check(self, document: StudyDocument) -> None:
        """Refuse another kind of contract, unknown model kinds and settings."""
        encoder = bag_contract(document).encoder
        if encoder.kind == "pixels":
            raise ConfigurationError("SB-106", "slide-mil reads features of tiles, not pixels")
        _settings(document)

    def read_units(self, source: BagIndex, document: StudyDocument) -> BagUnits:
        """Return the patients of an index of bags.

        Raises:
            DataError: SB-301, SB-302 or SB-307.
        """
        found = read_bags(source, bag_contract(document))
        return replace(found, positive_weight=_settings(document).positive_weight)

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Return the net at its start, which depends on the public seed only."""
        settings, features = _settings(document), bag_contract(document).encoder.dim
        if settings.hidden is None:
            return MeanPooling(features)
        return GatedAttention(features, settings.hidden, seed=document.study.training.seed)

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the log loss of each patient, shape (B,)."""
        bags, labels, weights = batch
        if not bags:
            return torch.zeros(0)
        logits = torch.stack([model(bag)[0] for bag in bags])
        losses: torch.Tensor = weights * torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none"
        )
        return losses

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return each patient's probability of yes, shape (N,); one bag is in memory at a time."""
        if not isinstance(units, BagUnits):
            raise TypeError("slide-mil scores bags")
        with torch.no_grad():
            logits = [
                float(model(torch.from_numpy(units.bag(i)))[0]) for i in range(len(units.ids))
            ]
        return torch.sigmoid(torch.tensor(logits, dtype=torch.float64)).numpy().astype(np.float64)


def bag_contract(document: StudyDocument) -> BagContract:
    """Return the contract of a study on bags.

    Raises:
        ConfigurationError: SB-106, it is one of something else.
    """
    return contract_as(BagContract, document.contract, task=document.study.task.name)


def _settings(document: StudyDocument) -> ModelSettings:
    return parse(ModelSettings, document.study.task.model, source="task.model")
