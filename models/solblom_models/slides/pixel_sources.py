"""Where pixels come from: OpenSlide, or tifffile for TIFF files that OpenSlide does not know.

OpenSlide shows 16-bit and greyscale files as if they were 8-bit RGB (measured with 4.0.1), so a TIFF's own tags are
read first. Decoders are C libraries that meet files from outside: see client/solblom_client/slides/worker.py.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.slide import CARRIED, Level, Pixels
from solblom_models.slides.slide_error import SlideError
from solblom_protocol.errors import ConfigurationError
from solblom_verify.wording import counted

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
LARGEST_SIDE = 1_000_000
LARGEST_PIECE = 2**26  # pixels of a tile or strip, which is decoded as a whole: 256 MiB in RGBA
MOST_IMAGES = 1024  # in a TIFF
IDENTIFYING = (
    "date",
    "time",
    "user",
    "filename",
    "barcode",
    "scanscope id",
    "imageid",
    "patient",
    "label",
)
"""Words in the names of tags that may lead to a person. The tags' values are not read."""
IDENTIFYING_TIFF = ("Artist", "HostComputer", "DateTime", "DocumentName", "Copyright")
_CM, _INCH = 3, 2  # ResolutionUnit of TIFF 6.0
_CONTIGUOUS = 1  # PlanarConfiguration of TIFF 6.0: a pixel's colours side by side
_TOO_LARGE = "it claims an image beyond a million pixels a side"
_COLOURS = (2, 6)  # PhotometricInterpretation of TIFF 6.0: RGB and YCbCr


def open_pixels(path: Path) -> Pixels:
    """Return what reads this file.

    Raises:
        SlideError: it is no slide that this version reads, or is damaged.
        ConfigurationError: SB-118, OpenSlide or tifffile is not installed.
    """
    try:
        import openslide
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "Slides need OpenSlide and tifffile, which are not installed",
            "pip install 'solblom-models[slides]'",
        ) from None
    start = _start(path)
    if start.startswith(ZIP):
        raise SlideError("it is a zip archive, whatever its name says")
    tiff = _check_tiff(path) if start.startswith(TIFF) else None
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        if tiff is not None:
            return TiffPixels(path, tiff.kinds)
        raise SlideError("it is no slide of a known kind") from None
    except openslide.OpenSlideError:
        raise SlideError("OpenSlide cannot read it: it is damaged or cut short") from None
    try:
        _check_levels(slide, tiff)
        return OpenSlidePixels(slide, () if tiff is None else tiff.kinds)
    except SlideError:
        slide.close()
        raise


class OpenSlidePixels:
    """A slide as OpenSlide reads it."""

    def __init__(self, slide: Any, kinds: tuple[str, ...]) -> None:
        self._slide = slide
        self.levels = tuple(
            Level(width, height, float(shrink))
            for (width, height), shrink in zip(
                slide.level_dimensions, slide.level_downsamples, strict=True
            )
        )
        self.origin = _bounds([slide.properties.get(f"openslide.bounds-{axis}") for axis in "xy"])
        said = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        self.microns_per_pixel = _both(said)
        names = [name.lower() for name in slide.properties if not name.startswith("openslide.")]
        images = zip(("label", "macro"), CARRIED, strict=False)
        found = [kind for name, kind in images if name in slide.associated_images]
        if any(word in name for name in names for word in IDENTIFYING):
            found.append(CARRIED[2])
        self.kinds = tuple(dict.fromkeys((*found, *kinds)))

    def region(self, left: int, top: int, level: int, width: int, height: int) -> Any:
        """See Pixels. Transparent pixels become white."""
        import openslide
        from PIL import Image

        try:
            found = self._slide.read_region((left, top), level, (width, height))
        except openslide.OpenSlideError:
            raise SlideError(
                "OpenSlide cannot read a part of it: it is damaged or cut short"
            ) from None
        # Pillow drops and mixes channels several times faster than numpy does.
        if found.getchannel("A").getextrema()[0] < 255:
            found = Image.alpha_composite(Image.new("RGBA", found.size, "white"), found)
        return found.convert("RGB")

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


