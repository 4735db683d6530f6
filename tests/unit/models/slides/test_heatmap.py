"""Heatmaps: a score lights its own tile and nothing else, in colours that all can tell apart."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slide_lab import GLASS, TISSUE
from solblom_models.slides.heatmap import (
    EDGE,
    RESEARCH,
    Words,
    coloured,
    colours,
    heatmap_png,
    limits_of,
    score_map,
    tile_boxes,
)
from solblom_models.slides.sheet import FRAME, Sheet, length_words, lines_of, nice_length
from solblom_models.slides.slide_error import SlideError

WORDS = Words("", "What it means.", "low", "high")
GREY = np.full((60, 100, 3), 200, dtype=np.uint8)
# Machado, Oliveira & Fernandes 2009, full severity, on linear RGB.
BLINDNESS = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def drawn(**changes: Any) -> bytes:
    """Return a heatmap of one tile on an overview of 8 pixels of the largest level a pixel."""
    values: dict[str, Any] = {
        "overview": GREY,
        "overview_microns_per_pixel": 4.0,
        "places": np.array([[160, 80]]),
        "side": 64.0,
        "slide_microns_per_pixel": 0.5,
        "scores": np.array([1.0]),
        "words": WORDS,
        "scale": "diverging",
    } | changes
    return heatmap_png(values.pop("overview"), values.pop("overview_microns_per_pixel"), **values)


def pixels_of(data: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)


def lightness(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Return CIE L* of sRGB bytes."""
    y = linear(rgb) @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def linear(rgb: NDArray[Any]) -> NDArray[np.float64]:
    value = np.asarray(rgb, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def test_a_tile_lights_exactly_its_own_rectangle() -> None:
    boxes = tile_boxes((60, 100), np.array([[20.0, 10.0]]), 8.0, slack=1 / 8)
    found = coloured(
        GREY,
        score_map((60, 100), boxes, np.array([1.0])),
        scale="diverging",
        limits=(-1.0, 1.0),
    ).astype(np.int64)
    lit = np.ptp(found, axis=2) > 0
    wanted = np.zeros((60, 100), dtype=bool)
    wanted[10:18, 20:28] = True
    assert (lit == wanted).all()
    edge = (found == EDGE).all(axis=2)
    assert edge.sum() == 4 * 8  # outside the tile, so that it hides nothing of it
    assert not (edge & wanted).any()


def test_in_the_png_a_lit_tile_lies_where_the_slide_shows_its_tissue() -> None:
    """A pink square is under the tile: both panels have it at the same distance from their frames."""
    overview = GREY.copy()
    overview[10:18, 20:28] = TISSUE
    picture = pixels_of(drawn(overview=overview))
    spread = np.ptp(picture, axis=2) > 20
    rows = np.flatnonzero(spread.any(axis=1))
    times = 6  # 100 pixels are enlarged to 600
    for top in (rows[0], rows[rows > rows[0] + 60 * times][0]):  # broad: one above the other
        row = picture[top + 1]
        lit = np.flatnonzero(spread[top + 1])
        frame = np.flatnonzero((row == FRAME).all(axis=1))
        assert (lit[0], lit[-1] + 1) == (frame[0] + 1 + 20 * times, frame[0] + 1 + 28 * times)
        column = picture[:, lit[0]]
        above = np.flatnonzero((column == FRAME).all(axis=1))
        above = above[above < top]
        assert top == above[-1] + 1 + 10 * times
        assert spread[top : top + 8 * times, lit[0]].all()
        assert not spread[top + 8 * times, lit[0]]


def test_a_tall_slide_has_its_panels_side_by_side() -> None:
    picture = pixels_of(drawn(overview=np.full((100, 60, 3), 200, dtype=np.uint8)))
    framed = (picture == FRAME).all(axis=2)
    assert sorted(framed.sum(axis=0))[-4:] >= [600] * 4  # four uprights of 600 pixels


def test_neighbours_leave_no_gap_where_sides_are_no_whole_pixels() -> None:
    side, shrink = 128.2565, 1.854
    starts = np.round(np.arange(12) * side)
    corners = np.stack(np.meshgrid(starts, starts), axis=-1).reshape(-1, 2) / shrink
    boxes = tile_boxes((900, 900), corners, side / shrink, slack=1 / shrink)
    found = score_map((900, 900), boxes, np.arange(144.0))
    end = boxes.max()
    assert np.isfinite(found[:end, :end]).all()
    assert np.isin(found[:end, :end], np.arange(144.0)).all()  # nor do they overlap


def test_a_tile_smaller_than_a_pixel_still_has_one() -> None:
    boxes = tile_boxes((10, 10), np.array([[3.2, 3.2], [3.4, 3.2], [9.9, 9.9]]), 0.2, slack=0.01)
    found = score_map((10, 10), boxes, np.array([1.0, 0.0, 5.0]))
    assert found[3, 3] == 0.5
    assert found[9, 9] == 5.0


def test_tissue_that_was_not_scored_stays_without_colour() -> None:
    overview = np.full((20, 20, 3), TISSUE, dtype=np.uint8)
    found = coloured(overview, np.full((20, 20), np.nan), scale="sequential", limits=(0.0, 1.0))
    assert np.ptp(found.astype(np.int64), axis=2).max() == 0


def test_tissue_shows_through_the_colours() -> None:
    overview = np.full((2, 2, 3), GLASS, dtype=np.uint8)
    overview[0, 0] = (60, 30, 90)  # a nucleus
    found = coloured(overview, np.ones((2, 2)), scale="diverging", limits=(-1.0, 1.0))
    assert lightness(found[1, 1]) - lightness(found[0, 0]) > 25


def test_no_evidence_has_no_colour_and_more_has_more() -> None:
    limits = (-2.0, 2.0)
    zero = colours(np.array([0.0]), scale="diverging", limits=limits)[0].astype(np.int64)
    assert np.ptp(zero) == 0
    for sign in (-1, 1):
        along = lightness(colours(sign * np.linspace(0, 2, 50), scale="diverging", limits=limits))
        assert (np.diff(along) < 0.2).all()
        assert along[0] - along[-1] > 50


def test_a_higher_probability_is_darker_throughout() -> None:
    along = lightness(colours(np.linspace(0, 1, 50), scale="sequential", limits=(0.0, 1.0)))
    assert (np.diff(along) < 0).all()


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colour_blind_tell_for_from_against(kind: str) -> None:
    ends = colours(np.array([-1.0, -0.5, 0.5, 1.0]), scale="diverging", limits=(-1.0, 1.0))
    seen = np.clip(linear(ends) @ np.array(BLINDNESS[kind]).T, 0, 1) ** (1 / 2.4)
    assert np.abs(seen[0] - seen[3]).max() > 0.3
    assert np.abs(seen[1] - seen[2]).max() > 0.2


def test_scores_beyond_the_limits_get_the_colour_of_the_limit() -> None:
    found = colours(np.array([-9.0, -1.0, 1.0, 9.0]), scale="diverging", limits=(-1.0, 1.0))
    assert (found[0] == found[1]).all()
    assert (found[2] == found[3]).all()


def test_one_odd_tile_does_not_make_the_others_pale() -> None:
    low, high = limits_of(np.array([*np.linspace(-1, 1, 500), 100.0]), scale="diverging")
    assert (low, high) == (-high, high)
    assert high < 1.1
    assert limits_of(np.zeros(3), scale="diverging") == (-1.0, 1.0)
    assert limits_of(np.zeros(3), scale="sequential") == (0.0, 1.0)


def test_the_same_input_gives_the_same_bytes_without_a_date() -> None:
    data = drawn(marked=[0])
    assert data == drawn(marked=[0])
    chunks, at = set(), 8
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        chunks.add(name)
        at += 12 + length
    assert chunks == {b"IHDR", b"IDAT", b"IEND"}


def test_whatever_the_footer_it_says_research() -> None:
    assert RESEARCH == "Research use: not for clinical decisions"
    assert WORDS.foot == RESEARCH
    assert Words("", "", "", "", "model x@v1").foot == f"model x@v1 · {RESEARCH}"


def test_words_that_need_more_lines_get_them() -> None:
    long = Words("Title " * 40, "Meaning " * 40, "low " * 40, "high " * 40, "foot " * 40)
    assert pixels_of(drawn(words=long)).shape[0] > pixels_of(drawn()).shape[0] + 200
    assert lines_of("", width=100, size=10) == []


def test_a_slide_without_a_scored_tile_is_refused() -> None:
    with pytest.raises(SlideError, match="no tile of it was scored"):
        drawn(places=np.zeros((0, 2), dtype=np.int64), scores=np.zeros(0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": np.array([np.nan])}, "not finite"),
        ({"scores": np.array([np.inf])}, "not finite"),
        ({"scores": np.zeros(2)}, "are not"),
        ({"side": 0.0}, "above 0"),
        ({"side": np.nan}, "above 0"),
        ({"limits": (-1.0, 3.0)}, "as far below"),
        ({"limits": (1.0, -1.0)}, "lower first"),
        ({"limits": (np.nan, 1.0)}, "finite"),
        ({"overview": GREY.astype(np.float32)}, "of bytes"),
        ({"overview": np.zeros((5000, 10, 3), dtype=np.uint8)}, "4096"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        drawn(**changes)


def test_a_scale_bar_is_as_long_as_it_says() -> None:
    assert [nice_length(most) for most in (0.9, 1, 4.9, 50, 199, 1000)] == [
        0.5,
        1,
        2,
        50,
        100,
        1000,
    ]
    assert (length_words(50), length_words(200), length_words(2000)) == ("50 µm", "0.2 mm", "2 mm")
    sheet = Sheet(200, 40)
    sheet.scale_bar(10, 5, length=120, words="50 µm", size=14)
    dark = np.flatnonzero((sheet.pixels < 100).all(axis=2).any(axis=0))
    assert dark[-1] - dark[0] + 1 == 120
