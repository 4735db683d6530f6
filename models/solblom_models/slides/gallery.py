"""The highest and the lowest tiles as one PNG, each in its surroundings, with its score and where it lies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.heatmap import RESEARCH
from solblom_models.slides.sheet import INK, Sheet, enlarged, length_words, lines_of, nice_length

COLUMNS = 4
LEAST_SIDE = 256  # of a picture; a smaller one is enlarged
SIZE, LINE_PX, MARGIN = 15, 21, 24  # of text, from line to line, around: pixels
LARGER = 1.3  # letters of a title
PAPER = (255, 255, 255)
SCAN_20X = 0.5  # microns per pixel of a 20x scan


@dataclass(frozen=True)
class GalleryTile:
    """A tile in its surroundings.

    Attributes:
        pixels: shape (S, S, 3), the tile in the middle.
        x_mm, y_mm: of its middle, from the slide's upper left corner.
        x, y: the same in pixels of the largest level.
        rank: 1 is the highest score of all tiles.
        score: of the model.
    """

    pixels: NDArray[np.uint8]
    x_mm: float
    y_mm: float
    x: int
    y: int
    rank: int
    score: float


def gallery_png(
    top: Sequence[GalleryTile],
    bottom: Sequence[GalleryTile],
    *,
    title: str,
    top_words: str,
    bottom_words: str,
    microns_per_pixel: float,
    tile_px: int,
    signed: bool,
    footer: str = "",
) -> bytes:
    """Return a PNG of the tiles, each with rank, score, place and a scale bar.

    Args:
        top: the highest, highest first.
        bottom: the lowest, lowest first; may be empty.
        title: may be empty; whoever fills it in answers for its holding no name of a patient or a slide.
        top_words: above the highest.
        bottom_words: above the lowest.
        microns_per_pixel: of all pixels.
        tile_px: side of the tile in each, pixels of it; it is framed if there are surroundings.
        signed: whether scores are shown with their sign.
        footer: may be empty; that it is research is always added.

    Raises:
        ValueError: there is no tile, a score is not finite, or pixels are not squares of one size.
    """
    side = _check([*top, *bottom], tile_px)
    times = max(-(-LEAST_SIDE // side), 1)
    width = MARGIN + COLUMNS * (side * times + MARGIN)
    room, frame = width - 2 * MARGIN, tile_px * times if tile_px < side else 0
    titles = lines_of(title, width=room, size=SIZE * LARGER)
    said = _notes(microns_per_pixel, footer, around=frame > 0)
    notes = lines_of(said, width=room, size=SIZE)
    both = (top_words, top), (bottom_words, bottom)
    groups = [(lines_of(words, width=room, size=SIZE), tiles) for words, tiles in both if tiles]
    card = side * times + 5 * LINE_PX
    rows = sum(-(-len(tiles) // COLUMNS) for _, tiles in groups)
    lines = 2 * len(titles) + sum(len(words) + 1 for words, _ in groups) + len(notes)
    sheet = Sheet(width, 2 * MARGIN + lines * LINE_PX + rows * card)
    y = _written(sheet, titles, MARGIN, size=SIZE * LARGER, line=2 * LINE_PX, bold=True)
    for words, tiles in groups:
        y = _written(sheet, words, y, size=SIZE, line=LINE_PX, bold=True) + LINE_PX // 2
        for number, tile in enumerate(tiles):
            left = MARGIN + number % COLUMNS * (side * times + MARGIN)
            place = left, y + number // COLUMNS * card
            _card(sheet, tile, place, times, frame, microns_per_pixel, signed=signed)
        y += -(-len(tiles) // COLUMNS) * card + LINE_PX // 2
    _written(sheet, notes, y, size=SIZE, line=LINE_PX, bold=False)
    return sheet.png()


def magnification(microns_per_pixel: float) -> str:
    """Return a resolution in words, with the objective whose scan usually has it."""
    power = 20 * SCAN_20X / microns_per_pixel
    return f"{microns_per_pixel:.2g} µm/px, about {power:.2g}x"


def _written(
    sheet: Sheet, lines: list[str], top: int, *, size: float, line: int, bold: bool
) -> int:
    """Write lines; return where the next would be."""
    for number, words in enumerate(lines):
        sheet.text(words, MARGIN, top + number * line, size=size, bold=bold)
    return top + len(lines) * line


def _notes(microns_per_pixel: float, footer: str, *, around: bool) -> str:
    said = [f"{magnification(microns_per_pixel)}."]
    if around:
        said.append("The frame is the scored tile; grey, if any, lies beyond the slide.")
    said.append(
        "Places are of a tile's middle, from the slide's upper left; px are of the largest level."
    )
    said += [footer, "·"] if footer else []
    return " ".join([*said, RESEARCH])


def _card(
    sheet: Sheet,
    tile: GalleryTile,
    place: tuple[int, int],
    times: int,
    frame: int,
    microns_per_pixel: float,
    *,
    signed: bool,
) -> None:
    """Draw one tile with its words and its scale bar."""
    left, top = place
    side = tile.pixels.shape[0] * times
    sheet.paste(enlarged(tile.pixels, times), left, top)
    if frame:
        inset = (side - frame) // 2
        for grow, colour in ((2, PAPER), (1, INK)):  # seen on light and on dark tissue
            edge = inset - grow
            sheet.frame(left + edge, top + edge, side - 2 * edge, side - 2 * edge, colour)
    below = top + side + LINE_PX // 3
    per = microns_per_pixel / times
    microns = nice_length(side * per / 2.5)
    length = max(round(microns / per), 1)
    sheet.scale_bar(left, below, length=length, words=length_words(microns), size=SIZE)
    score = f"{tile.score:+#.3g}" if signed else f"{tile.score:.3f}"
    lines = (
        f"#{tile.rank}   {score}",
        f"x {tile.x_mm:.2f}, y {tile.y_mm:.2f} mm",
        f"x {tile.x:,}, y {tile.y:,} px",
    )
    for number, line in enumerate(lines, start=1):
        sheet.text(line, left, below + number * LINE_PX, size=SIZE, bold=number == 1)


def _check(tiles: Sequence[GalleryTile], tile_px: int) -> int:
    """Return the side of all pictures, pixels."""
    if not tiles:
        raise ValueError("a gallery needs a tile")
    side = len(tiles[0].pixels)
    if any(tile.pixels.shape != (side, side, 3) for tile in tiles) or not 0 < tile_px <= side:
        raise ValueError("pictures are (S, S, 3), all of one size, and hold the tile")
    if not all(math.isfinite(tile.score) for tile in tiles):
        raise ValueError("a score is not finite")
    return side