class TiffPixels:
    """A tiled or stripped TIFF of 8-bit RGB; only the segments that a rectangle touches are decoded."""

    origin = (0, 0)

    def __init__(self, path: Path, kinds: tuple[str, ...]) -> None:
        import tifffile

        with contextlib.ExitStack() as unless_whole, _damaged():
            self._file = unless_whole.enter_context(tifffile.TiffFile(path))
            self._pages = [level.keyframe for level in self._file.series[0].levels]
            first = self._pages[0]
            largest = _largest(_images(self._file))
            if first.index != largest.index:
                raise SlideError("its first image is not its largest")
            for page in self._pages:
                _check_page(page, path.stat().st_size)
                wide, high = _piece(page)
                _check_piece(wide, high)
            self.levels = tuple(
                Level(p.imagewidth, p.imagelength, first.imagewidth / p.imagewidth)
                for p in self._pages
            )
            self.microns_per_pixel = _tiff_resolution(first)
            unless_whole.pop_all()
        self.kinds = kinds

    def region(self, left: int, top: int, level: int, width: int, height: int) -> Any:
        """See Pixels."""
        from PIL import Image

        page, shrink = self._pages[level], self.levels[level].shrink
        x0, y0 = round(left / shrink), round(top / shrink)
        found = np.full((height, width, 3), 255, dtype=np.uint8)
        with _damaged():
            for x, y, part in self._segments(page, x0, y0, x0 + width, y0 + height):
                a, b = max(x, x0), max(y, y0)
                c, d = (
                    min(x + part.shape[1], x0 + width, page.imagewidth),
                    min(y + part.shape[0], y0 + height, page.imagelength),
                )
                if c > a and d > b:
                    found[b - y0 : d - y0, a - x0 : c - x0] = part[b - y : d - y, a - x : c - x]
        return Image.fromarray(found)

    def _segments(
        self, page: Any, x0: int, y0: int, x1: int, y1: int
    ) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Give each decoded segment that meets the rectangle, with its place."""
        wide, high = _piece(page)
        across = -(-page.imagewidth // wide)
        down = -(-page.imagelength // high)
        handle = self._file.filehandle
        for row in range(max(y0 // high, 0), min(-(-y1 // high), down)):
            for column in range(max(x0 // wide, 0), min(-(-x1 // wide), across)):
                index = row * across + column
                handle.seek(page.dataoffsets[index])
                data = handle.read(page.databytecounts[index])
                decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
                if decoded is not None:
                    yield column * wide, row * high, decoded[0]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        raise SlideError("it cannot be read") from None


@dataclass(frozen=True)
class _Tiff:
    """What the tags of a TIFF say.

    Attributes:
        kinds: of tags that may identify.
        odd: why a tiled image cannot be read, by its width and height.
    """

    kinds: tuple[str, ...]
    odd: dict[tuple[int, int], str]


def _check_tiff(path: Path) -> _Tiff:
    """Check the largest image of a TIFF by its tags, and say what is odd about others.

    Raises:
        SlideError: it is damaged or cut short, or its pixels are not 8-bit RGB.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(
        logging.CRITICAL
    )  # its words hold places of the file; ours are enough
    with _damaged(), tifffile.TiffFile(path) as file:
        size, images = path.stat().st_size, _images(file)
        _check_page(_largest(images), size)
        odd = {}
        for image in images:
            try:
                _check_page(image, size)
            except SlideError as error:
                if image.is_tiled:
                    odd[image.imagewidth, image.imagelength] = str(error)
        told = any(name in image.tags for image in images for name in IDENTIFYING_TIFF)
    return _Tiff(CARRIED[2:] if told else (), odd)


def _check_levels(slide: Any, tiff: _Tiff | None) -> None:
    """Refuse levels that OpenSlide would read otherwise than they are, or that would end the process.

    Raises:
        SlideError: one has pixels of another kind, is too large, or lies in files that nobody follows.
    """
    # Hamamatsu's VMS and VMU name further files, which no digest of a slide would cover (slide_files.py).
    if tiff is None and slide.properties.get("openslide.vendor") == "hamamatsu":
        raise SlideError("it is spread over files that are not followed: only NDPI of this scanner")
    for number, (width, height) in enumerate(slide.level_dimensions):
        if (
            min(width, height) < 1
        ):  # OpenSlide 4.0.1 gives -2^63 for a BIF whose tiles do not say enough
            raise SlideError(f"level {number} of it has no plausible size")
        if max(width, height) > LARGEST_SIDE:
            raise SlideError(_TOO_LARGE)
        if tiff is not None and (width, height) in tiff.odd:
            raise SlideError(f"level {number} of it: {tiff.odd[width, height]}")
        name = f"openslide.level[{number}].tile-"
        sides = [slide.properties.get(name + side, "0") for side in ("width", "height")]
        _check_piece(int(sides[0]), int(sides[1]))


