"""A slide of 100,000 by 100,000 pixels for bench/slides.py: few painted squares, laid again and again.

Painting each pixel would take an hour. A square of 2048 pixels is painted once, cut into 512-pixel tiles and encoded
once; the slide repeats the encoded tiles where a painted slide of this size would have tissue. Smaller levels are of
the same squares, so that all levels show one picture. What a reader does does not depend on the repetition.
"""

from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from solblom_simulation.slide_painter import paint
from solblom_simulation.slide_scene import Lump, Scanner, SlidePlan, depth_of, scene_of

SIDE, TILE, SQUARE = 100_000, 512, 2048
SHRINKS = (1, 4, 16, 64)
DESCRIPTION = "Solblom: a generated image, no patient"
SCANNER = Scanner("made-up C", 0.25, 1.5, 0.95, 1.5)
PAINTED = 8  # squares of tissue
Pixels = NDArray[np.uint8]


def write_large(path: Path, *, seed: int) -> None:
    """Write the slide; about a third of it is tissue."""
    glass, *tissue = _squares(seed)
    numbers = _numbers(seed)
    squares = [glass, *tissue]
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for shrink in SHRINKS:
            small = [_shrunk(square, shrink) for square in squares]
            side = SIDE // shrink
            file.write(
                _encoded(small, numbers, side),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(1e4 / (SCANNER.microns_per_pixel * shrink),) * 2,
                resolutionunit="CENTIMETER",
                description=DESCRIPTION,
                metadata=None,
                software=False,
                subfiletype=0 if shrink == 1 else 1,
            )


def _squares(seed: int) -> Iterator[Pixels]:
    """Give a square of glass, and squares from the middle of one large piece of tissue."""
    plan = SlidePlan(seed, 40_000, 40_000, SCANNER, lesions=1)
    yield _square(plan, -10 * SQUARE, -10 * SQUARE)
    piece = scene_of(plan).pieces[0]
    x, y = (int(v / SCANNER.microns_per_pixel) for v in (piece.x, piece.y))
    for number in range(PAINTED):
        yield _square(plan, x + (number % 3 - 1) * SQUARE, y + (number // 3 - 1) * SQUARE)


def _square(plan: SlidePlan, left: int, top: int) -> Pixels:
    steps = range(0, SQUARE, TILE)
    return np.concatenate(
        [
            np.concatenate([paint(plan, left + x, top + y, TILE, TILE) for x in steps], 1)
            for y in steps
        ]
    )


def _numbers(seed: int) -> NDArray[np.int64]:
    """Return which square lies where: 0 is glass."""
    plan = SlidePlan(seed, SIDE, SIDE, SCANNER)
    places = ((np.arange(-(-SIDE // SQUARE)) + 0.5) * SQUARE * SCANNER.microns_per_pixel).astype(
        np.float32
    )
    pieces: tuple[Lump, ...] = scene_of(plan).pieces
    tissue = depth_of(pieces, *np.meshgrid(places, places)) > 0
    drawn = np.random.default_rng(seed).integers(1, PAINTED + 1, size=tissue.shape)
    return np.where(tissue, drawn, 0)


def _shrunk(square: Pixels, shrink: int) -> Pixels:
    side = SQUARE // shrink
    parts = square.reshape(side, shrink, side, shrink, 3)
    return parts.mean(axis=(1, 3)).round().astype(np.uint8)


def _encoded(squares: list[Pixels], numbers: NDArray[np.int64], side: int) -> Iterator[bytes]:
    """Give the encoded tiles of a level, row by row."""
    size = squares[0].shape[0]
    known: dict[tuple[object, ...], bytes] = {}
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            # A tile is a part of one square, or several whole squares.
            rows = slice(top // size, -(-(top + TILE) // size))
            columns = slice(left // size, -(-(left + TILE) // size))
            part = numbers[rows, columns]
            key = (part.tobytes(), part.shape, top % size, left % size)
            if key not in known:
                whole = np.concatenate(
                    [np.concatenate([squares[n] for n in row], 1) for row in part]
                )
                known[key] = _jpeg(whole[top % size :, left % size :][:TILE, :TILE])
            yield known[key]


def _jpeg(tile: Pixels) -> bytes:
    fill = [(0, TILE - side) for side in tile.shape[:2]]
    whole = np.pad(tile, (*fill, (0, 0)), constant_values=255)
    return bytes(
        imagecodecs.jpeg8_encode(
            whole, level=85, colorspace="rgb", outcolorspace="ycbcr", subsampling=(2, 2)
        )
    )
