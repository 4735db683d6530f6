"""The data contract of bags: which features each tile of a slide has, how many tiles count, and what is predicted."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_protocol.contract import Target
from solblom_protocol.meaning import Finite, Text

MOST_FEATURES = 8192
MOST_TILES = 100_000
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Encoder(_Table):
    """What made the features. Every hospital must have used the same.

    The model sees each feature as `(value - center) / scale`, limited to ±`limit`: public constants, never statistics
    of patients (privacy.md rule 2).
    """

    name: Text  # as the people who made it call it, with its version
    dim: Annotated[int, Field(ge=1, le=MOST_FEATURES)]  # features of one tile
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # of its weights
    microns_per_pixel: Annotated[float, Field(gt=0, le=100)]
    tile_px: Annotated[int, Field(ge=1, le=10_000)]
    licence: Text
    center: Finite | tuple[Finite, ...] = 0.0
    scale: Spread | tuple[Spread, ...] = 1.0
    limit: Annotated[float, Field(gt=0, le=1000)] = 10.0

    @model_validator(mode="after")
    def _sizes(self) -> "Encoder":
        for name, values in (("center", self.center), ("scale", self.scale)):
            if isinstance(values, tuple) and len(values) != self.dim:
                raise ValueError(
                    f"{name} has {len(values)} values, an encoder of {self.dim} features needs as many, or one"
                )
        return self


class BagTable(_Table):
    """How many tiles of a patient count, over all slides together."""

    min_tiles: Annotated[int, Field(ge=1, le=MOST_TILES)] = 1  # fewer: the data are refused
    max_tiles: Annotated[int, Field(ge=1, le=MOST_TILES)] = 10_000  # more: evenly thinned

    @model_validator(mode="after")
    def _order(self) -> "BagTable":
        if self.min_tiles > self.max_tiles:
            raise ValueError("min_tiles is above max_tiles")
        return self


class BagContract(_Table):
    """Patients with one or more slides, of each slide the features of its tiles, and one label a patient."""

    kind: Literal["bags"]
    name: Text
    version: Annotated[int, Field(ge=1)]
    encoder: Encoder
    bag: BagTable = BagTable()
    target: Target
