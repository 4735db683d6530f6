"""Tiles of a grid touch, do not overlap, and hold the share of tissue that was asked for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slide_lab import tissue_picture, write_tiff
from solblom_models.slides.slide import Slide, open_slide
from solblom_models.slides.slide_error import SlideError
from solblom_models.slides.tiles import Grid, read_tiles, tile_grid
from solblom_models.slides.tissue import Tissue, find_tissue

LEFT, TOP, RIGHT, BOTTOM = 200, 160, 1000, 800
PICTURE = tissue_picture(960, 1280, left=LEFT, top=TOP, right=RIGHT, bottom=BOTTOM)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_tiff(tmp_path_factory.mktemp("slide") / "a.tiff", PICTURE, 0.5)
    with open_slide(path) as found:
        yield found


@pytest.fixture(scope="module")
def tissue(slide: Slide) -> Tissue:
    return find_tissue(slide)


def cut(
    slide: Slide, tissue: Tissue, *, px: int = 64, microns: float = 0.5, least: float = 0.5
) -> Grid:
    return tile_grid(slide, tissue, tile_px=px, microns_per_pixel=microns, min_tissue=least)


@pytest.mark.parametrize(("px", "microns"), [(64, 0.5), (64, 0.73), (50, 1.0), (96, 0.46)])
def test_tiles_touch_and_do_not_overlap(
    slide: Slide, tissue: Tissue, px: int, microns: float
) -> None:
    grid = cut(slide, tissue, px=px, microns=microns, least=0.0)
    assert grid.side == pytest.approx(px * microns / 0.5)
    for axis, length in ((0, slide.width), (1, slide.height)):
        starts = np.unique(grid.places[:, axis])
        assert starts[0] == 0
        assert len(starts) == int(length / grid.side)
        assert np.abs(starts - np.arange(len(starts)) * grid.side).max() <= 0.5
        assert starts[-1] + grid.side <= length + 0.5
    assert len(np.unique(grid.places, axis=0)) == len(grid.places)


def test_all_tiles_of_a_grid_lie_in_tissue(slide: Slide, tissue: Tissue) -> None:
    grid = cut(slide, tissue, least=0.95)
    left, top = grid.places[:, 0], grid.places[:, 1]
    slack = 8 / 0.5 * 2  # a pixel of the mask, and what smoothing adds
    assert (left >= LEFT - slack).all()
    assert (left + 64 <= RIGHT + slack).all()
    assert (top >= TOP - slack).all()
    assert (top + 64 <= BOTTOM + slack).all()
    assert len(grid.places) >= 10 * 8


@pytest.mark.parametrize(("lower", "higher"), [(0.1, 0.5), (0.5, 0.9)])
def test_more_tissue_asked_for_gives_fewer_tiles(
    slide: Slide, tissue: Tissue, lower: float, higher: float
) -> None:
    many = {tuple(place) for place in cut(slide, tissue, least=lower).places.tolist()}
    few = {tuple(place) for place in cut(slide, tissue, least=higher).places.tolist()}
    assert few < many


def test_tiles_come_row_by_row_with_the_pixels_of_their_places(
    slide: Slide, tissue: Tissue
) -> None:
    grid = cut(slide, tissue)
    order = [(top, left) for left, top in grid.places.tolist()]
    assert order == sorted(order)
    tiles = list(read_tiles(slide, grid))
    assert len(tiles) == len(grid.places)
    for (left, top), tile in zip(grid.places.tolist(), tiles, strict=True):
        assert np.array_equal(tile, PICTURE[top : top + 64, left : left + 64])


def test_a_slide_without_tissue_has_no_tiles(slide: Slide, tissue: Tissue) -> None:
    nothing = Tissue(np.zeros_like(tissue.mask), tissue.microns_per_pixel, 0.0)
    grid = cut(slide, nothing)
    assert grid.places.shape == (0, 2)
    assert list(read_tiles(slide, grid)) == []


def test_a_tile_larger_than_the_slide_gives_no_tiles(slide: Slide, tissue: Tissue) -> None:
    assert cut(slide, tissue, px=4096).places.shape == (0, 2)


def test_a_finer_resolution_than_scanned_is_refused(slide: Slide, tissue: Tissue) -> None:
    with pytest.raises(SlideError):
        cut(slide, tissue, microns=0.25)


def test_places_depend_on_microns_and_not_on_the_scanner(tmp_path: Path, slide: Slide) -> None:
    half = PICTURE.reshape(480, 2, 640, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    with open_slide(write_tiff(tmp_path / "half.tiff", half, 1.0)) as other:
        one = cut(slide, find_tissue(slide), px=32, microns=1.0)
        two = cut(other, find_tissue(other), px=32, microns=1.0)
    assert np.array_equal(one.places, two.places * 2)
