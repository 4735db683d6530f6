"""The mask finds stained tissue and leaves out glass, specks and pen; blurred tiles are not sharp."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from slide_lab import GLASS, PUBLIC_SLIDE, needs_public_slide, tissue_picture
from solblom_models.slides.slide import open_slide
from solblom_models.slides.tissue import STRIP, find_tissue, is_sharp, tissue_of
from solblom_simulation.slide_painter import paint
from solblom_simulation.slide_scene import Scanner, SlidePlan, depth_of, scene_of
from solblom_simulation.slides import write_slide

MICRONS = 8.0
PENS = {"blue": (40, 60, 170), "green": (30, 130, 70), "black": (25, 25, 28)}
PLAN = SlidePlan(5, 2000, 2000, Scanner("made-up", 0.5, 0.8, 1.0, 1.5), lesions=1)


def overview(height: int = 400, width: int = 500) -> NDArray[np.uint8]:
    return tissue_picture(height, width, left=100, top=80, right=300, bottom=320)


def test_tissue_is_found_where_it_is() -> None:
    found = tissue_of(overview(), MICRONS)
    assert found.mask[85:315, 105:295].all()
    inside = np.zeros_like(found.mask)
    inside[78:322, 98:302] = True
    assert not found.mask[~inside].any()
    assert found.ink == 0


def test_area_is_in_square_millimetres() -> None:
    assert tissue_of(overview(), MICRONS).area_mm2 == pytest.approx(200 * 240 * 64e-6, rel=0.03)


@pytest.mark.parametrize("grey", [255, 244, 225])
def test_a_slide_of_glass_has_no_tissue(grey: int) -> None:
    noise = np.random.default_rng(1).integers(-3, 4, size=(300, 300, 3))
    glass = np.clip(grey + noise, 0, 255).astype(np.uint8)
    assert not tissue_of(glass, MICRONS).mask.any()
    assert not tissue_of(np.full((50, 60, 3), 255, dtype=np.uint8), MICRONS).mask.any()


@pytest.mark.parametrize("colour", PENS)
def test_pen_is_left_out_on_glass_and_on_tissue(colour: str) -> None:
    picture = overview()
    picture[340:360, 20:480] = picture[190:202, 60:480] = PENS[colour]
    found = tissue_of(picture, MICRONS)
    assert not found.mask[335:365].any()
    assert not found.mask[190:202].any()
    assert found.ink == pytest.approx((20 * 460 + 12 * 420) / picture[..., 0].size, rel=0.2)
    assert found.mask[90:180, 110:290].all()


def test_a_thin_dark_fold_is_no_pen() -> None:
    picture = overview()
    picture[200:202, 120:280] = PENS["black"]
    assert tissue_of(picture, MICRONS).ink == 0


def test_specks_are_left_out_and_small_holes_filled() -> None:
    picture = overview()
    picture[30:36, 400:406] = picture[200, 200]
    picture[150:156, 150:156] = GLASS
    found = tissue_of(picture, MICRONS)
    assert not found.mask[25:41, 395:411].any()
    assert found.mask[150:156, 150:156].all()


def test_strips_of_work_leave_no_seam() -> None:
    high = tissue_picture(3 * STRIP, 200, left=50, top=20, right=150, bottom=3 * STRIP - 20)
    found = tissue_of(high, MICRONS)
    assert found.mask[25:-25, 55:145].all()
    shifted = tissue_of(high[7:], MICRONS)
    assert np.array_equal(shifted.mask[40:], found.mask[47:])


def test_generated_tissue_is_found_by_its_plan(tmp_path: Path) -> None:
    plan = SlidePlan(5, 1200, 1100, PLAN.scanner)
    write_slide(tmp_path / "a.tiff", plan)
    with open_slide(tmp_path / "a.tiff") as slide:
        found = find_tissue(slide)
    assert found.microns_per_pixel == MICRONS
    y, x = np.indices(found.mask.shape, dtype=np.float32) * MICRONS
    depth = depth_of(scene_of(plan).pieces, x, y)
    assert found.mask[depth > 25].mean() > 0.9  # holes of glands are none
    assert not found.mask[depth < -40].any()


@pytest.mark.parametrize("microns", [0.5, 1.0])
def test_a_generated_tile_is_sharp_until_it_is_blurred(microns: float) -> None:
    piece = scene_of(PLAN).pieces[0]
    left, top = int(piece.x / 0.5) - 250, int(piece.y / 0.5) - 250
    whole = paint(PLAN, left, top, 500, 500)
    if microns == 1.0:
        whole = whole.reshape(250, 2, 250, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    blurred = ndimage.gaussian_filter(whole.astype(float), (8 / microns, 8 / microns, 0))
    noisy = blurred + np.random.default_rng(1).normal(0, 2, blurred.shape)
    middle = slice(60, 190)
    assert is_sharp(whole[middle, middle])
    for unclear in (blurred, noisy):
        assert not is_sharp(np.clip(unclear, 0, 255).astype(np.uint8)[middle, middle])


@needs_public_slide
def test_a_real_slides_tissue_is_found_and_its_dye_is_no_tissue() -> None:
    with open_slide(PUBLIC_SLIDE) as slide:
        found = find_tissue(slide)
        assert is_sharp(slide.read(1000, 1800, 128, 128, 1.0))
    assert found.mask[150:170, 72:80].all()  # dermis and epithelium
    assert not found.mask[:55, :45].any()  # glass
    assert 0.4 < found.area_mm2 < 0.8
