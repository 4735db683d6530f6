"""A file that is no whole, plain slide is refused in words that name nothing of it."""

import io
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_error import SlideError

NAME = "OLSEN-1944.svs"
STEPS = np.random.default_rng(1).normal(0, 4, size=(512, 640, 3))
PICTURE = np.clip(128 + np.cumsum(STEPS, axis=1), 0, 255).astype(np.uint8)
HALF_MICRON: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}


def write(path: Path, picture: Any = PICTURE, **changes: Any) -> Path:
    values: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg"}
    tifffile.imwrite(path, picture, metadata=None, **{**values, **HALF_MICRON, **changes})
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / NAME)


def read_all(path: Path) -> None:
    with open_slide(path) as slide:
        slide.overview(4.0)
        slide.read(0, 0, slide.width, slide.height, slide.microns_per_pixel)


def refusal(path: Path) -> str:
    """Return the words with which a file is refused, at once or when it is read."""
    with pytest.raises(SlideError) as caught:
        read_all(path)
    said = str(caught.value)
    assert "OLSEN" not in said
    assert str(path.parent) not in said
    assert caught.value.__cause__ is None
    return said


def test_the_whole_file_is_read(whole: Path) -> None:
    read_all(whole)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_a_truncated_slide(tmp_path: Path, whole: Path, share: float) -> None:
    data = whole.read_bytes()
    (tmp_path / NAME).write_bytes(data[: int(len(data) * share)])
    refusal(tmp_path / NAME)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resolution": None, "resolutionunit": None}, "does not say its microns per pixel"),
        ({"resolutionunit": "NONE"}, "does not say its microns per pixel"),
        ({"resolution": (1e8, 1e8)}, "claims 0.0001 microns per pixel"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, "claims 353 microns per pixel"),
        ({"resolution": (2e4, 1e4)}, "not square"),
    ],
)
def test_a_resolution_that_cannot_be(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(write(tmp_path / NAME, **changes))


@pytest.mark.parametrize(
    ("picture", "changes", "said"),
    [
        (PICTURE.astype(np.uint16) * 256, {"compression": "deflate"}, "not 8-bit"),
        (PICTURE[..., 0], {"photometric": "minisblack"}, "1 channel:"),
        (
            np.dstack([PICTURE, PICTURE[..., 0]]),
            {"compression": "deflate", "extrasamples": ["unassalpha"]},
            "4 channels",
        ),
        (PICTURE.astype(np.float32), {"compression": "deflate"}, "not 8-bit"),
        (
            np.moveaxis(PICTURE, 2, 0),
            {"compression": "deflate", "planarconfig": "separate"},
            "in a plane of its own",
        ),
        (
            np.moveaxis(PICTURE, 2, 0),
            {"compression": None, "planarconfig": "separate", "tile": None},
            "in a plane of its own",
        ),
        (PICTURE, {"compression": "deflate", "photometric": "cielab"}, "neither RGB nor YCbCr"),
    ],
)
def test_pixels_that_are_not_8_bit_rgb(
    tmp_path: Path, picture: Any, changes: dict[str, Any], said: str
) -> None:
    assert said in refusal(write(tmp_path / NAME, picture, **changes))


@pytest.mark.parametrize(
    "first", [PICTURE[:256, :256, 0], PICTURE[:256, :256]], ids=["grey", "RGB"]
)
def test_an_image_before_the_one_that_was_checked(tmp_path: Path, first: Any) -> None:
    """A TIFF's first image would be read, and its largest is checked: they must be one."""
    with tifffile.TiffWriter(tmp_path / NAME) as file:
        for picture in (first, PICTURE):
            kind = "minisblack" if picture.ndim == 2 else "rgb"
            file.write(picture, photometric=kind, rowsperstrip=64, metadata=None, **HALF_MICRON)
    assert refusal(tmp_path / NAME) == "its first image is not its largest"


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("slide", b"no")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(), "zip archive"),
        (b"patient_id,label\n" * 50, "no slide of a known kind"),
        (b"", "no slide of a known kind"),
        (b"II*\0", "damaged"),
        (b"II*\0" + b"\xff" * 400, "damaged"),
        (b"MM\0+" + b"\0\x08" + b"\xff" * 400, "damaged"),
    ],
)
def test_a_file_that_is_no_slide(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / NAME).write_bytes(data)
    assert said in refusal(tmp_path / NAME)


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.svs") == "it cannot be read"
    (tmp_path / NAME).mkdir()
    assert refusal(tmp_path / NAME) == "it cannot be read"


@pytest.mark.parametrize(
    ("side", "said"), [(2**31 - 1, "beyond a million pixels"), (60_000, "cut short")]
)
def test_a_size_beyond_what_the_file_holds(
    tmp_path: Path, whole: Path, side: int, said: str
) -> None:
    path = Path(shutil.copy(whole, tmp_path / NAME))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[tag].overwrite(side, dtype="I")
    assert said in refusal(path)


