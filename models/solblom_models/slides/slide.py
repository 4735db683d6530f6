"""One whole-slide image, read by microns per pixel and never by level; label and macro images are never read."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.slide_error import SlideError

FINEST, COARSEST = 0.05, 10.0  # microns per pixel that a light microscope's scanner can have
SQUARE = 0.01  # how far a pixel's sides may differ
NEAR = 0.02  # a level, or whole squares of its pixels, this close to the resolution asked for are taken as they are
SLACK = 0.1  # a scan this much coarser than asked for is still enlarged; beyond, nothing could bring detail back
BILINEAR = 2  # Pillow's Resampling.BILINEAR; Pillow is an extra
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

        Raises:
            SlideError: the file is damaged there.
        """
        factor = microns_per_pixel / self.microns_per_pixel
        number, level = self._level(factor)
        within = factor / level.shrink
        corner = round(left), round(top)
        times = max(round(within), 1)
        if abs(within / times - 1) <= NEAR:
            found = self.pixels.region(*corner, number, times * width, times * height)
            return np.asarray(found if times == 1 else found.reduce(times))
        size = max(round(width * within), 1), max(round(height * within), 1)
        found = self.pixels.region(*corner, number, *size)
        return np.asarray(found.resize((width, height), BILINEAR))

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
