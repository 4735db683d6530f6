"""Where there is tissue on a slide: saturated, not ink, not a speck; and whether a tile is in focus.

Ink is told from stain by optical density: haematoxylin and eosin both absorb green most (Ruifrok & Johnston 2001), so a
pixel that absorbs red more than green (blue and green ink), or all alike (black), was not stained. The mask is for
these two stains: methylene blue is taken for ink, and red ink for eosin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from solblom_models.slides.slide import Slide

MASK_MICRONS = 8.0  # per pixel of the mask, at the finest
STRIP = 256  # rows of an overview, worked on at once: bounds memory
MOST_SIDE = 4096  # pixels of the mask
LEAST_SATURATION = 0.07  # below, glass; Otsu's threshold alone would cut an empty slide in two
MOST_SATURATION_THRESHOLD = 0.2  # above, Otsu separates strong from weak stain
LEAST_AREA_MM2 = 0.02
INK_RED, INK_BLUE, INK_DENSITY = 1.15, 0.95, 0.25
PEN_GROW_MICRONS = 48.0  # ink's faint edge
LIGHT = 230.0  # a pixel whose darkest channel is above it is glass
CALM_PX = 4  # pixels a side that are averaged before detail is measured
FAINT = 8.0  # of brightness, 0 to 255: below such a spread, noise would decide
SHARP = 0.32  # see `is_sharp`; between slides and the same blurred and noisy, by bench/slides.py


@dataclass(frozen=True)
class Tissue:
    """What a slide's overview says.

    Attributes:
        mask: True where there is tissue, shape (H, W).
        microns_per_pixel: of the mask.
        ink: share of the overview that is pen.
    """

    mask: NDArray[np.bool_]
    microns_per_pixel: float
    ink: float

    @property
    def area_mm2(self) -> float:
        """Tissue in square millimetres."""
        return float(self.mask.sum()) * (self.microns_per_pixel / 1000) ** 2


def find_tissue(slide: Slide) -> Tissue:
    """Return the tissue of a slide.

    Raises:
        SlideError: the file is damaged.
    """
    extent = max(slide.width, slide.height) * slide.microns_per_pixel
    resolution = max(MASK_MICRONS, extent / MOST_SIDE, slide.microns_per_pixel)
    return tissue_of(slide.overview(resolution), resolution)


def tissue_of(overview: NDArray[np.uint8], microns_per_pixel: float) -> Tissue:
    """Return the tissue of an overview, (H, W, 3), worked through in strips: colour takes many numbers a pixel."""
    shape = overview.shape[:2]
    saturation, ink = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    dim = np.empty(shape, dtype=np.bool_)
    for top in range(0, shape[0], STRIP):
        strip = slice(top, min(top + STRIP, shape[0]))
        smooth = _smooth(overview, strip)
        red, green, blue = np.moveaxis(smooth, 2, 0)
        high = np.maximum(np.maximum(red, green), blue)
        low = np.minimum(np.minimum(red, green), blue)
        saturation[strip] = (high - low) / np.maximum(high, 1.0)
        dim[strip] = low < LIGHT
        ink[strip] = pen(smooth)
    # Single odd pixels, as pigment and debris give, are opened away: a pen's line is broad.
    near_ink = ink
    if ink.any():
        ink = ndimage.binary_opening(ink, np.ones((5, 5)))
        grow = max(round(PEN_GROW_MICRONS / microns_per_pixel), 1)
        near_ink = ndimage.binary_dilation(ink, iterations=grow) if ink.any() else ink
    threshold = np.clip(otsu(saturation), LEAST_SATURATION, MOST_SATURATION_THRESHOLD)
    pixels = max(int(LEAST_AREA_MM2 * (1000 / microns_per_pixel) ** 2), 1)
    mask = _without_specks((saturation > threshold) & dim & ~near_ink, pixels)
    return Tissue(mask, microns_per_pixel, float(ink.mean()))


def pen(smooth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the colour is ink's, shape (H, W), of smoothed RGB (H, W, 3) with values 0 to 255."""
    # Only the dark can be ink, and logarithms are slow.
    dark = (smooth[..., 0] < _light_at(INK_DENSITY)) | (smooth[..., 1] < _light_at(2 * INK_DENSITY))
    found: NDArray[np.bool_] = np.zeros(dark.shape, dtype=np.bool_)
    density = -np.log10((smooth[dark] + 1.0) / 256.0)
    red, green, blue = density[:, 0], density[:, 1], density[:, 2]
    coloured = (red > INK_RED * green) & (red > INK_DENSITY)
    grey = (np.minimum(red, blue) > INK_BLUE * green) & (green > 2 * INK_DENSITY)
    found[dark] = coloured | grey
    return found


def _light_at(density: float) -> float:
    return float(256.0 * 10.0**-density)


def _smooth(overview: NDArray[np.uint8], strip: slice) -> NDArray[np.float32]:
    """Return the mean of each pixel and its eight neighbours for rows of an overview; edges repeat."""
    first, last = max(strip.start - 1, 0), min(strip.stop + 1, overview.shape[0])
    fill = (int(first == strip.start), int(last == strip.stop))
    part = np.pad(overview[first:last], (fill, (1, 1), (0, 0)), mode="edge").astype(np.uint16)
    rows = part[:-2] + part[1:-1] + part[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    found: NDArray[np.float32] = sums.astype(np.float32) / np.float32(9)
    return found


def otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold in [0, 1] that separates values best (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][int(np.nan_to_num(apart).argmax())])


def sharpness(tile: NDArray[np.uint8]) -> float:
    """Return how much fine detail there is beside coarse: RMS of the Laplacian of brightness, over its mean spread.

    Light and faint tissue has little of both, so the ratio is compared, not the amount. Squares of pixels are averaged
    first, since a sensor's noise stays where focus is lost. A tile has at least 12 pixels a side.
    """
    height, width = (side // CALM_PX for side in tile.shape[:2])
    whole = tile[: height * CALM_PX, : width * CALM_PX].reshape(height, CALM_PX, width, -1)
    # Colours and columns of a square lie side by side: one sum each way.
    grey = whole.sum(axis=(1, 3), dtype=np.uint32).astype(np.float32) / (3 * CALM_PX**2)
    fine = np.float32(4) * grey[1:-1, 1:-1]
    fine -= grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.sqrt(np.square(fine).mean()) / (grey.std() + FAINT))


def is_sharp(tile: NDArray[np.uint8]) -> bool:
    """Tell whether a tile is in focus, shape (H, W, 3)."""
    return sharpness(tile) >= SHARP


def _without_specks(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return the mask without parts smaller than this, and with smaller holes filled."""
    kept = _of_size(mask, pixels)
    return ~_of_size(~kept, pixels)


def _of_size(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    found: NDArray[np.bool_] = (sizes >= pixels)[parts]
    return found
