"""Generated slides: pyramids that say they are made up, the same from the same seed, with lesions where they say."""

import csv
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from solblom_models.slides.slide import Slide, open_slide
from solblom_simulation import slides
from solblom_simulation.slide_painter import paint
from solblom_simulation.slide_scene import depth_of, scene_of
from solblom_simulation.slides import (
    DESCRIPTION,
    HOSPITALS,
    Scanner,
    SlideHospital,
    SlidePlan,
    lesion_share,
    lesions_of,
    read_truth,
    write_slide,
    write_slide_hospitals,
)

SCANNER = Scanner("made-up", 0.5, 0.8, 1.05, 1.5)
PLAN = SlidePlan(5, 1500, 1300, SCANNER, lesions=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("slides") / "one.tiff"
    write_slide(found, PLAN)
    return found


@pytest.fixture(scope="module")
def slide(path: Path) -> Iterator[Slide]:
    with open_slide(path) as found:
        yield found


def test_openslide_shows_several_levels_of_the_size_asked_for(path: Path) -> None:
    with openslide.OpenSlide(path) as found:
        assert found.properties["openslide.vendor"] == "generic-tiff"
        assert found.level_dimensions == ((1500, 1300), (375, 325))


@pytest.mark.parametrize("microns", [0.5, 0.45, 0.25])
def test_the_file_tells_its_microns_per_pixel(tmp_path: Path, microns: float) -> None:
    scanner = replace(SCANNER, microns_per_pixel=microns)
    write_slide(tmp_path / "a.tiff", SlidePlan(1, 300, 200, scanner))
    with open_slide(tmp_path / "a.tiff") as found:
        assert found.microns_per_pixel == pytest.approx(microns, rel=1e-4)
        assert (found.width, found.height) == (300, 200)
        assert found.warnings == ()


def test_the_file_says_that_it_is_nobodys(path: Path) -> None:
    with tifffile.TiffFile(path) as file:
        assert {page.description for page in file.pages} == {DESCRIPTION}
    assert "no patient" in DESCRIPTION


def test_the_same_plan_gives_the_same_file(path: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "again.tiff", PLAN)
    assert (tmp_path / "again.tiff").read_bytes() == path.read_bytes()


def test_another_seed_gives_another_slide() -> None:
    one, two = (paint(replace(PLAN, seed=seed), 400, 400, 200, 200) for seed in (5, 6))
    assert (one != two).mean() > 0.5


@pytest.mark.parametrize("microns", [0.5, 0.25])
def test_parts_painted_alone_agree_with_the_whole(microns: float) -> None:
    plan = replace(PLAN, scanner=replace(SCANNER, microns_per_pixel=microns))
    whole = paint(plan, 300, 500, 400, 300).astype(int)
    for left, top, width, height in ((300, 500, 90, 80), (411, 603, 201, 97), (693, 750, 7, 50)):
        part = paint(plan, left, top, width, height)
        same = whole[top - 500 : top - 500 + height, left - 300 : left - 300 + width]
        assert np.abs(part - same).max() <= 1  # of 255: sums of another order round otherwise


def test_the_file_holds_what_was_painted_but_for_jpeg(slide: Slide) -> None:
    found = slide.read(500, 450, 300, 300, 0.5).astype(int)
    assert np.abs(found - paint(PLAN, 500, 450, 300, 300)).mean() < 6


def test_levels_show_the_same_picture(slide: Slide) -> None:
    fine = slide.read(400, 400, 400, 400, 0.5).reshape(100, 4, 100, 4, 3).mean(axis=(1, 3))
    small = slide.read(400, 400, 100, 100, 2.0)
    apart = [np.abs(fine - np.roll(small, shift, 1)).mean() for shift in (-1, 0, 1)]
    assert apart[1] < 8 < 12 < min(apart[0], apart[2])  # JPEG alone, against a pixel's shift


def test_a_lesion_is_one_region_inside_tissue() -> None:
    for seed in range(20):
        scene = scene_of(replace(PLAN, seed=seed))
        lump = scene.lesions[0]
        centre = np.array([lump.x], np.float32), np.array([lump.y], np.float32)
        assert depth_of(scene.pieces, *centre)[0] > 0
        angle = np.linspace(0, 7, 200, dtype=np.float32)
        assert lump.reach(angle).min() > 0.3 * lump.radius


def test_the_outline_is_where_the_lesion_ends() -> None:
    corners = np.array(lesions_of(PLAN)[0].polygon) * SCANNER.microns_per_pixel
    x, y = corners.T.astype(np.float32)
    assert np.abs(depth_of(scene_of(PLAN).lesions, x, y)).max() < 0.1


def test_shares_add_up_to_the_lesions_area() -> None:
    side = 50
    places = np.array([(x, y) for y in range(0, 1300, side) for x in range(0, 1500, side)])
    found = lesion_share(PLAN, places, side)
    assert found.min() == 0
    assert found.max() == 1
    y, x = np.indices((1300, 1500), dtype=np.float32) * np.float32(0.5)
    scene = scene_of(PLAN)
    inside = (depth_of(scene.lesions, x, y) > 0) & (depth_of(scene.pieces, x, y) > 0)
    assert found.sum() * side**2 == pytest.approx(inside.sum(), rel=0.02)
    assert lesion_share(PLAN, places[:0], side).shape == (0,)


def test_a_plan_without_lesions_has_none() -> None:
    plan = replace(PLAN, lesions=0)
    assert lesions_of(plan) == ()
    assert lesion_share(plan, np.array([[500, 500]]), 64.0).tolist() == [0.0]


def test_a_lesion_has_more_nuclei_and_changes_nothing_elsewhere() -> None:
    with_one = replace(PLAN, seed=10)  # whose lesion does not lie on a nest, as dark as itself
    without = replace(with_one, lesions=0)
    lump = scene_of(with_one).lesions[0]
    left, top = (int(v / 0.5) - 50 for v in (lump.x, lump.y))
    ill, well = (paint(plan, left, top, 100, 100) for plan in (with_one, without))
    assert (ill[..., 0] < 110).mean() > (well[..., 0] < 110).mean() + 0.2
    seen = 0
    for left, top in ((0, 300), (988, 300), (500, 0), (500, 788)):
        y, x = np.indices((512, 512), dtype=np.float32)
        depth = depth_of(scene_of(with_one).lesions, (x + left) / 2, (y + top) / 2)
        outside = depth < -150  # a gland would not lie across the lesion's edge
        whole, plain = (paint(plan, left, top, 512, 512) for plan in (with_one, without))
        assert np.array_equal(whole[outside], plain[outside])
        seen += int(outside.sum())
    assert seen > 100_000


def test_stain_strength_changes_colour_and_nothing_else() -> None:
    plain = paint(PLAN, 500, 450, 200, 200)
    pale = paint(replace(PLAN, stain=(0.7, 0.7)), 500, 450, 200, 200)
    assert pale.mean() > plain.mean() + 5
    assert np.corrcoef(plain[..., 1].ravel(), pale[..., 1].ravel())[0, 1] > 0.95


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Small hospitals: a quarter of the patients, on fields of a fifth of a millimetre."""
    folder = tmp_path_factory.mktemp("hospitals")
    few = {
        site: SlideHospital(max(hospital.patients // 8, 4), hospital.scanner, hospital.stain)
        for site, hospital in HOSPITALS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slides, "HOSPITALS", few)
        patch.setattr(slides, "SIDES_MM", (0.2, 0.25))
        # Starting processes would take longer than all else here.
        patch.setattr(slides, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
        yield folder, write_slide_hospitals(folder, seed=3)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "slides.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_each_hospital_has_a_table_of_slides_that_open(
    written: tuple[Path, dict[str, Path]],
) -> None:
    assert set(written[1]) == {"bergen", "oslo", "tromso", "trondheim"}
    for site, folder in written[1].items():
        rows = rows_of(folder)
        assert list(rows[0]) == ["patient_id", "file", "label", "scanner"]
        assert {row["scanner"] for row in rows} == {HOSPITALS[site].scanner.name}
        assert len({row["file"] for row in rows}) == len(rows)
        with open_slide(folder / rows[0]["file"]) as slide:
            pixel = HOSPITALS[site].scanner.microns_per_pixel
            assert slide.microns_per_pixel == pytest.approx(pixel, rel=1e-4)


def test_a_label_says_whether_there_is_a_lesion(written: tuple[Path, dict[str, Path]]) -> None:
    for folder in written[1].values():
        plans = read_truth(folder / "truth.json")
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        labels: dict[str, set[str]] = {}
        for row in rows_of(folder):
            plan = plans[row["file"]]
            assert int(row["label"]) == int(plan.lesions > 0)
            assert len(truth["slides"][row["file"]]["lesions"]) == plan.lesions
            labels.setdefault(row["patient_id"], set()).add(row["label"])
        assert all(len(values) == 1 for values in labels.values())
        assert 0 < sum("1" in values for values in labels.values()) < len(labels)


def test_patients_are_called_simulated(written: tuple[Path, dict[str, Path]]) -> None:
    for site, folder in written[1].items():
        for row in rows_of(folder):
            assert row["patient_id"].startswith(f"simulated-{site}-")


def test_one_slide_is_of_nobody_the_hospitals_know(written: tuple[Path, dict[str, Path]]) -> None:
    folder, sites = written
    with open_slide(folder / "new-slide.tiff") as slide:
        assert slide.microns_per_pixel == pytest.approx(0.5)
    new = read_truth(folder / "new-slide.tiff.truth.json")["new-slide.tiff"]
    known = [plan for site in sites.values() for plan in read_truth(site / "truth.json").values()]
    assert new.seed not in {plan.seed for plan in known}
    assert len({plan.seed for plan in known}) == len(known)


def test_the_four_hospitals_are_as_large_as_they_say() -> None:
    sizes = {site: hospital.patients for site, hospital in HOSPITALS.items()}
    assert sizes == {"bergen": 60, "oslo": 48, "tromso": 40, "trondheim": 32}
