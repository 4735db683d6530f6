"""Whole slides: memory and time on 100,000 x 100,000 pixels, speed beside plain OpenSlide, and what counts as sharp.

Memory and mask: a generated slide (bench/large_slide.py) is masked, tiled and read in a process of its own, whose peak
is VmHWM. Needs about 3 GB of free disk for a few minutes.

Speed: CPU seconds of `read_tiles` beside OpenSlide's `read_region` of the same places at the same level, alternating on
one file; what `read_tiles` adds is white for transparent pixels, RGB, and the resolution asked for.

Sharp: tiles of tissue, the same blurred by a Gaussian, and the same blurred with a sensor's noise and JPEG on top, as a
slide out of focus is stored. The public slide's folder is named by SOLBLOM_SLIDES (cmu_small_region.svs, OpenSlide's
CMU-1-Small-Region, CC0); without it, generated slides alone are measured.

GOALS: peak below 1 GB; 0.7 of plain OpenSlide's tiles per second; 99 % of tiles sharp, and 95 % of blurred ones not.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openslide
from large_slide import SIDE, write_large
from numpy.typing import NDArray
from PIL import Image
from report import Goal, Table, finish, load_average
from scipy import ndimage

from solblom_models.slides.slide import Slide, open_slide
from solblom_models.slides.tiles import Grid, read_tiles, tile_grid
from solblom_models.slides.tissue import find_tissue, is_sharp
from solblom_simulation.slides import HOSPITALS, SlidePlan, write_slide

SLIDES, PUBLIC = "SOLBLOM_SLIDES", "cmu_small_region.svs"
SEED = 11
DISK_BYTES = 3e9
TILE_PX, MICRONS = 256, 0.5
EVERY = 2  # tile of the large slide is read in the memory run
PLACES, REPEATS = 300, 7
SPEEDS = ((256, 0.5), (256, 1.0), (64, 1.0))
SHARP_TILES = ((64, 0.5), (64, 1.0), (256, 0.5), (256, 1.0))
SHARP_PLACES = 150  # a slide, tile size and resolution
BLURS = (2.0, 4.0, 8.0)  # microns
NOISE, JPEG = 2.0, 80
GOAL_MB, GOAL_RATIO, GOAL_SHARP, GOAL_BLURRED = 1000.0, 0.7, 0.99, 0.95
NOT_FOUND = f"{SLIDES} names no folder with {PUBLIC}"


def main() -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write the result there")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        return _read(options.read)
    load = load_average()
    found: dict[str, Any] = {}
    public = Path(os.environ.get(SLIDES, "")) / PUBLIC
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < DISK_BYTES:
            raise SystemExit("error: less than 3 GB of disk is free for the large slide")
        large = folder / "large.tiff"
        start = time.monotonic()
        write_large(large, seed=SEED)
        found["large_slide"] = {
            "seconds_to_write": round(time.monotonic() - start, 1),
            "bytes": large.stat().st_size,
        }
        found["memory"] = _memory(large)
        found["speed"] = {
            f"generated, {px} px at {mpp:g}": _speed(large, px, mpp) for px, mpp in SPEEDS
        }
        large.unlink()
        slides = _generated(folder)
        if public.is_file():
            found["public"] = _public(public)
            found["speed"][f"public, {TILE_PX} px at {MICRONS:g}"] = _speed(
                public, TILE_PX, MICRONS
            )
            slides["public"] = public
        found["sharp"] = {name: _sharp(path) for name, path in slides.items()}
    _report(found, load=load, out=options.out)
    return 0


def _memory(path: Path) -> dict[str, Any]:
    """Return what a process of its own found, its peak included."""
    command = [sys.executable, str(Path(__file__).resolve()), "--read", str(path)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _read(path: Path) -> int:
    found: dict[str, Any] = {"peak_mb_before": _peak_mb()}
    with open_slide(path) as slide:
        wall, start = time.monotonic(), time.process_time()
        tissue = find_tissue(slide)
        found["mask_seconds"] = round(time.monotonic() - wall, 2)
        found["mask_cpu_seconds"] = round(time.process_time() - start, 2)
        found["peak_mb_mask"] = _peak_mb()
        grid = tile_grid(slide, tissue, tile_px=TILE_PX, microns_per_pixel=MICRONS, min_tissue=0.5)
        found |= {"tissue_mm2": round(tissue.area_mm2, 1), "tiles": len(grid.places)}
        some = _some(grid, EVERY)
        start = time.process_time()
        read = sum(tile.shape == (TILE_PX, TILE_PX, 3) for tile in read_tiles(slide, some))
        found["cpu_seconds"] = round(time.process_time() - start, 1)
        found |= {"tiles_read": read, "peak_mb": _peak_mb()}
    print(json.dumps(found))
    return 0


def _peak_mb() -> float:
    # Not ru_maxrss: a child begins with what its parent had at the fork.
    match = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    if match is None:
        raise SystemExit("error: this system does not tell a process's peak memory")
    return round(int(match[1]) / 1024, 1)


def _some(grid: Grid, every: int) -> Grid:
    return Grid(grid.places[::every], grid.side, grid.tile_px, grid.microns_per_pixel)


def _grid(slide: Slide, px: int, mpp: float, most: int) -> Grid:
    """Return tiles of tissue, up to so many, in runs as a grid has them."""
    whole = tile_grid(slide, find_tissue(slide), tile_px=px, microns_per_pixel=mpp, min_tissue=0.5)
    start = max(len(whole.places) // 2 - most // 2, 0)
    return Grid(whole.places[start : start + most], whole.side, px, mpp)


def _speed(path: Path, px: int, mpp: float) -> dict[str, Any]:
    """Return CPU milliseconds a tile of both readers, alternating, and ratios of their tiles per second."""
    with open_slide(path) as slide, openslide.OpenSlide(path) as plain:
        grid = _grid(slide, px, mpp, PLACES)
        factor = mpp / slide.microns_per_pixel
        number = plain.get_best_level_for_downsample(factor * 1.02)
        side = round(px * factor / plain.level_downsamples[number])
        ours, theirs = [], []
        for _ in range(REPEATS):
            start = time.process_time()
            for _ in read_tiles(slide, grid):
                pass
            ours.append((time.process_time() - start) / len(grid.places) * 1000)
            start = time.process_time()
            for left, top in grid.places.tolist():
                plain.read_region((left, top), number, (side, side))
            theirs.append((time.process_time() - start) / len(grid.places) * 1000)
    return {
        "places": len(grid.places),
        "level": number,
        "pixels_read": side,
        "ours_ms": [round(value, 3) for value in ours],
        "plain_ms": [round(value, 3) for value in theirs],
        "ratios": [round(b / a, 3) for a, b in zip(ours, theirs, strict=True)],
    }


def _public(path: Path) -> dict[str, Any]:
    """Return that the public slide opens, is masked and tiled, and what its reader warns of."""
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        grid = tile_grid(slide, tissue, tile_px=TILE_PX, microns_per_pixel=MICRONS, min_tissue=0.5)
        tiles = list(read_tiles(slide, grid))
        return {
            "microns_per_pixel": round(slide.microns_per_pixel, 4),
            "warnings": slide.warnings,
            "tissue_mm2": round(tissue.area_mm2, 2),
            "tiles": len(tiles),
            "shape": tiles[0].shape if tiles else None,
        }


def _generated(folder: Path) -> dict[str, Path]:
    found = {}
    for number, (site, hospital) in enumerate(sorted(HOSPITALS.items())):
        side = int(1100 / hospital.scanner.microns_per_pixel)
        plan = SlidePlan(SEED + number, side, side, hospital.scanner, hospital.stain, lesions=1)
        found[f"generated, {site}"] = folder / f"{site}.tiff"
        write_slide(found[f"generated, {site}"], plan)
    return found


def _sharp(path: Path) -> dict[str, Any]:
    """Return the share of tiles that count as sharp, by tile and by what was done to it."""
    found: dict[str, dict[str, float]] = {}
    draw = np.random.default_rng(SEED)
    with open_slide(path) as slide:
        for px, mpp in SHARP_TILES:
            seen: dict[str, list[bool]] = defaultdict(list)
            grid = _grid(slide, px, mpp, 100_000)
            grid = _some(grid, max(len(grid.places) // SHARP_PLACES, 1))
            for left, top in grid.places.tolist():
                for what, tile in _views(slide, left, top, px, mpp, draw).items():
                    seen[what].append(is_sharp(tile))
            shares = {what: round(float(np.mean(values)), 4) for what, values in seen.items()}
            found[f"{px} px at {mpp:g}"] = {"tiles": len(grid.places), **shares}
    return found


def _views(
    slide: Slide, left: int, top: int, px: int, mpp: float, draw: np.random.Generator
) -> dict[str, NDArray[np.uint8]]:
    """Return a tile as it is and blurred, from enough surroundings to blur its edges rightly."""
    room = int(2 * max(BLURS) / mpp)
    shift = room * mpp / slide.microns_per_pixel
    whole = slide.read(left - shift, top - shift, px + 2 * room, px + 2 * room, mpp)
    inner = slice(room, room + px)
    found = {"as it is": whole[inner, inner]}
    for microns in BLURS:
        sigma = microns / mpp
        blurred = ndimage.gaussian_filter(whole.astype(np.float32), (sigma, sigma, 0), truncate=2.0)
        blurred = blurred[inner, inner]
        found[f"blurred by {microns:g}"] = _bytes(blurred)
        noisy = _bytes(blurred + draw.normal(0, NOISE, blurred.shape))
        stored = io.BytesIO()
        Image.fromarray(noisy).save(stored, "JPEG", quality=JPEG)
        found[f"blurred by {microns:g}, noisy"] = np.asarray(Image.open(stored))
    return found


def _bytes(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _report(found: dict[str, Any], *, load: float, out: Path | None) -> None:
    finish(
        "slides",
        measures="Whole slides: peak memory and time on a large one, speed beside plain OpenSlide, what is sharp",
        settings={
            "large_side": SIDE,
            "tile_px": TILE_PX,
            "microns_per_pixel": MICRONS,
            "places": PLACES,
            "repeats": REPEATS,
            "blurs_microns": BLURS,
            "noise": NOISE,
            "jpeg": JPEG,
        },
        seeds=[SEED],
        tables=_tables(found),
        goals=_goals(found),
        notes=[
            "the large slide repeats eight painted squares; its file is deleted",
            "speed is by CPU seconds of one process, without the mask; 'plain' gives RGBA at the level's resolution",
            *([] if "public" in found else [f"public slide not measured: {NOT_FOUND}"]),
        ],
        results=found,
        load_at_start=load,
        out=out,
    )


def _goals(found: dict[str, Any]) -> list[Goal]:
    memory, speed = found["memory"], found["speed"]
    ratio = median(speed[f"generated, {TILE_PX} px at {MICRONS:g}"]["ratios"])
    rows = [row for slide in found["sharp"].values() for row in slide.values()]
    sharp = min(row["as it is"] for row in rows)
    blurred = max(
        row[f"blurred by {BLURS[-1]:g}{kind}"] for row in rows for kind in ("", ", noisy")
    )
    public = found.get("public")
    return [
        Goal(
            f"peak memory, {SIDE} x {SIDE} px, {memory['tiles_read']} tiles read",
            f"< {GOAL_MB:g} MB",
            f"{memory['peak_mb']:.0f} MB",
            memory["peak_mb"] < GOAL_MB,
        ),
        Goal(
            f"tiles per second beside plain OpenSlide, {TILE_PX} px at {MICRONS:g} microns",
            f">= {GOAL_RATIO:g}",
            f"{ratio:.2f}",
            ratio >= GOAL_RATIO,
        ),
        Goal(
            "tiles that are sharp, on the worst slide and tile size",
            f">= {GOAL_SHARP:.0%}",
            f"{sharp:.1%}",
            sharp >= GOAL_SHARP,
        ),
        Goal(
            f"tiles blurred by {BLURS[-1]:g} microns that are not sharp, on the worst",
            f">= {GOAL_BLURRED:.0%}",
            f"{1 - blurred:.1%}",
            1 - blurred >= GOAL_BLURRED,
        ),
        Goal(
            "the public slide of a real scanner opens and is tiled",
            "> 0 tiles",
            NOT_FOUND if public is None else f"{public['tiles']} tiles",
            None if public is None else public["tiles"] > 0,
        ),
    ]


def _tables(found: dict[str, Any]) -> list[Table]:
    memory = found["memory"]
    return [
        Table(
            f"A slide of {SIDE} x {SIDE} px at 0.25 microns, one process",
            ("what", "value"),
            (
                ("peak before, MB", f"{memory['peak_mb_before']:.0f}"),
                ("peak after the mask, MB", f"{memory['peak_mb_mask']:.0f}"),
                ("peak at the end, MB", f"{memory['peak_mb']:.0f}"),
                ("mask, seconds (CPU)", f"{memory['mask_seconds']} ({memory['mask_cpu_seconds']})"),
                ("tissue, square millimetres", f"{memory['tissue_mm2']}"),
                ("tiles; read", f"{memory['tiles']}; {memory['tiles_read']}"),
                ("CPU ms a tile", f"{memory['cpu_seconds'] / memory['tiles_read'] * 1000:.1f}"),
            ),
        ),
        Table(
            f"CPU milliseconds a tile, median of {REPEATS} (range)",
            ("slide and tile", "read_tiles", "plain OpenSlide", "ratio of tiles per second"),
            tuple(
                (
                    name,
                    *(_spread(row[key], 2) for key in ("ours_ms", "plain_ms", "ratios")),
                )
                for name, row in found["speed"].items()
            ),
        ),
        _sharp_table(found["sharp"]),
    ]


def _sharp_table(sharp: dict[str, Any]) -> Table:
    columns = list(next(iter(next(iter(sharp.values())).values())))
    rows = [
        (f"{name}, {tile}", str(row["tiles"]), *(f"{row[what]:.1%}" for what in columns[1:]))
        for name, slide in sharp.items()
        for tile, row in slide.items()
    ]
    return Table("Share of tiles that count as sharp", ("slide and tile", *columns), tuple(rows))


def _spread(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    raise SystemExit(main())
