"""A slide beside its scored tiles, as one PNG: colours over grey, a bar in words, a scale in millimetres.

The coloured copy is grey, so that a colour comes from a score and never from a stain, and nuclei stay visible. Orange
is high and blue is low, which the colour-blind can tell apart (after ColorBrewer's RdBu, PuOr and YlOrBr). Nothing of
the slide's file is drawn, and the same input gives the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.sheet import (
    INK,
    LINE,
    Sheet,
    enlarged,
    length_words,
    lines_of,
    nice_length,
)
from solblom_models.slides.slide_error import SlideError

Scale = Literal["diverging", "sequential"]
Limits = tuple[float, float]

RESEARCH = "Research use: not for clinical decisions"
MOST_SIDE = 4096  # pixels of an overview; bounds memory
LEAST_SIDE = 600  # of a panel; a smaller overview is enlarged
LEAST_WIDTH = 900  # of a picture: its words need it
LARGER = 1.3  # letters of a title
BAR_WIDTH = 60  # letters
OPACITY = 0.5
DARKEST = 40  # grey of the coloured copy, so that dark tissue keeps its colour
COLOURS: dict[Scale, tuple[tuple[int, int, int], ...]] = {
    "diverging": (
        (5, 80, 145),
        (33, 102, 172),
        (67, 147, 195),
        (146, 197, 222),
        (209, 229, 240),
        (247, 247, 247),
        (254, 224, 182),
        (253, 184, 99),
        (240, 140, 20),
        (210, 100, 6),
        (170, 75, 8),
    ),
    "sequential": (
        (255, 255, 229),
        (255, 247, 188),
        (254, 227, 145),
        (254, 196, 79),
        (254, 153, 41),
        (236, 112, 20),
        (204, 76, 2),
    ),
}
EDGE = (70, 70, 70)  # around what was scored: a score near zero is pale


@dataclass(frozen=True)
class Words:
    """What is written on a picture. Whoever fills it in answers for its holding no name of a patient or a slide.

    Attributes:
        title: may be empty.
        meaning: of the colours, a sentence.
        low, high: at the ends of the bar.
        footer: may be empty; that it is research is always added.
    """

    title: str
    meaning: str
    low: str
    high: str
    footer: str = ""

    @property
    def foot(self) -> str:
        """The footer with what always stands there."""
        return f"{self.footer} · {RESEARCH}" if self.footer else RESEARCH


def heatmap_png(
    overview: NDArray[np.uint8],
    overview_microns_per_pixel: float,
    *,
    places: NDArray[np.int64],
    side: float,
    slide_microns_per_pixel: float,
    scores: NDArray[np.float64],
    words: Words,
    scale: Scale,
    limits: Limits | None = None,
    marked: Sequence[int] = (),
) -> bytes:
    """Return a PNG: the slide as it is, and in grey with its tiles coloured; one above the other if it is broad.

    Args:
        overview: the whole slide, shape (H, W, 3).
        overview_microns_per_pixel: of `overview`.
        places: upper left corners of the scored tiles, pixels of the largest level, shape (N, 2).
        side: of a tile, pixels of the largest level.
        slide_microns_per_pixel: of the largest level.
        scores: shape (N,).
        words: that are written on it.
        scale: of colours: diverging around zero, or sequential.
        limits: scores at the ends of the bar; see `limits_of`.
        marked: indices of tiles that get a frame with their rank, such as those of a gallery.

    Raises:
        SlideError: no tile was scored.
        ValueError: shapes, scores or limits cannot be drawn.
        ConfigurationError: SB-118, matplotlib is not installed.
    """
    check_tiles(places, side, scores)
    _check_overview(overview)
    limits = limits or limits_of(scores, scale=scale)
    shrink = overview_microns_per_pixel / slide_microns_per_pixel
    boxes = tile_boxes(overview.shape[:2], places / shrink, side / shrink, slack=1 / shrink)
    times = max(-(-LEAST_SIDE // max(overview.shape[:2])), 1)
    overview, boxes = enlarged(overview, times), boxes * times
    found = score_map(overview.shape[:2], boxes, scores)
    rank = ranks(scores)
    beyond = bool(scores.min() < limits[0]), bool(scores.max() > limits[1])
    return _drawn(
        (overview, coloured(overview, found, scale=scale, limits=limits)),
        overview_microns_per_pixel / times,
        words=words,
        bar=_bar(scale, limits, beyond),
        marks=[_Mark(f"#{rank[i]}", *boxes[i].tolist()) for i in marked],
    )


def check_tiles(places: NDArray[np.int64], side: float, scores: NDArray[np.float64]) -> None:
    """Refuse scored tiles that no picture can show.

    Raises:
        SlideError: no tile was scored.
        ValueError: shapes do not agree, or a number is not finite.
    """
    if places.ndim != 2 or places.shape[1:] != (2,) or scores.shape != (len(places),):
        raise ValueError(f"places {places.shape} and scores {scores.shape} are not (N, 2) and (N,)")
    if not len(scores):
        raise SlideError("no tile of it was scored, so there is nothing to show")
    if not np.isfinite(scores).all() or not np.isfinite(places).all():
        raise ValueError("a score or a place is not finite")
    if not (np.isfinite(side) and side > 0):
        raise ValueError("a tile's side is above 0")


def limits_of(scores: NDArray[np.float64], *, scale: Scale) -> Limits:
    """Return the scores at the ends of the bar: 0 and 1, or as far below zero as above.

    The farthest hundredth of tiles goes beyond, so that one odd tile does not make the others pale.
    """
    if scale == "sequential":
        return 0.0, 1.0
    far = float(np.quantile(np.abs(scores), 0.99)) or float(np.abs(scores).max()) or 1.0
    return -far, far


def colours(scores: NDArray[np.float64], *, scale: Scale, limits: Limits) -> NDArray[np.uint8]:
    """Return the colour of each score, shape (..., 3); beyond the limits, that of the limit.

    Raises:
        ValueError: limits are not in order, or not around zero on a diverging scale.
    """
    low, high = limits
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError("limits are finite, the lower first")
    if scale == "diverging" and low != -high:
        raise ValueError("a diverging scale goes as far below zero as above")
    table = np.array(COLOURS[scale], dtype=np.float64)
    at = (scores - low) / (high - low) * (len(table) - 1)
    channels = [np.interp(at, np.arange(len(table)), table[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rank of each score, 1 for the highest, shape (N,)."""
    found = np.empty(len(scores), dtype=np.int64)
    found[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return found


def tile_boxes(
    shape: tuple[int, ...], corners: NDArray[np.float64], side: float, *, slack: float
) -> NDArray[np.int64]:
    """Return the pixels of an overview that each tile covers: left, top, right, bottom, shape (N, 4); ends excluded.

    Args:
        shape: of the overview: (H, W).
        corners: upper left, pixels of the overview, shape (N, 2).
        side: of a tile, pixels of the overview.
        slack: how far the rounding of places may part neighbours, pixels of the overview.
    """
    x0, x1 = _spans(corners[:, 0], side, slack, shape[1])
    y0, y1 = _spans(corners[:, 1], side, slack, shape[0])
    return np.stack([x0, y0, x1, y1], axis=1)


def score_map(
    shape: tuple[int, ...], boxes: NDArray[np.int64], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean score of the tiles over each pixel, shape `shape`; NaN where there is none."""
    sums, counts = np.zeros(shape), np.zeros(shape, dtype=np.int32)
    for (left, top, right, bottom), score in zip(boxes.tolist(), scores.tolist(), strict=True):
        sums[top:bottom, left:right] += score
        counts[top:bottom, left:right] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def coloured(
    overview: NDArray[np.uint8], found: NDArray[np.float64], *, scale: Scale, limits: Limits
) -> NDArray[np.uint8]:
    """Return the overview in grey, coloured where there is a score, with a line around that; shape as given."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    grey = DARKEST + (overview @ weights) * ((255 - DARKEST) / 255)
    scored = np.isfinite(found)
    over = np.repeat(grey[..., None], 3, axis=2)
    tint = colours(found[scored], scale=scale, limits=limits)
    over[scored] = (1 - OPACITY) * over[scored] + OPACITY * tint
    result = np.round(over).astype(np.uint8)
    result[_outside_edge(scored)] = EDGE
    return result


def _spans(
    starts: NDArray[np.float64], side: float, slack: float, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first pixel of each tile and the first after it; at least one, and no gap between neighbours."""
    known = np.unique(starts)
    ends = starts + side
    near = known[np.minimum(np.searchsorted(known, ends - slack), len(known) - 1)]
    ends = np.where(np.abs(near - ends) <= slack, near, ends)
    first = np.clip(np.round(starts).astype(np.int64), 0, most - 1)
    return first, np.clip(np.round(ends).astype(np.int64), first + 1, most)


def _outside_edge(scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels without a score that touch one with."""
    wide = np.pad(scored, 1)
    near = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    found: NDArray[np.bool_] = near & ~scored
    return found


def _check_overview(overview: NDArray[np.uint8]) -> None:
    if overview.ndim != 3 or overview.shape[2] != 3 or overview.dtype != np.uint8:
        raise ValueError("an overview is (H, W, 3) of bytes")
    if not 0 < min(overview.shape) <= max(overview.shape) <= MOST_SIDE:
        raise ValueError(f"an overview has 1 to {MOST_SIDE} pixels a side")


@dataclass(frozen=True)
class _Bar:
    colours: NDArray[np.uint8]  # (256, 3), as they look on light tissue
    ticks: tuple[str, str, str]


def _bar(scale: Scale, limits: Limits, beyond: tuple[bool, bool]) -> _Bar:
    values = np.linspace(*limits, 256)
    shown = colours(values, scale=scale, limits=limits)
    light = 225.0
    mixed = np.round((1 - OPACITY) * light + OPACITY * shown).astype(np.uint8)
    sign = "+" if scale == "diverging" else ""
    low, middle, high = limits[0], (limits[0] + limits[1]) / 2, limits[1]
    ends = f"{low:{sign}.2g}", f"{high:{sign}.2g}"
    first = f"{ends[0]} and below" if beyond[0] else ends[0]
    last = f"{ends[1]} and above" if beyond[1] else ends[1]
    return _Bar(mixed, (first, f"{middle:.2g}", last))


@dataclass(frozen=True)
class _Mark:
    words: str
    left: int  # of the frame, pixels of the panel
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class _Layout:
    size: float  # of text, in pixels like all else
    line: int
    margin: int
    width: int
    titles: list[str]
    corners: tuple[tuple[int, int], tuple[int, int]]  # of the panels: left, top
    below: int  # where they end


def _layout(high: int, wide: int, title: str) -> _Layout:
    """Return where two panels of one size lie: beside each other, or one above the other if they are broad."""
    stacked = wide > 1.4 * high
    total = max(wide if stacked else 2 * wide, LEAST_WIDTH)
    size = float(np.clip(total / 100, 14, 32))
    margin, line = round(size * 1.5), round(size * LINE)
    width = total + margin * (2 if stacked else 3)
    titles = lines_of(title, width=width - 2 * margin, size=size * LARGER)
    top = margin + len(titles) * round(line * LARGER) + (line // 2 if titles else 0)
    panel = high + 4 * line  # with caption and scale bar
    second = (margin, top + panel) if stacked else (2 * margin + total // 2, top)
    below = second[1] + panel
    return _Layout(size, line, margin, width, titles, ((margin, top), second), below)


def _drawn(
    panels: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    microns_per_pixel: float,
    *,
    words: Words,
    bar: _Bar,
    marks: list[_Mark],
) -> bytes:
    """Return the PNG of two panels of one size."""
    high, wide = panels[0].shape[:2]
    at = _layout(high, wide, words.title)
    size, line, room = at.size, at.line, at.width - 2 * at.margin
    meaning = lines_of(words.meaning, width=room, size=size)
    foot = lines_of(words.foot, width=room, size=size)
    length = min(room, round(BAR_WIDTH * size))
    ends = [lines_of(text, width=length / 2, size=size) for text in (words.low, words.high)]
    lines = len(meaning) + 3 + max(len(end) for end in ends) + 1 + len(foot)
    sheet = Sheet(at.width, at.below + lines * line + at.margin)
    for number, words_ in enumerate(at.titles):
        top = at.margin + number * round(line * LARGER)
        sheet.text(words_, at.margin, top, size=size * LARGER, bold=True)
    microns = nice_length(wide * microns_per_pixel / 4)
    scale = max(round(microns / microns_per_pixel), 1)
    framed = "Scored tiles in colour; framed ones are in the gallery"
    captions = "The slide", framed if marks else "The same in grey, with the scored tiles coloured"
    for picture, caption, (left, top) in zip(panels, captions, at.corners, strict=True):
        sheet.text(caption, left, top, size=size)
        sheet.paste(picture, left, top + line + line // 4)
        under = top + line + high + line * 3 // 4
        sheet.scale_bar(left, under, length=scale, words=length_words(microns), size=size)
    _draw_marks(sheet, marks, at)
    top = at.below
    for text in meaning:
        sheet.text(text, at.margin, top, size=size, bold=True)
        top += line
    _draw_bar(sheet, bar, at, top + line // 4, length=length, ends=ends)
    top += (lines - len(meaning) - len(foot)) * line
    for text in foot:
        sheet.text(text, at.margin, top, size=size)
        top += line
    return sheet.png()


def _draw_marks(sheet: Sheet, marks: list[_Mark], at: _Layout) -> None:
    """Frame tiles on the second panel, each with its rank: in the frame if there is room, else to the right of it."""
    left, top = at.corners[1][0], at.corners[1][1] + at.line + at.line // 4
    for mark in marks:
        x, y = left + mark.left, top + mark.top
        wide, high = mark.right - mark.left, mark.bottom - mark.top
        sheet.frame(x - 2, y - 2, wide + 4, high + 4, INK, thick=2)
        start = x + 3 if wide >= 2.5 * at.size else x + wide + 4
        sheet.text(mark.words, start, y + 2, size=at.size * 0.8, bold=True, halo=True)


def _draw_bar(
    sheet: Sheet, bar: _Bar, at: _Layout, top: int, *, length: int, ends: list[list[str]]
) -> None:
    """Draw the bar, numbers under it and words under these."""
    strip = bar.colours[np.linspace(0, len(bar.colours) - 1, length).round().astype(np.int64)]
    sheet.paste(np.broadcast_to(strip, (at.line, length, 3)), at.margin, top)
    middle, end = at.margin + length // 2, at.margin + length
    for place in (at.margin, middle, end - 2):
        sheet.fill(place, top + at.line, 2, at.line // 4, INK)
    numbers, below = top + at.line * 3 // 2, top + at.line * 5 // 2
    sheet.text(bar.ticks[0], at.margin, numbers, size=at.size)
    sheet.text(bar.ticks[1], middle, numbers, size=at.size, align="center")
    sheet.text(bar.ticks[2], end, numbers, size=at.size, align="right")
    for low, text in enumerate(ends[0]):
        sheet.text(text, at.margin, below + low * at.line, size=at.size)
    for high, text in enumerate(ends[1]):
        sheet.text(text, end, below + high * at.line, size=at.size, align="right")
