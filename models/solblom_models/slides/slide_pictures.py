"""Three files of one slide's scores, to look at: a heatmap, the highest and lowest tiles, and GeoJSON for QuPath.

All are the hospital's own and never leave it. Neither the name of the slide nor of its file stands in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.evidence import ranked
from solblom_models.slides.gallery import GalleryTile, gallery_png
from solblom_models.slides.geojson import tiles_geojson
from solblom_models.slides.heatmap import (
    Limits,
    Scale,
    Words,
    check_tiles,
    heatmap_png,
    limits_of,
    ranks,
)
from solblom_models.slides.slide import Slide
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import write_new

Kind = Literal["evidence", "probability"]

LONGER_SIDE = 1600  # of the overview, pixels
SHOWN = 8  # highest and lowest tiles
SHOWN_PX = 256  # of a gallery's picture
AROUND = 2.0  # its side, in tiles
BEYOND = 190  # grey of what lies beyond the slide


@dataclass(frozen=True)
class _Kind:
    """What is said of a kind of score; {answer} is what the model says yes to."""

    scale: Scale
    meaning: str
    low: str
    high: str
    named: str
    name: str
    classes: tuple[str, str]
    threshold: float


KINDS: dict[Kind, _Kind] = {
    "evidence": _Kind(
        "diverging",
        "What each tile adds to the model's answer for the whole patient: the mean of all and a constant are its "
        "log-odds. It is no outline of a lesion.",
        "speaks against “{answer}”",
        "speaks for “{answer}”",
        "evidence for “{answer}”",
        "Evidence",
        ("Evidence against", "Evidence for"),
        0.0,
    ),
    "probability": _Kind(
        "sequential",
        "The model's probability of “{answer}” in each tile. It is no outline of a lesion.",
        "“{answer}” unlikely",
        "“{answer}” likely",
        "probability of “{answer}”",
        "Probability",
        ("Probability below 0.5", "Probability from 0.5"),
        0.5,
    ),
}


def write_pictures(
    slide: Slide,
    places: NDArray[np.int64],
    side: float,
    scores: NDArray[np.float64],
    *,
    kind: Kind,
    out: Path,
    title: str = "",
    answer: str = "yes",
    limits: Limits | None = None,
    footer: str = "",
) -> tuple[Path, Path, Path]:
    """Write the heatmap to `out`, and beside it `<stem>-tiles.png` and `<stem>.geojson`; return the three.

    Args:
        slide: that was scored.
        places: upper left corners, pixels of the largest level, shape (N, 2).
        side: of a tile, pixels of the largest level.
        scores: shape (N,).
        kind: of scores.
        out: a new PNG.
        title: of both pictures; whoever fills it in answers for its holding no name of a patient or a slide.
        answer: what the model says yes to, in words.
        limits: scores at the ends of the colours, to compare several slides of a patient; see `limits_of`.
        footer: of both pictures, before the words about research.

    Raises:
        ConfigurationError: SB-113 one of the files exists, SB-118 matplotlib is not installed.
        SlideError: no tile was scored, or the file is damaged.
        ValueError: shapes, scores or limits cannot be drawn.
    """
    check_tiles(places, side, scores)
    paths = new_files(out)
    of = KINDS[kind]
    limits = limits or limits_of(scores, scale=of.scale)
    ends = of.low.format(answer=answer), of.high.format(answer=answer)
    words = Words(title, of.meaning.format(answer=answer), *ends, footer)
    named = of.named.format(answer=answer)
    shown = ranked(scores, SHOWN, places=places, side=side)
    files = (
        _heatmap(
            slide, places, side, scores, words=words, of=of, limits=limits, marked=shown[0].tolist()
        ),
        _gallery(slide, places, side, scores, words=words, of=of, shown=shown, named=named),
        tiles_geojson(
            places,
            side,
            scores,
            name=of.name,
            classes=of.classes,
            threshold=of.threshold,
            scale=of.scale,
            limits=limits,
            origin=slide.origin,
        ),
    )
    for path, data in zip(paths, files, strict=True):
        write_new(path, data)
    return paths


def new_files(out: Path) -> tuple[Path, Path, Path]:
    """Return the three files, none of which exists: all are written or none.

    Raises:
        ConfigurationError: SB-113.
    """
    paths = out, out.with_name(f"{out.stem}-tiles.png"), out.with_name(f"{out.stem}.geojson")
    for path in paths:
        if path.exists():
            raise ConfigurationError("SB-113", f"{path} exists already")
    return paths


def overview_resolution(slide: Slide) -> float:
    """Return the microns per pixel of an overview with a longer side of 1600 pixels; never finer than the scan."""
    return slide.microns_per_pixel * max(max(slide.width, slide.height) / LONGER_SIDE, 1.0)


def _heatmap(
    slide: Slide,
    places: NDArray[np.int64],
    side: float,
    scores: NDArray[np.float64],
    *,
    words: Words,
    of: _Kind,
    limits: Limits,
    marked: Sequence[int],
) -> bytes:
    resolution = overview_resolution(slide)
    return heatmap_png(
        slide.overview(resolution),
        resolution,
        places=places,
        side=side,
        slide_microns_per_pixel=slide.microns_per_pixel,
        scores=scores,
        words=words,
        scale=of.scale,
        limits=limits,
        marked=marked,
    )


def _gallery(
    slide: Slide,
    places: NDArray[np.int64],
    side: float,
    scores: NDArray[np.float64],
    *,
    words: Words,
    of: _Kind,
    shown: tuple[NDArray[np.int64], NDArray[np.int64]],
    named: str,
) -> bytes:
    """Return the gallery: each tile in the middle of twice its side, as fine as the scan or as fits."""
    field = AROUND * side
    resolution = slide.microns_per_pixel * max(field / SHOWN_PX, 1.0)
    wide = round(field * slide.microns_per_pixel / resolution)
    rank = ranks(scores)

    def tile(index: int) -> GalleryTile:
        x, y = (places[index] + side / 2).tolist()
        corner = x - field / 2, y - field / 2
        return GalleryTile(
            pixels=_read(slide, *corner, wide, resolution),
            x_mm=x * slide.microns_per_pixel / 1000,
            y_mm=y * slide.microns_per_pixel / 1000,
            x=round(x),
            y=round(y),
            rank=int(rank[index]),
            score=float(scores[index]),
        )

    top, bottom = ([tile(index) for index in found.tolist()] for found in shown)
    return gallery_png(
        top,
        bottom,
        title=words.title,
        top_words=f"Highest {named}; tiles that do not touch, where that was possible",
        bottom_words=f"Lowest {named}, likewise",
        microns_per_pixel=resolution,
        tile_px=round(wide / AROUND),
        signed=of.scale == "diverging",
        footer=words.footer,
    )


def _read(
    slide: Slide, left: float, top: float, wide: int, microns_per_pixel: float
) -> NDArray[np.uint8]:
    """Return a square of pixels, grey beyond the slide, where a reader's white would look like glass."""
    found = slide.read(left, top, wide, wide, microns_per_pixel).copy()
    factor = microns_per_pixel / slide.microns_per_pixel
    at = (np.arange(wide) + 0.5) * factor
    x, y = round(left) + at, round(top) + at
    found[(y < 0) | (y > slide.height)] = BEYOND
    found[:, (x < 0) | (x > slide.width)] = BEYOND
    return found
