"""`tile-classification`: yes or no for each tile, from features; the privacy unit is the patient with all tiles."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.layer_settings import LayerSettings
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.slide_mil.task import bag_contract
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.task import AllShared, Units
from solblom_models.tile_classification.tiles import TileUnits, read_tiles
from solblom_protocol.study import StudyDocument
from solblom_protocol.toml_file import parse


class ModelSettings(LayerSettings):
    """`task.model` of a study; `positive_weight` is that of a positive tile."""

    kind: Literal["linear", "mlp"]


class TileClassification(AllShared):
    """The task of labelled tiles. A patient's loss is the mean over the patient's tiles, and is clipped as one."""

    name: ClassVar[str] = "tile-classification"
    connector: ClassVar[str] = "bags"
    ragged: ClassVar[bool] = True

    def check(self, document: StudyDocument) -> None:
        """Refuse another kind of contract, unknown model kinds and settings."""
        bag_contract(document)
        _settings(document)

    def read_units(self, source: BagIndex, document: StudyDocument) -> TileUnits:
        """Return the patients of an index of bags with labels.

        Raises:
            DataError: SB-301, SB-302 or SB-307.
        """
        found = read_tiles(source, bag_contract(document))
        return replace(found, positive_weight=_settings(document).positive_weight)

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Return the net at its start, which depends on the public seed only."""
        settings, features = _settings(document), bag_contract(document).encoder.dim
        if settings.kind == "linear":
            return LogisticRegression(features)
        return MultilayerPerceptron(features, settings.hidden, seed=document.study.training.seed)

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the mean log loss over each patient's tiles, shape (B,)."""
        tiles, labels, weights, sizes = batch
        if not len(sizes):
            return torch.zeros(0)
        losses = weights * torch.nn.functional.binary_cross_entropy_with_logits(
            model(tiles), labels, reduction="none"
        )
        return torch.stack([part.mean() for part in losses.split(sizes.tolist())])

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return each patient's highest probability of a tile, shape (N,)."""
        if not isinstance(units, TileUnits):
            raise TypeError("tile-classification scores tiles")
        tiles = tile_scores(model, units)
        return np.array([tiles[a:b].max() for a, b in pairwise(units.starts.tolist())])


def tile_scores(model: torch.nn.Module, units: TileUnits) -> NDArray[np.float64]:
    """Return each tile's probability of yes, shape (T,)."""
    with torch.no_grad():
        logits = model(torch.from_numpy(units.tiles))
    return torch.sigmoid(logits.double()).numpy().astype(np.float64)


def _settings(document: StudyDocument) -> ModelSettings:
    return parse(ModelSettings, document.study.task.model, source="task.model")
