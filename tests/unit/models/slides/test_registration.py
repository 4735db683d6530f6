"""Pixels of large rectangles and of overviews show the place that they should, on scans of odd resolution too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slide_lab import write_tiff
from solblom_models.slides.slide import Level, Slide, open_slide
from solblom_models.slides.tiles import tile_grid
from solblom_models.slides.tissue import find_tissue

SCANNERS = [0.25, 0.2527, 0.2520, 0.2498, 0.499, 0.2305, 0.2425]
SLOPE = 4.0  # of the pattern, brightness a pixel of what is read
MOST = 0.85  # pixels: see MOST_DRIFT, and rounding of brightness
WIDTH, HEIGHT = 90_000, 5_000


def wave(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return brightness between 20 and 235 that rises and falls by SLOPE."""
    half = 215 / SLOPE
    return 20 + SLOPE * np.abs((x + half) % (2 * half) - half)


class Pattern:
    """A pyramid in memory: waves of a known length across (red) and down (green)."""

    kinds: tuple[str, ...] = ()
    origin = (0, 0)

    def __init__(self, mpp: float, microns: float, shrinks: tuple[int, ...]) -> None:
        self.levels = tuple(Level(WIDTH // k, HEIGHT // k, float(k)) for k in shrinks)
        self.microns_per_pixel = (mpp, mpp)
        self.factor = microns / mpp
        self.sizes: list[tuple[int, int]] = []

    def region(self, left: int, top: int, level: int, width: int, height: int) -> Any:
        self.sizes.append((width, height))
        shrink = self.levels[level].shrink
        x, y = (
            (start + (np.arange(n) + 0.5) * shrink) / self.factor
            for start, n in ((left, width), (top, height))
        )
        found = np.zeros((height, width, 3), dtype=np.uint8)
        found[..., 0] = np.round(wave(x))[None, :]
        found[..., 1] = np.round(wave(y))[:, None]
        return Image.fromarray(found)

    def close(self) -> None:
        pass


def shift(found: NDArray[np.uint8], left: float = 0.0, top: float = 0.0) -> float:
    """Return the largest displacement in a picture of the pattern, in pixels."""
    height, width = found.shape[:2]
    across = np.abs(found[..., 0] - wave(left + np.arange(width) + 0.5)[None, :])
    down = np.abs(found[..., 1] - wave(top + np.arange(height) + 0.5)[:, None])
    return float(max(across.max(), down.max()) / SLOPE)


@pytest.mark.parametrize("mpp", SCANNERS)
@pytest.mark.parametrize("shrinks", [(1, 4, 16, 32), (1, 4, 16), (1, 32)])
def test_an_overview_of_a_wide_slide_neither_drifts_nor_jumps_at_seams(
    mpp: float, shrinks: tuple[int, ...]
) -> None:
    microns = max(8.0, WIDTH * mpp / 4096)
    pattern = Pattern(mpp, microns, shrinks)
    found = Slide(pattern, mpp, ()).overview(microns)
    assert found.shape[1] > 2000  # several blocks of it
    assert shift(found) < MOST


@pytest.mark.parametrize("mpp", SCANNERS)
@pytest.mark.parametrize("microns", [0.5, 1.0])
@pytest.mark.parametrize("px", [64, 256, 1500])
def test_a_rectangle_shows_its_place_however_large_it_is(
    mpp: float, microns: float, px: int
) -> None:
    pattern = Pattern(mpp, microns, (1, 4))
    slide = Slide(pattern, mpp, ())
    for left, top in ((0, 0), (4000, 800)):
        found = slide.read(left, top, px, px, microns)
        assert shift(found, left / pattern.factor, top / pattern.factor) < MOST


@pytest.mark.parametrize(
    ("mpp", "px", "microns", "read"),
    [(0.25, 256, 0.5, 512), (0.5, 256, 0.5, 256), (0.25, 64, 1.0, 64), (0.499, 256, 0.5, 256)],
)
def test_a_tile_at_a_whole_factor_is_read_without_neighbours(
    mpp: float, px: int, microns: float, read: int
) -> None:
    pattern = Pattern(mpp, microns, (1, 4))
    Slide(pattern, mpp, ()).read(4096, 4096, px, px, microns)
    assert pattern.sizes == [(read, read)]


@pytest.mark.parametrize("mpp", [0.25, 0.2527, 0.31, 0.499])
def test_no_white_from_beyond_a_slide_is_mixed_into_its_edges(tmp_path: Path, mpp: float) -> None:
    picture = np.full((1503, 2101, 3), 90, dtype=np.uint8)
    with open_slide(write_tiff(tmp_path / "a.tiff", picture, mpp)) as slide:
        assert (slide.overview(1.0) == 90).all()
        assert (slide.read(0, 0, 200, 200, 0.5) == 90).all()
        assert (slide.read(-300, -300, 64, 64, 0.5) == 255).all()


def test_tiles_at_the_seam_of_an_overview_are_those_with_tissue() -> None:
    """At 0.2527 microns the mask was off by 88 microns at its first seam: a column of tiles too many."""
    mpp = 0.2527
    seam = 1024 * 8 / mpp
    first, last = seam - 12_000, seam - 100

    class Tissue(Pattern):
        def region(self, left: int, top: int, level: int, width: int, height: int) -> Any:
            x = left + (np.arange(width) + 0.5) * self.levels[level].shrink
            found = np.full((height, width, 3), 245, dtype=np.uint8)
            found[:, (x > first) & (x < last)] = (170, 90, 150)
            return Image.fromarray(found)

    slide = Slide(Tissue(mpp, 8.0, (1, 4, 16)), mpp, ())
    grid = tile_grid(slide, find_tissue(slide), tile_px=64, microns_per_pixel=1.0, min_tissue=0.5)
    left = np.round(np.arange(int(WIDTH / grid.side)) * grid.side)
    share = np.minimum(left + grid.side, last) - np.maximum(left, first)
    assert set(grid.places[:, 0].tolist()) == set(left[share >= grid.side / 2].tolist())
