"""One whole-slide image, read by microns per pixel and never by level; label and macro images are never read."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.slide_error import SlideError

FINEST, COARSEST = 0.05, 10.0  # microns per pixel that a light microscope's scanner can have
SQUARE = 0.01  # how far a pixel's sides may differ
NEAR = 0.02  # a level, or whole squares of its pixels, this close to the resolution asked for lose no sharpness to it
MOST_DRIFT = 0.6  # pixels at the far edge, below which they are taken as they are: 256 px of 0.499 microns at 0.5
SLACK = 0.1  # a scan this much coarser than asked for is still enlarged; beyond, nothing could bring detail back
BILINEAR, BOX = 2, 4  # Pillow's Resampling; Pillow is an extra
REDUCING_GAP = 2.0  # Pillow averages whole squares first where it shrinks by twice this or more
CARRIED = ("a label image", "a macro image", "tags that may identify")
"""What a file may carry that leads to a person, by kind: all that is ever said of it."""
BLOCK_PX = 1024  # of an overview, read at once: bounds memory


@dataclass(frozen=True)
class Level:
    """A level of the pyramid; `shrink` is how many pixels of the largest level one of its pixels stands for."""

    width: int
    height: int
    shrink: float


class Pixels(Protocol):
    """What can read rectangles of a level."""

    levels: tuple[Level, ...]
    microns_per_pixel: tuple[float, float] | None  # of the largest level: across, down
    kinds: tuple[str, ...]  # what else the file carries, by kind
    origin: tuple[int, int]  # where a viewer's picture begins, pixels of the largest level

    def region(self, left: int, top: int, level: int, width: int, height: int) -> Any:
        """Return a Pillow image in RGB; left and top count in pixels of the largest level; outside is white."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True)
