"""Simulated whole slides: pyramids that look like H&E, with planted lesions, for four made-up hospitals.

Nobody's tissue: each file says so in its description, and each patient's id begins with `simulated`. Hospitals differ
in stain, scanner and resolution, and each slide a little from its hospital's others, so the mean colour does not tell
who is ill; nests of lymphocytes and glands are as dark as a lesion, so the mean of a tile hardly does either.
"""

import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from solblom_simulation.slide_noise import AT_ONCE
from solblom_simulation.slide_painter import paint
from solblom_simulation.slide_scene import Lesion, Scanner, SlidePlan, lesion_share, lesions_of

__all__ = [
    "Lesion",
    "Scanner",
    "SlidePlan",
    "lesion_share",
    "lesions_of",
    "read_truth",
    "write_slide",
    "write_slide_hospitals",
]

DESCRIPTION = "Solblom: a generated image, no patient"
NEW_SLIDE = "new-slide.tiff"  # beside the hospitals: of nobody they know
TRUTH = "truth.json"
TILE = AT_ONCE
SHRINK = 4  # from level to level
SMALLEST = 600  # pixels a side; no further level below
ILL, SECOND_SLIDE = 0.45, 0.1  # shares of patients
SIDES_MM = (0.65, 0.75)
WORKERS = 2


@dataclass(frozen=True)
class SlideHospital:
    """A made-up hospital: its patients, scanner and stain."""

    patients: int
    scanner: Scanner
    stain: tuple[float, float]


HOSPITALS = {
    "bergen": SlideHospital(60, Scanner("made-up A", 0.5, 0.8, 1.0, 1.5), (1.0, 1.0)),
    "oslo": SlideHospital(48, Scanner("made-up B", 0.45, 0.9, 1.1, 2.0), (0.7, 1.25)),
    "tromso": SlideHospital(40, Scanner("made-up C", 0.4, 1.5, 0.95, 1.5), (1.35, 0.75)),
    "trondheim": SlideHospital(32, Scanner("made-up D", 0.5, 0.7, 1.0, 2.5), (0.8, 0.7)),
}
"""The names are cities; no hospital of theirs had a part in this. Stains: setting B of bench/idc_tiles.py."""


def write_slide(path: Path, plan: SlidePlan, *, jpeg_quality: int = 85) -> None:
    """Write a slide as a tiled TIFF pyramid, tile by tile: smaller levels wait in a temporary file, not in memory."""
    import tifffile

    sizes = _sizes(plan)
    with (
        tempfile.TemporaryFile(dir=path.parent) as store,
        tifffile.TiffWriter(path, bigtiff=plan.width * plan.height > 2**30) as file,
    ):
        smaller = _smaller(store, sizes[1:])
        for number, (width, height) in enumerate(sizes):
            below = smaller[number] if number < len(smaller) else None
            tiles = _painted(plan) if number == 0 else _stored(smaller[number - 1])
            pixels = plan.scanner.microns_per_pixel * SHRINK**number
            file.write(
                _kept(tiles, width, below),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": jpeg_quality},
                resolution=(1e4 / pixels, 1e4 / pixels),
                resolutionunit="CENTIMETER",
                description=DESCRIPTION,
                metadata=None,
                software=False,
                subfiletype=0 if number == 0 else 1,
                maxworkers=1,
            )


def write_slide_hospitals(
    folder: Path, *, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Path]:
    """Write each hospital's slides and return the hospitals' folders by site, and write one slide to be predicted.

    A folder holds `slides.csv` (patient_id, file, label, scanner), the files it names, and `truth.json`, which only a
    simulation has: the plan of each slide and its lesions' outlines.

    Args:
        folder: where the hospitals' folders go.
        seed: public; decides everything.
        progress: is told how many slides are written, and of how many.
    """
    jobs: list[tuple[Path, SlidePlan]] = []
    found: dict[str, Path] = {}
    for number, (site, hospital) in enumerate(sorted(HOSPITALS.items())):
        found[site] = folder / site
        (found[site] / "slides").mkdir(parents=True, exist_ok=True)
        plans = _plan_hospital(found[site], site, hospital, seed=seed * 1000 + number * 200)
        jobs += [(found[site] / file, plan) for file, plan in plans.items()]
    new = _plan(HOSPITALS["bergen"], seed * 1000 + 999, lesions=1)
    _write_truth(folder / f"{NEW_SLIDE}.{TRUTH}", {NEW_SLIDE: new})
    jobs.append((folder / NEW_SLIDE, new))
    _write_all(jobs, progress)
    return found


def read_truth(path: Path) -> dict[str, SlidePlan]:
    """Return the plan of each slide that a `truth.json` names."""
    found = {}
    for file, value in json.loads(path.read_text(encoding="utf-8"))["slides"].items():
        plan = value["plan"]
        scanner = Scanner(**plan.pop("scanner"))
        found[file] = SlidePlan(**{**plan, "scanner": scanner, "stain": tuple(plan["stain"])})
    return found