def _images(file: Any) -> list[Any]:
    """Return the images of a TIFF.

    Raises:
        SlideError: there is no end of them.
    """
    found = [page.keyframe for page in islice(file.pages, MOST_IMAGES + 1)]
    if len(found) > MOST_IMAGES:
        raise SlideError(f"it names more than {MOST_IMAGES:,} images, or goes round in a circle")
    return found


def _largest(images: list[Any]) -> Any:
    """Return the first of a TIFF's largest images."""
    return max(images, key=lambda page: page.imagewidth * page.imagelength)


def _check_page(page: Any, size: int) -> None:
    """Check an image of a file of this size.

    Raises:
        SlideError: it is cut short or too large, or its pixels are not 8-bit RGB.
    """
    if max(page.imagewidth, page.imagelength) > LARGEST_SIDE:
        raise SlideError(_TOO_LARGE)
    if page.samplesperpixel != 3:
        raise SlideError(
            f"it has {counted(page.samplesperpixel, 'channel')}: only RGB slides are read"
        )
    bits = page.bitspersample
    if set(bits if isinstance(bits, tuple) else (bits,)) != {8}:
        raise SlideError("its pixels are not 8-bit")
    if page.photometric not in _COLOURS:
        raise SlideError("its colours are neither RGB nor YCbCr")
    if page.planarconfig != _CONTIGUOUS:
        raise SlideError("it has each colour in a plane of its own, which is not read")
    if page.is_tiled:  # whole strips are nobody's but ours to decode: see TiffPixels
        _check_piece(page.tilewidth, page.tilelength)
    ends = zip(page.dataoffsets, page.databytecounts, strict=True)
    if len(page.dataoffsets) < _segments(page) or any(o + n > size for o, n in ends):
        raise SlideError("it is cut short")


def _segments(page: Any) -> int:
    """Return how many tiles or strips an image of one plane needs."""
    wide, high = _piece(page)
    return int(-(-page.imagewidth // wide) * -(-page.imagelength // high))


def _piece(page: Any) -> tuple[int, int]:
    """Return width and height of a tile or strip."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def _check_piece(width: int, height: int) -> None:
    """Refuse what would be decoded as a whole and take the memory for it.

    Raises:
        SlideError: it is larger than LARGEST_PIECE.
    """
    if width * height > LARGEST_PIECE:
        raise SlideError(
            f"it is cut into pieces of {width * height / 1e6:,.0f} million pixels, which are decoded as a whole; "
            f"at most {LARGEST_PIECE / 1e6:.0f} are read: save it in tiles"
        )


@contextlib.contextmanager
def _damaged() -> Iterator[None]:
    """Turn whatever tifffile says of a damaged file into one error.

    Raises:
        SlideError: it is damaged.
    """
    try:
        yield
    except SlideError:
        raise
    except Exception:  # struct.error, KeyError, ZeroDivisionError, TiffFileError … : the file's words, none of ours
        raise SlideError("its TIFF structure is damaged or cut short") from None


def _bounds(said: list[str | None]) -> tuple[int, int]:
    """Return where a slide's picture begins; a scanner that says nothing, or nonsense, begins at its corner."""
    try:
        x, y = (int(text) for text in said if text is not None)
    except ValueError:
        return (0, 0)
    return (x, y)


def _both(said: list[str | None]) -> tuple[float, float] | None:
    try:
        values = [float(text) for text in said if text is not None]
    except ValueError:
        return None
    return (values[0], values[1]) if len(values) == 2 else None


def _tiff_resolution(page: Any) -> tuple[float, float] | None:
    tag = page.tags.get("ResolutionUnit")
    unit = {_CM: 10_000.0, _INCH: 25_400.0}.get(0 if tag is None else int(tag.value))
    said = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if unit is None or any(tag is None for tag in said):
        return None
    per = [tag.value[0] / tag.value[1] if tag.value[1] else 0.0 for tag in said if tag is not None]
    return (unit / per[0], unit / per[1]) if all(value > 0 for value in per) else None