@pytest.mark.parametrize(
    "damage",
    [lambda data: bytes(len(data)), lambda data: data[::-1]],
    ids=["zeros", "backwards"],
)
@pytest.mark.parametrize("strips", [False, True], ids=["openslide", "tifffile"])
def test_a_damaged_tile_in_the_middle(
    tmp_path: Path, damage: Callable[[bytes], bytes], strips: bool
) -> None:
    changes = {"tile": None, "rowsperstrip": 64, "compression": "deflate"} if strips else {}
    path = write(tmp_path / NAME, **changes)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        start, count = page.dataoffsets[4], page.databytecounts[4]
    data = bytearray(path.read_bytes())
    data[start : start + count] = damage(bytes(data[start : start + count]))
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def claim(path: Path, image: int = 0, **tags: int) -> Path:
    """Let an image of a TIFF claim other sizes than it has."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name, value in tags.items():
            file.pages[image].tags[name].overwrite(value, dtype="I")
    return path


def write_levels(path: Path, smaller: Any, **changes: Any) -> Path:
    """Write a slide with a second, smaller level of any kind."""
    kind = "minisblack" if smaller.ndim == 2 else "rgb"
    with tifffile.TiffWriter(path) as file:
        for level, picture in enumerate((np.tile(PICTURE, (2, 2, 1)), smaller)):
            file.write(
                picture,
                photometric=kind if level else "rgb",
                tile=changes.get("tile", (128, 128)) if level else (128, 128),
                compression="deflate",
                subfiletype=level,
                metadata=None,
                **HALF_MICRON,
            )
    return path


def test_a_tile_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """OpenSlide ends the process where 14 GB for one tile are not there: nothing of it could be caught."""
    huge = {"ImageWidth": 60_000, "ImageLength": 60_000, "TileWidth": 60_016, "TileLength": 60_016}
    path = claim(write(tmp_path / NAME, tile=(512, 640)), **huge)
    assert refusal(path).startswith("it is cut into pieces of 3,602 million pixels")


def test_a_smaller_level_with_such_a_tile_is_refused(tmp_path: Path) -> None:
    path = write_levels(tmp_path / NAME, PICTURE, tile=(512, 640))
    path = claim(path, 1, TileWidth=60_016, TileLength=60_016)
    assert "it is cut into pieces of 3,602 million pixels" in refusal(path)


def test_a_strip_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A few bytes of zeros become gigabytes, once more for each tile that is read of it."""
    path = write(tmp_path / NAME, tile=None, rowsperstrip=512, compression="deflate")
    path = claim(path, ImageWidth=60_000, ImageLength=60_000, RowsPerStrip=60_000)
    assert refusal(path).startswith("it is cut into pieces of 3,600 million pixels")


@pytest.mark.parametrize(
    ("smaller", "said"),
    [(PICTURE.astype(np.uint16) * 256, "not 8-bit"), (PICTURE[..., 0], "1 channel:")],
    ids=["16-bit", "grey"],
)
def test_a_smaller_level_of_another_kind_is_not_taken_for_rgb(
    tmp_path: Path, smaller: Any, said: str
) -> None:
    """OpenSlide would show it as colour, and the tissue mask is made from such levels."""
    assert said in refusal(write_levels(tmp_path / NAME, smaller))


def test_images_that_follow_each_other_in_a_circle_come_to_an_end(
    tmp_path: Path, whole: Path
) -> None:
    data = bytearray(whole.read_bytes())
    first = struct.unpack_from("<I", data, 4)[0]
    after = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, after, first)
    (tmp_path / NAME).write_bytes(data)
    assert refusal(tmp_path / NAME).startswith("it names more than 1,024 images")


class ForeignSlide:
    """What OpenSlide says of a file that is no TIFF: made up, since no such file is at hand."""

    def __init__(self, vendor: str, side: int, tile: int) -> None:
        self.level_dimensions = ((side, side),)
        self.level_downsamples = (1.0,)
        self.associated_images: dict[str, Any] = {}
        self.properties = {
            "openslide.vendor": vendor,
            "openslide.mpp-x": "0.5",
            "openslide.mpp-y": "0.5",
            "openslide.level[0].tile-width": str(tile),
            "openslide.level[0].tile-height": str(tile),
        }

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("vendor", "side", "tile", "said"),
    [
        ("dicom", 1_000, 65_535, "it is cut into pieces of 4,295 million pixels"),
        ("dicom", 2_000_000, 256, "beyond a million pixels"),
        ("hamamatsu", 1_000, 256, "spread over files that are not followed"),
    ],
)
def test_what_is_no_tiff_has_the_same_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, side: int, tile: int, said: str
) -> None:
    import openslide

    (tmp_path / NAME).write_bytes(b"no TIFF")
    monkeypatch.setattr(openslide, "OpenSlide", lambda path: ForeignSlide(vendor, side, tile))
    assert said in refusal(tmp_path / NAME)