def _write_all(
    jobs: list[tuple[Path, SlidePlan]], progress: Callable[[int, int], None] | None
) -> None:
    # The largest first, so that no process is left with it at the end; `spawn`, for threads do not survive a fork.
    jobs = sorted(jobs, key=lambda job: -job[1].width * job[1].height)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(write_slide, path, plan) for path, plan in jobs]
        for count, done in enumerate(as_completed(waiting), start=1):
            done.result()
            if progress is not None:
                progress(count, len(jobs))


def _plan_hospital(
    folder: Path, site: str, hospital: SlideHospital, *, seed: int
) -> dict[str, SlidePlan]:
    """Write a hospital's table and truth, and return its slides' plans by file."""
    draw = np.random.default_rng(seed)
    ill = draw.permutation(hospital.patients) < round(ILL * hospital.patients)
    two = draw.random(hospital.patients) < SECOND_SLIDE
    rows: list[tuple[str, str, int, str]] = []
    plans: dict[str, SlidePlan] = {}
    for number in range(hospital.patients):
        patient = f"simulated-{site}-{number + 1:03d}"
        for turn in range(2 if two[number] else 1):
            file = f"slides/{patient}-{turn + 1}.tiff"
            lesions = int(draw.integers(1, 3)) if ill[number] else 0
            plans[file] = _plan(hospital, seed + len(plans) + 1, lesions=lesions)
            rows.append((patient, file, int(ill[number]), hospital.scanner.name))
    with (folder / "slides.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("patient_id", "file", "label", "scanner"))
        writer.writerows(rows)
    _write_truth(folder / TRUTH, plans)
    return plans


def _plan(hospital: SlideHospital, seed: int, *, lesions: int) -> SlidePlan:
    sides = np.random.default_rng((seed, 3)).uniform(*SIDES_MM, size=2)
    width, height = (int(side * 1000 / hospital.scanner.microns_per_pixel) for side in sides)
    return SlidePlan(seed, width, height, hospital.scanner, hospital.stain, lesions)


def _write_truth(path: Path, plans: dict[str, SlidePlan]) -> None:
    slides = {
        file: {
            "plan": asdict(plan),
            "lesions": [
                [[round(x, 1), round(y, 1)] for x, y in lesion.polygon]
                for lesion in lesions_of(plan)
            ],
        }
        for file, plan in plans.items()
    }
    value: dict[str, Any] = {"generated": DESCRIPTION, "slides": slides}
    path.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")


def _sizes(plan: SlidePlan) -> list[tuple[int, int]]:
    """Return width and height of each level."""
    found = [(plan.width, plan.height)]
    while max(found[-1]) > SMALLEST and min(found[-1]) >= 2 * SHRINK:
        found.append((found[-1][0] // SHRINK, found[-1][1] // SHRINK))
    return found


def _smaller(store: IO[bytes], sizes: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    """Return an array in a file for each of the smaller levels."""
    found: list[NDArray[np.uint8]] = []
    offset = 0
    for width, height in sizes:
        shape = (height, width, 3)
        found.append(np.memmap(store, np.uint8, "w+", offset=offset, shape=shape))
        offset += width * height * 3
    return found


def _painted(plan: SlidePlan) -> Iterator[NDArray[np.uint8]]:
    for top in range(0, plan.height, TILE):
        for left in range(0, plan.width, TILE):
            yield paint(plan, left, top, min(TILE, plan.width - left), min(TILE, plan.height - top))


def _stored(level: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for top in range(0, level.shape[0], TILE):
        for left in range(0, level.shape[1], TILE):
            yield np.asarray(level[top : top + TILE, left : left + TILE])


def _kept(
    tiles: Iterator[NDArray[np.uint8]], width: int, below: NDArray[np.uint8] | None
) -> Iterator[NDArray[np.uint8]]:
    """Pass tiles on, filled up to their full size, and keep them shrunk in the next level."""
    across = -(-width // TILE)
    for number, tile in enumerate(tiles):
        if below is not None:
            y, x = (number // across) * TILE // SHRINK, (number % across) * TILE // SHRINK
            small = _shrunk(tile)[: below.shape[0] - y, : below.shape[1] - x]
            below[y : y + small.shape[0], x : x + small.shape[1]] = small
        fill = [(0, TILE - side) for side in tile.shape[:2]]
        yield np.pad(tile, (*fill, (0, 0)), mode="edge") if any(map(any, fill)) else tile


def _shrunk(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of each square of pixels."""
    height, width = (side // SHRINK * SHRINK for side in tile.shape[:2])
    whole = tile[:height, :width].astype(np.uint16)
    rows = whole[0::SHRINK] + whole[1::SHRINK] + whole[2::SHRINK] + whole[3::SHRINK]
    sums = rows[:, 0::SHRINK] + rows[:, 1::SHRINK] + rows[:, 2::SHRINK] + rows[:, 3::SHRINK]
    found: NDArray[np.uint8] = ((sums + SHRINK**2 // 2) // SHRINK**2).astype(np.uint8)
    return found
