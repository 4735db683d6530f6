"""Pictures of one slide: three new files, everything where it lies, and no name of the slide in them."""

import io
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slide_lab import PUBLIC_SLIDE, needs_public_slide, tissue_picture, write_tiff
from solblom_models.slides.gallery import MARGIN, GalleryTile, gallery_png, magnification
from solblom_models.slides.heatmap import EDGE, Words, heatmap_png
from solblom_models.slides.sheet import FRAME, INK
from solblom_models.slides.slide import Level, Slide, open_slide
from solblom_models.slides.slide_error import SlideError
from solblom_models.slides.slide_pictures import BEYOND, overview_resolution, write_pictures
from solblom_models.slides.tiles import tile_grid
from solblom_models.slides.tissue import find_tissue
from solblom_protocol.errors import ConfigurationError

PIXELS = tissue_picture(512, 768, left=128, top=128, right=640, bottom=384)
PLACES = np.array([(x, y) for y in (128, 192, 256, 320) for x in range(128, 640, 64)])
SCORES = np.linspace(-1, 1, len(PLACES))
NAME = "HUSEBY-1931-04.tiff"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = write_tiff(tmp_path_factory.mktemp("slides") / NAME, PIXELS, 0.5)
    with open_slide(path) as found:
        yield found


def written(slide: Slide, out: Path, **changes: Any) -> tuple[Path, Path, Path]:
    values: dict[str, Any] = {"places": PLACES, "side": 64.0, "scores": SCORES} | changes
    placed = values.pop("places"), values.pop("side"), values.pop("scores")
    return write_pictures(slide, *placed, **({"kind": "evidence", "out": out} | values))


