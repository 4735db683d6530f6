"""A grid of tiles over the tissue of a slide; memory does not grow with the slide."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.slide import Slide
from solblom_models.slides.tissue import Tissue


@dataclass(frozen=True)
class Grid:
    """Places of tiles on a slide.

    Attributes:
        places: upper left corners, pixels of the largest level, shape (N, 2), row by row.
        side: of a tile, pixels of the largest level.
        tile_px: pixels of a tile as it is read.
        microns_per_pixel: at which it is read.
    """

    places: NDArray[np.int64]
    side: float
    tile_px: int
    microns_per_pixel: float

    @property
    def middles(self) -> NDArray[np.float64]:
        """Middles of the tiles, pixels of the largest level, shape (N, 2)."""
        return self.places.astype(np.float64) + self.side / 2


def tile_grid(
    slide: Slide, tissue: Tissue, *, tile_px: int, microns_per_pixel: float, min_tissue: float
) -> Grid:
    """Return the tiles of which at least the share `min_tissue` is tissue; they touch and do not overlap.

    Raises:
        SlideError: the scan does not have this resolution.
    """
    slide.check_resolution(microns_per_pixel)
    side = tile_px * microns_per_pixel / slide.microns_per_pixel
    across, down = int(slide.width / side), int(slide.height / side)
    scale = slide.microns_per_pixel / tissue.microns_per_pixel
    left = np.round(np.arange(across) * side).astype(np.int64)
    top = np.round(np.arange(down) * side).astype(np.int64)
    share = _shares(tissue.mask, left * scale, top * scale, side * scale)
    rows, columns = np.nonzero(share >= min_tissue)
    return Grid(np.stack([left[columns], top[rows]], axis=1), side, tile_px, microns_per_pixel)


def read_tiles(slide: Slide, grid: Grid) -> Iterator[NDArray[np.uint8]]:
    """Give each tile, shape (tile_px, tile_px, 3), in the order of the grid.

    Raises:
        SlideError: the file is damaged there.
    """
    for left, top in grid.places.tolist():
        yield slide.read(left, top, grid.tile_px, grid.tile_px, grid.microns_per_pixel)


def _shares(
    mask: NDArray[np.bool_],
    left: NDArray[np.floating[Any]],
    top: NDArray[np.floating[Any]],
    side: float,
) -> NDArray[np.float64]:
    """Return the share of tissue in each square of the mask, shape (len(top), len(left)), by an integral image."""
    height, width = mask.shape
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    x0 = np.clip(np.floor(left).astype(np.int64), 0, width - 1)
    y0 = np.clip(np.floor(top).astype(np.int64), 0, height - 1)
    x1 = np.clip(np.ceil(left + side).astype(np.int64), x0 + 1, width)
    y1 = np.clip(np.ceil(top + side).astype(np.int64), y0 + 1, height)
    inside = sums[y1][:, x1] - sums[y1][:, x0] - sums[y0][:, x1] + sums[y0][:, x0]
    found: NDArray[np.float64] = inside / ((y1 - y0)[:, None] * (x1 - x0)[None])
    return found
