"""From one slide to what a model sees of it: mask, tiles, stain, features.

Pixels are read a few tiles at a time, but what a model sees of every tile stays in memory until the slide is done, so
memory grows with the number of tiles and of views: 4 bytes a feature, three times as many with surroundings; or, where
a model sees pixels, the tiles themselves.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.slide_mil.bags import evenly
from solblom_models.slides.slide import CARRIED, Slide
from solblom_models.slides.slide_error import SlideError
from solblom_models.slides.stain_normalisation import (
    GLASS,
    Restain,
    amounts_of,
    jittered,
    restainer,
)
from solblom_models.slides.tiles import Grid, read_tiles, tile_grid
from solblom_models.slides.tissue import Tissue, find_tissue, is_sharp
from solblom_models.tile_encoder.encoder import with_surroundings
from solblom_models.tile_encoder.encoder_file import Encode
from solblom_protocol.contracts.bags import BagContract

Values = NDArray[Any]
"""Features as float32, or tiles as bytes."""
AT_ONCE = 64  # tiles in memory beside their features
SAMPLED_TILES = 48  # evenly spread over a slide, whose pixels tell its stain
SAMPLED_STRIDE = 3  # every third pixel of them, each way
JITTER_SEED = 20261129  # public; views of a tile are the same wherever they are made
MOSTLY_INK = (
    0.25  # share of the overview that is pen, from which a missing tissue is put down to it
)


@dataclass(frozen=True)
class SlideFacts:
    """What a hospital's own people learn of a slide; nothing of it leaves.

    Attributes:
        tiles: that are used.
        blurred: tiles that were left out as out of focus.
        tissue_mm2: square millimetres of tissue.
        ink: share of the overview that is pen.
        microns_per_pixel: of the scan.
        haematoxylin: mean optical density over stained pixels, before any normalisation.
        eosin: as `haematoxylin`.
        carries: what else the file has that may identify, by kind.
    """

    tiles: int
    blurred: int
    tissue_mm2: float
    ink: float
    microns_per_pixel: float
    haematoxylin: float
    eosin: float
    carries: tuple[str, ...]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "SlideFacts":
        """Return facts that were written as JSON.

        Raises:
            TypeError, ValueError, KeyError: they are others; they would be printed, so no text is taken but ours.
        """
        facts = cls(**{**found, "carries": tuple(found["carries"])})
        for count in (facts.tiles, facts.blurred):
            if type(count) is not int or count < 0:
                raise ValueError("a count is no whole number")
        measured = facts.tissue_mm2, facts.ink, facts.microns_per_pixel
        if not all(map(math.isfinite, (*measured, facts.haematoxylin, facts.eosin))):
            raise ValueError("a measurement is not finite")
        if not set(facts.carries) <= set(CARRIED):
            raise ValueError("a slide carries something unknown")
        return facts


@dataclass(frozen=True)
class SlideFeatures:
    """A slide as a bag.

    Attributes:
        values: features (V N, D), or tiles (V N, P, P, 3) of bytes; views one behind another, the plain one first.
        grid: the places of the N tiles.
        views: V.
        facts: for the hospital's own people.
        origin: of the slide, see Slide.
    """

    values: Values
    grid: Grid
    views: int
    facts: SlideFacts
    origin: tuple[int, int] = (0, 0)

    @property
    def coords(self) -> NDArray[np.int64]:
        """Upper left corners, one for each row of `values`."""
        return np.tile(self.grid.places, (self.views, 1))

    def only(self, tiles: Sequence[int]) -> "SlideFeatures":
        """Return these of the N tiles, in all views."""
        chosen, count = np.asarray(tiles, dtype=np.int64), len(self.grid.places)
        rows = np.concatenate([chosen + view * count for view in range(self.views)])
        grid = replace(self.grid, places=self.grid.places[chosen])
        facts = replace(self.facts, tiles=len(chosen))
        return replace(self, values=self.values[rows], grid=grid, facts=facts)


def slide_features(slide: Slide, contract: BagContract, encode: Encode | None) -> SlideFeatures:
    """Return the features of a slide by a contract; `encode` is None where the model sees pixels.

    Raises:
        SlideError: it is damaged, too coarse, has no tissue, or none in focus.
    """
    encoder, cutting = contract.encoder, contract.cutting
    tissue = find_tissue(slide)
    grid = tile_grid(
        slide,
        tissue,
        tile_px=encoder.tile_px,
        microns_per_pixel=encoder.microns_per_pixel,
        min_tissue=cutting.min_tissue,
    )
    if not len(grid.places):
        raise SlideError(_no_tissue(tissue))
    sample = stained_pixels(slide, grid)
    restain = restainer(cutting.stain, sample)
    sharp, views = _read(slide, grid, contract, restain, encode)
    kept = Grid(grid.places[sharp], grid.side, grid.tile_px, grid.microns_per_pixel)
    if encoder.surroundings:
        views = [_surrounded(view, kept) for view in views]
    facts = SlideFacts(
        len(kept.places),
        int((~sharp).sum()),
        tissue.area_mm2,
        tissue.ink,
        slide.microns_per_pixel,
        *amounts_of(sample),
        slide.warnings,
    )
    return SlideFeatures(np.concatenate(views), kept, len(views), facts, slide.origin)


def stained_pixels(slide: Slide, grid: Grid) -> NDArray[np.uint8]:
    """Return pixels of tissue from tiles that are spread evenly over a slide, shape (N, 3).

    Raises:
        SlideError: the file is damaged there.
    """
    chosen = grid.places[evenly(len(grid.places), SAMPLED_TILES)]
    some = Grid(chosen, grid.side, grid.tile_px, grid.microns_per_pixel)
    parts = [
        tile[::SAMPLED_STRIDE, ::SAMPLED_STRIDE].reshape(-1, 3) for tile in read_tiles(slide, some)
    ]
    pixels = np.concatenate(parts) if parts else np.zeros((0, 3), dtype=np.uint8)
    stained: NDArray[np.uint8] = pixels[pixels.min(axis=1) < GLASS]
    return stained


def _read(
    slide: Slide, grid: Grid, contract: BagContract, restain: Restain, encode: Encode | None
) -> tuple[NDArray[np.bool_], list[Values]]:
    """Return which tiles are in focus, and what the model sees of them, view by view.

    Raises:
        SlideError: no tile is in focus, or the file is damaged.
    """
    cutting = contract.cutting
    generator = np.random.default_rng(JITTER_SEED)
    sharp: list[bool] = []
    parts: list[list[Values]] = [[] for _ in range(cutting.views)]
    for batch in _batches(read_tiles(slide, grid)):
        fine = [not cutting.sharp_only or is_sharp(tile) for tile in batch]
        sharp += fine
        used = [restain(tile) for tile, good in zip(batch, fine, strict=True) if good]
        if not used:
            continue
        tiles = np.stack(used)
        for number, part in enumerate(parts):
            seen = (
                tiles if number == 0 else jittered(tiles, cutting.stain_jitter, generator=generator)
            )
            part.append(seen if encode is None else encode(seen))
    if not parts[0]:
        raise SlideError(f"all {len(sharp)} tiles of tissue are out of focus")
    return np.array(sharp), [np.concatenate(part) for part in parts]


def _batches(tiles: Iterator[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
    while batch := list(islice(tiles, AT_ONCE)):
        yield batch


def _surrounded(view: Values, grid: Grid) -> NDArray[np.float32]:
    return with_surroundings(view.astype(np.float32), grid.places, tile_px=grid.side)


def _no_tissue(tissue: Tissue) -> str:
    if tissue.ink >= MOSTLY_INK:
        return f"no tissue is left where there is no pen, which covers {tissue.ink:.0%} of it"
    return "it has no tissue that fills a tile; tissue is what is coloured, as these stains are"
