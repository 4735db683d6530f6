"""The data contract of bags: which features each tile of a slide has, how many tiles count, and what is predicted."""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_protocol.contracts.meaning import Finite, Text
from solblom_protocol.contracts.table import Target
from solblom_verify.canonical import canonical_json

MOST_FEATURES = 8192
MOST_NUMBERS = 3 * 256 * 256  # of a tile that is seen as pixels
MOST_TILES = 100_000
FEATURES_VERSION = 1  # of how slides are masked, cut and encoded: another number, another recipe
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


EncoderKind = Literal["external", "builtin", "torchscript", "onnx", "pixels"]
PIXELS_DIM = 3  # numbers that one pixel has


class Encoder(_Table):
    """What makes the features of a tile. Every hospital must use the same.

    `external`: a tool outside Solblom wrote them, and nothing proves which. `builtin`: solblom-texture-1. `torchscript`
    and `onnx`: a file that each hospital has put on its own list, with this digest. `pixels`: the tiles themselves.

    The model sees each feature as `(value - center) / scale`, limited to ±`limit`: public constants, never statistics
    of patients (privacy.md rule 2).
    """

    kind: EncoderKind = "external"
    name: Text  # as the people who made it call it, with its version
    dim: Annotated[int, Field(ge=1, le=MOST_NUMBERS)]  # features of one tile
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # of its weights
    microns_per_pixel: Annotated[float, Field(gt=0, le=100)]
    tile_px: Annotated[int, Field(ge=1, le=10_000)]
    licence: Text
    mean: tuple[Finite, Finite, Finite] = (0.0, 0.0, 0.0)  # of an encoder file's input, RGB in 0..1
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)
    surroundings: bool = False  # beside a tile's features, those of its neighbours and of its slide
    center: Finite | tuple[Finite, ...] = 0.0
    scale: Spread | tuple[Spread, ...] = 1.0
    limit: Annotated[float, Field(gt=0, le=1000)] = 10.0

    @property
    def own_dim(self) -> int:
        """Features of a tile without its surroundings."""
        return self.dim // 3 if self.surroundings else self.dim

    @model_validator(mode="after")
    def _sizes(self) -> "Encoder":
        for name, values in (("center", self.center), ("scale", self.scale)):
            if isinstance(values, tuple) and len(values) != self.dim:
                raise ValueError(
                    f"{name} has {len(values)} values, an encoder of {self.dim} features needs as many, or one"
                )
        return self

    @model_validator(mode="after")
    def _kind(self) -> "Encoder":
        if self.kind in ("builtin", "torchscript", "onnx") and self.sha256 is None:
            raise ValueError(f"an encoder of kind {self.kind} needs sha256")
        if self.surroundings and (self.dim % 3 or self.kind in ("external", "pixels")):
            raise ValueError(
                "surroundings make three times the features of an encoder that runs here"
            )
        numbers = PIXELS_DIM * self.tile_px**2
        if self.kind == "pixels" and self.dim != numbers:
            raise ValueError(f"pixels have dim = 3 x tile_px x tile_px = {numbers}")
        if self.kind != "pixels" and self.dim > MOST_FEATURES:
            raise ValueError(f"dim is at most {MOST_FEATURES}")
        return self


class SlidesTable(_Table):
    """How a slide is cut into tiles, where the node does it (`solblom node features`)."""

    min_tissue: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of a tile
    sharp_only: bool = True  # tiles out of focus are left out
    stain: Literal["as-is", "reinhard", "macenko"] = "as-is"  # brought to a public reference
    assumed_microns_per_pixel: Annotated[float, Field(gt=0, le=10)] | None = None
    views: Annotated[int, Field(ge=1, le=8)] = 1  # of each tile; beyond the first with other stains
    stain_jitter: Annotated[float, Field(ge=0, le=0.5)] = (
        0.0  # spread of log haematoxylin and eosin
    )
    unannotated: Text | None = None  # code of a tile outside all annotations; none: left out

    @model_validator(mode="after")
    def _views(self) -> "SlidesTable":
        if (self.views > 1) != (self.stain_jitter > 0):
            raise ValueError("views above 1 need stain_jitter, and the other way round")
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
    slides: SlidesTable | None = None
    bag: BagTable = BagTable()
    target: Target

    @model_validator(mode="after")
    def _slides(self) -> "BagContract":
        if self.slides is not None and self.encoder.kind == "external":
            raise ValueError(
                "[slides] belongs to an encoder that runs here, and this one is external"
            )
        code = self.cutting.unannotated
        if code is not None and code not in self.target.codes:
            raise ValueError(f"slides.unannotated is {code}, which is no code of the target")
        return self

    @property
    def features_index(self) -> str:
        """Name of the index of bags that a hospital's slides have for this contract: studies do not share one."""
        target = self.target
        codes = [target.column, *sorted(target.positive), "", *sorted(target.negative)]
        told = canonical_json([self.recipe or "", *codes])
        return f"index-{hashlib.sha256(told).hexdigest()[:16]}.csv"

    @property
    def cutting(self) -> SlidesTable:
        """How slides are cut; the defaults where the contract does not say."""
        return self.slides or SlidesTable()

    @property
    def recipe(self) -> str | None:
        """SHA-256 of all that decides a slide's features, in hex: what a bag file must carry.

        None where a tool outside Solblom makes them. Constants that the model applies later have no part in it.
        """
        if self.encoder.kind == "external":
            return None
        encoder = self.encoder.model_dump(
            mode="json", exclude={"name", "licence", "center", "scale", "limit"}
        )
        slides = self.cutting.model_dump(mode="json")
        parts: dict[str, Any] = {"features": FEATURES_VERSION, "encoder": encoder, "slides": slides}
        return hashlib.sha256(canonical_json(parts)).hexdigest()