class Slide:
    """An open slide.

    Attributes:
        microns_per_pixel: of the largest level.
        warnings: what the file carries that may identify a patient, by kind: never a value.
    """

    pixels: Pixels
    microns_per_pixel: float
    warnings: tuple[str, ...]

    @property
    def origin(self) -> tuple[int, int]:
        """Where QuPath's picture begins, pixels of the largest level: what a scanner calls the slide's bounds."""
        return self.pixels.origin

    @property
    def width(self) -> int:
        """Pixels of the largest level, across."""
        return self.pixels.levels[0].width

    @property
    def height(self) -> int:
        """Pixels of the largest level, down."""
        return self.pixels.levels[0].height

    def read(
        self, left: float, top: float, width: int, height: int, microns_per_pixel: float
    ) -> NDArray[np.uint8]:
        """Return a rectangle at a resolution, shape (height, width, 3); outside of the slide is white.

        Args:
            left: of the upper left corner, pixels of the largest level.
            top: as `left`.
            width: of what is returned, pixels at `microns_per_pixel`.
            height: as `width`.
            microns_per_pixel: see `check_resolution`.

        A pixel shows the place that it should to within one, however large the rectangle.

        Raises:
            SlideError: the file is damaged there.
        """
        factor = microns_per_pixel / self.microns_per_pixel
        number, level = self._level(factor)
        within = factor / level.shrink
        times = max(round(within), 1)
        error = abs(within / times - 1)
        if error * max(width, height) < MOST_DRIFT:
            corner = round(left), round(top)
            found = self.pixels.region(*corner, number, times * width, times * height)
            return np.asarray(found if times == 1 else found.reduce(times))
        across = _span(left / level.shrink, width * within, level.width, math.ceil(within))
        down = _span(top / level.shrink, height * within, level.height, math.ceil(within))
        corner = round(across.first * level.shrink), round(down.first * level.shrink)
        found = self.pixels.region(*corner, number, across.count, down.count)
        return np.asarray(
            found.resize(
                (width, height),
                # As sharp as from a scan whose whole squares are exactly the resolution asked for.
                BOX if error <= NEAR else BILINEAR,
                (across.start, down.start, across.end, down.end),
                REDUCING_GAP,
            )
        )

    def overview(self, microns_per_pixel: float) -> NDArray[np.uint8]:
        """Return the whole slide at a coarse resolution, shape (H, W, 3), read block by block.

        Raises:
            SlideError: the file is damaged.
        """
        factor = microns_per_pixel / self.microns_per_pixel
        width, height = (max(int(side / factor), 1) for side in (self.width, self.height))
        _, level = self._level(factor)
        # A slide without small levels is read in smaller blocks, for each holds many large pixels.
        block = max(int(BLOCK_PX * min(1.0, 4 * level.shrink / factor)), 16)
        found = np.empty((height, width, 3), dtype=np.uint8)
        for y in range(0, height, block):
            for x in range(0, width, block):
                wide, high = min(block, width - x), min(block, height - y)
                found[y : y + high, x : x + wide] = self.read(
                    x * factor, y * factor, wide, high, microns_per_pixel
                )
        return found

    def check_resolution(self, microns_per_pixel: float) -> None:
        """Refuse a resolution that the scan does not have.

        Raises:
            SlideError: the scan is more than a tenth coarser.
        """
        if self.microns_per_pixel > microns_per_pixel * (1 + SLACK):
            raise SlideError(
                f"it was scanned at {self.microns_per_pixel:.3g} microns per pixel, "
                f"and the study reads {microns_per_pixel:g}"
            )

    def _level(self, factor: float) -> tuple[int, Level]:
        """Return the coarsest level that is no coarser than asked for, or the largest."""
        levels = list(enumerate(self.pixels.levels))
        fine = [pair for pair in levels if pair[1].shrink <= factor * (1 + NEAR)]
        return max(fine or levels[:1], key=lambda pair: pair[1].shrink)

    def __enter__(self) -> "Slide":
        """Give the slide; it is closed at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.pixels.close()


@dataclass(frozen=True)
class _Span:
    """Pixels of a level along one side: which are read, and what of them is meant, counted from the first."""

    first: int
    count: int
    start: float
    end: float


def _span(start: float, length: float, side: int, around: int) -> _Span:
    """Return what is meant with its neighbours, but none beyond the slide: white would be mixed into its edge."""
    first, last = math.floor(start), math.ceil(start + length)
    first, last = min(first, max(first - around, 0)), max(last, min(last + around, side))
    return _Span(first, last - first, start - first, min(start - first + length, last - first))


def open_slide(path: Path, *, assumed_microns_per_pixel: float | None = None) -> Slide:
    """Open a slide: by OpenSlide, or by tifffile where OpenSlide does not know the layout.

    Args:
        path: the file; a slide of several files is named by its main one.
        assumed_microns_per_pixel: for a slide that does not say; from the signed study, never from a guess.

    Raises:
        SlideError: it is no slide, is damaged, has no plausible resolution, or pixels that are not 8-bit RGB.
        ConfigurationError: SB-118, OpenSlide is not installed.
    """
    from solblom_models.slides.pixel_sources import open_pixels

    pixels = open_pixels(path)
    try:
        resolution = _resolution(pixels.microns_per_pixel, assumed_microns_per_pixel)
    except SlideError:
        pixels.close()
        raise
    return Slide(pixels, resolution, pixels.kinds)


def _resolution(said: tuple[float, float] | None, assumed: float | None) -> float:
    if said is None:
        if assumed is None:
            raise SlideError("it does not say its microns per pixel, and the contract assumes none")
        said = (assumed, assumed)
    if not all(FINEST <= side <= COARSEST for side in said):
        raise SlideError(
            f"it claims {said[0]:.3g} microns per pixel; between {FINEST:g} and {COARSEST:g} are plausible"
        )
    if abs(said[0] / said[1] - 1) > SQUARE:
        raise SlideError("its pixels are not square")
    return (said[0] + said[1]) / 2