@pytest.fixture(scope="module")
def files(slide: Slide, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The three files of the made-up slide, written once."""
    return written(slide, tmp_path_factory.mktemp("out") / "heat.png")


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_three_files_lie_beside_each_other_for_their_owner_only(
    files: tuple[Path, Path, Path],
) -> None:
    assert [path.name for path in files] == ["heat.png", "heat-tiles.png", "heat.geojson"]
    assert sorted(files) == sorted(files[0].parent.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert min(len(pixels_of(path)) for path in files[:2]) > 900
    assert len(json.loads(files[2].read_bytes())["features"]) == len(PLACES)


def test_nothing_of_the_slides_name_stands_in_them(files: tuple[Path, Path, Path]) -> None:
    for path in files:
        assert b"HUSEBY" not in path.read_bytes()
        assert b"1931" not in path.read_bytes()


def test_the_same_slide_and_scores_give_the_same_bytes(
    slide: Slide, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    again = written(slide, tmp_path / "heat.png")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]


@pytest.mark.parametrize("there", ["heat.png", "heat-tiles.png", "heat.geojson"])
def test_no_file_is_written_if_one_of_the_three_exists(
    slide: Slide, tmp_path: Path, there: str
) -> None:
    (tmp_path / there).write_bytes(b"mine")
    with pytest.raises(ConfigurationError) as caught:
        written(slide, tmp_path / "heat.png")
    assert caught.value.code == "SB-113"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


def test_no_file_is_written_for_scores_that_cannot_be_shown(slide: Slide, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        written(slide, tmp_path / "heat.png", scores=np.full(len(PLACES), np.nan))
    with pytest.raises(SlideError, match="no tile of it was scored"):
        written(slide, tmp_path / "heat.png", places=np.zeros((0, 2)), scores=np.zeros(0))
    assert not list(tmp_path.iterdir())


def test_the_scored_tiles_lie_over_the_tissue(files: tuple[Path, Path, Path]) -> None:
    """The tiles cover the made-up tissue exactly, so the lines around them lie one or two pixels outside of it."""
    picture = pixels_of(files[0]).astype(np.int64)
    levels = np.flatnonzero((picture == FRAME).all(axis=2).sum(axis=1) > 700)
    above, below = picture[levels[0] + 1 : levels[1]], picture[levels[2] + 1 : levels[3]]
    tissue = np.argwhere(above[..., 0] - above[..., 1] > 40)
    lines = np.argwhere((below == EDGE).all(axis=2) | (below == INK).all(axis=2))
    assert above.shape == below.shape
    assert set((tissue.min(axis=0) - lines.min(axis=0)).tolist()) <= {1, 2}
    assert set((lines.max(axis=0) - tissue.max(axis=0)).tolist()) <= {1, 2}


def test_the_gallery_shows_the_pixels_of_the_highest_tile(files: tuple[Path, Path, Path]) -> None:
    """The last tile is the highest: it comes first, with twice its side, enlarged by two, in a frame."""
    picture = pixels_of(files[1])
    x, y = PLACES[-1]
    inner = PIXELS[y + 4 : y + 60, x + 4 : x + 60].repeat(2, axis=0).repeat(2, axis=1)
    first = picture[: len(picture) // 2, : MARGIN + 256]
    row = np.lib.stride_tricks.sliding_window_view(first[..., 0], inner.shape[1], axis=1)
    tops, lefts = np.nonzero((row[..., ::7] == inner[0, ::7, 0]).all(axis=2))
    hits = [
        (top, left)
        for top, left in zip(tops, lefts, strict=True)
        if np.array_equal(first[top : top + len(inner), left : left + len(inner)], inner)
    ]
    assert len(hits) == 1
    assert hits[0][1] == MARGIN + 2 * (32 + 4)


def test_beyond_the_slide_is_grey_and_not_glass(slide: Slide, tmp_path: Path) -> None:
    """Three quarters of twice the side lie inside on both axes, at two corners."""
    corners = np.array([[0, 0], [704, 448]])
    _, gallery, _ = written(
        slide, tmp_path / "heat.png", places=corners, scores=np.array([1.0, -1.0])
    )
    grey = (pixels_of(gallery) == BEYOND).all(axis=2).sum()
    assert grey == pytest.approx(2 * (256**2 - 192**2), rel=0.03)


def test_words_say_what_is_shown(
    slide: Slide, files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    half = (SCORES + 1) / 2
    chances = written(slide, tmp_path / "h.png", kind="probability", scores=half, answer="{x}")
    for path, name in ((files[2], "Evidence"), (chances[2], "Probability")):
        first = json.loads(path.read_bytes())["features"][0]["properties"]
        assert set(first["measurements"]) == {name, "Rank"}
        assert first["classification"]["name"].startswith(name)


def test_an_overview_is_bounded_and_never_finer_than_the_scan(slide: Slide) -> None:
    assert overview_resolution(slide) == pytest.approx(0.5)
    large = Slide(Large(), 0.25, ())
    assert max(100_000, 40_000) * 0.25 / overview_resolution(large) == pytest.approx(1600)


class Large:
    """Pixels of a slide too large to write in a test."""

    def __init__(self) -> None:
        self.levels = (Level(100_000, 40_000, 1.0),)
        self.microns_per_pixel = (0.25, 0.25)
        self.kinds = ()

    def region(self, left: int, top: int, level: int, width: int, height: int) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_resolutions_are_said_as_a_pathologist_says_them() -> None:
    assert magnification(0.25) == "0.25 µm/px, about 40x"
    assert magnification(0.499) == "0.5 µm/px, about 20x"
    assert magnification(1.0) == "1 µm/px, about 10x"


def card(size: int = 64, score: float = 1.0) -> GalleryTile:
    return GalleryTile(np.zeros((size, size, 3), dtype=np.uint8), 0.1, 0.2, 10, 20, 1, score)


@pytest.mark.parametrize(
    ("top", "words"),
    [([], "needs a tile"), ([card(score=np.nan)], "not finite"), ([card(), card(32)], "one size")],
)
def test_a_gallery_that_cannot_be_drawn_is_refused(top: list[GalleryTile], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gallery_png(
            top,
            [],
            title="",
            top_words="highest",
            bottom_words="lowest",
            microns_per_pixel=0.5,
            tile_px=32,
            signed=True,
        )


@needs_public_slide
def test_on_a_real_slide_a_tile_is_lit_where_it_lies() -> None:
    with open_slide(PUBLIC_SLIDE) as slide:
        grid = tile_grid(
            slide, find_tissue(slide), tile_px=128, microns_per_pixel=1.0, min_tissue=0.5
        )
        overview = slide.overview(2.0)
        shrink = 2.0 / slide.microns_per_pixel
        middle = len(grid.places) // 2
        data = heatmap_png(
            overview,
            2.0,
            places=grid.places,
            side=grid.side,
            slide_microns_per_pixel=slide.microns_per_pixel,
            scores=np.eye(len(grid.places))[middle],
            words=Words("", "", "", ""),
            scale="diverging",
            limits=(-1.0, 1.0),
        )
    picture = np.asarray(Image.open(io.BytesIO(data)))[: len(overview)].astype(np.int64)
    uprights = np.flatnonzero((picture == FRAME).all(axis=2).sum(axis=0) > len(picture) / 2)
    panel = picture[:, uprights[2] + 1 : uprights[3]]
    columns = np.flatnonzero((panel[..., 0] - panel[..., 2] > 45).sum(axis=0) > 10)
    left = grid.places[middle, 0] / shrink
    assert panel.shape[1] == overview.shape[1]
    assert columns[0] == pytest.approx(left, abs=1)
    assert columns[-1] + 1 == pytest.approx(left + grid.side / shrink, abs=1)
