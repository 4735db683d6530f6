"""A slide is read by microns per pixel: right between levels, white outside, alike by both readers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from slide_lab import PUBLIC_SLIDE, needs_public_slide, write_tiff
from solblom_models.slides.pixel_sources import OpenSlidePixels, TiffPixels
from solblom_models.slides.slide import Slide, open_slide
from solblom_models.slides.slide_error import SlideError

WIDTH, HEIGHT, FINE = 1024, 768, 0.25
Pixels = NDArray[np.uint8]


def ramp(shrink: int = 1) -> Pixels:
    """Return a picture whose red and green tell the place, in pixels of the largest level."""
    x = (np.arange(WIDTH // shrink) + 0.5) * shrink
    y = (np.arange(HEIGHT // shrink) + 0.5) * shrink
    found = np.zeros((HEIGHT // shrink, WIDTH // shrink, 3), dtype=np.uint8)
    found[..., 0], found[..., 1] = np.floor(x / 4)[None, :], np.floor(y / 4)[:, None]
    found[..., 2] = 10 * shrink  # which level it is
    return found


def pyramid(path: Path, levels: tuple[Pixels, ...]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels):
            file.write(
                level,
                tile=(128, 128),
                photometric="rgb",
                resolution=(1e4 / FINE, 1e4 / FINE),
                resolutionunit="CENTIMETER",
                subfiletype=min(number, 1),
                metadata=None,
            )
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = pyramid(tmp_path_factory.mktemp("slide") / "ramp.tiff", (ramp(), ramp(4)))
    with open_slide(path) as found:
        yield found


def test_size_and_resolution_are_those_of_the_largest_level(slide: Slide) -> None:
    assert (slide.width, slide.height, slide.microns_per_pixel) == (WIDTH, HEIGHT, FINE)
    assert [level.shrink for level in slide.pixels.levels] == [1.0, 4.0]


@pytest.mark.parametrize("microns", [0.25, 0.4, 0.5, 0.7, 1.0, 1.3, 2.0, 3.1])
def test_a_pixel_shows_the_place_it_should_at_every_resolution(
    slide: Slide, microns: float
) -> None:
    left, top, px = 64, 32, 48
    factor = microns / FINE
    found = slide.read(left, top, px, px, microns).astype(float)
    centres = (np.arange(px) + 0.5) * factor
    # A step of the ramp is 4 pixels; edges of a rectangle have no neighbours to be mixed with.
    middle = slice(2, -2)
    wide, high = found[px // 2, middle, 0] * 4 + 2, found[middle, px // 2, 1] * 4 + 2
    assert np.abs(wide - (left + centres[middle])).max() <= 4
    assert np.abs(high - (top + centres[middle])).max() <= 4


@pytest.mark.parametrize(("microns", "level"), [(0.25, 1), (0.99, 4), (0.5, 1), (1.0, 4), (2.0, 4)])
def test_the_coarsest_level_that_is_fine_enough_is_read(
    slide: Slide, microns: float, level: int
) -> None:
    assert (slide.read(0, 0, 32, 32, microns)[..., 2] == 10 * level).all()


def test_whole_squares_of_pixels_become_their_mean(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, size=(128, 128, 3), dtype=np.uint8)
    with open_slide(write_tiff(tmp_path / "a.tiff", picture, 0.5)) as found:
        half = found.read(0, 0, 64, 64, 1.0).astype(float)
    assert np.abs(half - picture.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))).max() <= 0.5


def test_the_same_tissue_from_two_scanners_is_the_same(tmp_path: Path) -> None:
    fine = np.kron(ramp(8), np.ones((2, 2, 1), dtype=np.uint8))
    with open_slide(write_tiff(tmp_path / "fine.tiff", fine, 0.25)) as one:
        a = one.read(32, 32, 40, 40, 0.5)
    with open_slide(write_tiff(tmp_path / "coarse.tiff", ramp(8), 0.5)) as two:
        b = two.read(16, 16, 40, 40, 0.5)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("corner", [(-40, -40), (WIDTH - 40, HEIGHT - 40), (5 * WIDTH, 0)])
def test_outside_is_white(slide: Slide, corner: tuple[int, int]) -> None:
    found = slide.read(*corner, 80, 80, FINE)
    x, y = corner[0] + np.arange(80), corner[1] + np.arange(80)
    outside = ~(((x >= 0) & (x < WIDTH))[None, :] & ((y >= 0) & (y < HEIGHT))[:, None])
    assert (found[outside] == 255).all()
    assert not (found[~outside] == 255).all(axis=-1).any()


def test_an_overview_is_the_whole_slide(slide: Slide) -> None:
    found = slide.overview(2.0)
    assert found.shape == (HEIGHT // 8, WIDTH // 8, 3)
    assert np.array_equal(found, slide.read(0, 0, WIDTH // 8, HEIGHT // 8, 2.0))


def test_a_coarser_scan_than_asked_for_is_refused(slide: Slide) -> None:
    slide.check_resolution(0.23)
    with pytest.raises(SlideError, match=r"scanned at 0\.25 microns per pixel.*reads 0\.2"):
        slide.check_resolution(0.2)


def test_both_readers_see_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "jpeg.tiff"
    noise = np.random.default_rng(2).normal(0, 4, size=(500, 700, 3))
    picture = np.clip(128 + np.cumsum(noise, axis=1), 0, 255).astype(np.uint8)
    tifffile.imwrite(path, picture, tile=(128, 128), photometric="rgb", compression="jpeg")
    one, two = OpenSlidePixels(openslide.OpenSlide(path), ()), TiffPixels(path, ())
    for rectangle in ((0, 0, 0, 700, 500), (130, 70, 0, 300, 333), (600, 400, 0, 200, 200)):
        assert np.array_equal(
            np.asarray(one.region(*rectangle)), np.asarray(two.region(*rectangle))
        )
    assert one.levels == two.levels
    one.close()
    two.close()


def test_a_tiff_in_strips_is_read_though_openslide_does_not_know_it(tmp_path: Path) -> None:
    path = tmp_path / "strips.tiff"
    picture = ramp(2)
    tifffile.imwrite(
        path, picture, photometric="rgb", rowsperstrip=16, resolution=(2e4, 2e4), resolutionunit=3
    )
    with open_slide(path) as found:
        assert isinstance(found.pixels, TiffPixels)
        assert np.array_equal(found.read(50, 40, 300, 200, 0.5), picture[40:240, 50:350])


def test_an_assumed_resolution_is_taken_where_the_file_says_none(tmp_path: Path) -> None:
    path = tmp_path / "silent.tiff"
    tifffile.imwrite(path, ramp(4), photometric="rgb", tile=(128, 128))
    with open_slide(path, assumed_microns_per_pixel=0.5) as found:
        assert found.microns_per_pixel == 0.5


def test_tags_that_may_identify_are_told_by_kind_alone(tmp_path: Path) -> None:
    path = tmp_path / "named.tiff"
    tifffile.imwrite(
        path,
        ramp(4),
        photometric="rgb",
        tile=(128, 128),
        resolution=(2e4, 2e4),
        resolutionunit=3,
        extratags=[(315, 2, None, "Dr Nordmann", True)],
    )
    with open_slide(path) as found:
        assert found.warnings == ("tags that may identify",)


@needs_public_slide
def test_a_real_scanners_slide_is_read() -> None:
    with open_slide(PUBLIC_SLIDE) as found:
        assert found.microns_per_pixel == pytest.approx(0.499)
        assert found.warnings == ("a label image", "a macro image", "tags that may identify")
        assert found.read(1000, 1800, 64, 64, 1.0).shape == (64, 64, 3)
