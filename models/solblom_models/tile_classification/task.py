"""`tile-classification`: yes or no for each tile, from features; the privacy unit is the patient with all tiles."""

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from solblom_models.layer_settings import LayerSettings
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.slide_mil.task import bag_contract
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.task import AllShared, Units
from solblom_models.tile_classification.net import ContrastHeads, ContrastRegression, TileCnn
from solblom_models.tile_classification.tiles import TileUnits, read_tiles
from solblom_protocol.contracts.bags import Encoder
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.toml_file import parse

AT_ONCE = 256  # tiles that are scored together; bounds memory


class ModelSettings(LayerSettings):
    """`task.model` of a study; `positive_weight` is that of a positive tile."""

    kind: Literal["linear", "contrast", "contrast-heads", "mlp", "cnn"]
    balanced: bool = False  # within each patient, positive and negative tiles weigh alike
    channels: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=6)
    ] = ()  # cnn: of each convolution

    @model_validator(mode="after")
    def _channels(self) -> "ModelSettings":
        if (self.kind == "cnn") != bool(self.channels):
            raise ValueError("channels belongs to cnn, which needs at least one")
        return self


class TileClassification(AllShared):
    """The task of labelled tiles. A patient's loss is the mean over the patient's tiles, and is clipped as one."""

    name: ClassVar[str] = "tile-classification"
    connector: ClassVar[str] = "bags"
    ragged: ClassVar[bool] = True

    def check(self, document: StudyDocument) -> None:
        """Refuse another kind of contract, unknown model kinds and settings, and a net that cannot read the encoder."""
        _check_encoder(_settings(document), bag_contract(document).encoder)

    def read_units(self, source: BagIndex, document: StudyDocument) -> TileUnits:
        """Return the patients of an index of bags with labels.

        Raises:
            DataError: SB-301, SB-302 or SB-307.
        """
        found, settings = read_tiles(source, bag_contract(document)), _settings(document)
        return replace(found, positive_weight=settings.positive_weight, balanced=settings.balanced)

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Return the net at its start, which depends on the public seed only."""
        settings, encoder = _settings(document), bag_contract(document).encoder
        seed = document.study.training.seed
        if settings.kind == "linear":
            return LogisticRegression(encoder.dim)
        if settings.kind == "contrast":
            return ContrastRegression(encoder.dim)
        if settings.kind == "contrast-heads":
            return ContrastHeads(encoder.dim)
        if settings.kind == "cnn":
            return TileCnn(encoder.tile_px, settings.channels, seed=seed)
        return MultilayerPerceptron(encoder.dim, settings.hidden, seed=seed)

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the weighted mean log loss over each patient's tiles, shape (B,); of heads, the sum over them."""
        tiles, labels, weights, sizes = batch
        if not len(sizes):
            return torch.zeros(0)
        logits = (
            model.heads(tiles) if isinstance(model, ContrastHeads) else model(tiles).unsqueeze(-1)
        )
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels.unsqueeze(-1).expand_as(logits), reduction="none"
        )
        losses = weights * each.sum(dim=-1)
        return torch.stack([part.mean() for part in losses.split(sizes.tolist())])

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return each patient's highest probability of a tile, shape (N,)."""
        if not isinstance(units, TileUnits):
            raise TypeError("tile-classification scores tiles")
        tiles = tile_scores(model, units)
        return np.array([tiles[a:b].max() for a, b in pairwise(units.starts.tolist())])


def tile_scores(model: torch.nn.Module, units: TileUnits) -> NDArray[np.float64]:
    """Return each tile's probability of yes, shape (T,)."""
    logits = [torch.zeros(0)]
    with torch.no_grad():
        for start in range(0, len(units.tiles), AT_ONCE):
            logits.append(model(torch.from_numpy(units.seen(slice(start, start + AT_ONCE)))))
    return torch.sigmoid(torch.cat(logits).double()).numpy().astype(np.float64)


def _check_encoder(settings: ModelSettings, encoder: Encoder) -> None:
    """Refuse a net that cannot read what the encoder gives.

    Raises:
        ConfigurationError: SB-106.
    """
    if (settings.kind == "cnn") != (encoder.kind == "pixels"):
        raise ConfigurationError(
            "SB-106",
            f"A {settings.kind} net and an encoder of kind {encoder.kind} do not go together",
            "cnn reads pixels, all other nets read features",
        )
    if settings.kind.startswith("contrast") and not encoder.surroundings:
        raise ConfigurationError(
            "SB-106", "A contrast net compares a tile with its surroundings", "Set surroundings"
        )
    if encoder.tile_px < 2 ** len(settings.channels):
        raise ConfigurationError(
            "SB-106",
            f"Tiles of {encoder.tile_px} pixels are too small for {len(settings.channels)} convolutions of stride 2",
        )


def _settings(document: StudyDocument) -> ModelSettings:
    return parse(ModelSettings, document.study.task.model, source="task.model")
