"""Made-up slides: small tiled TIFFs that say their microns per pixel, and the public slide where it is at hand."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

PUBLIC_SLIDE = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "slides" / "cmu_small_region.svs"
)
needs_public_slide = pytest.mark.skipif(
    not PUBLIC_SLIDE.exists(), reason="the public slide CMU-1-Small-Region is not here"
)
GLASS, TISSUE = (243, 242, 244), (196, 110, 168)


def write_tiff(
    path: Path, pixels: NDArray[np.uint8], microns_per_pixel: float, *, tile_px: int = 128
) -> Path:
    """Write pixels (H, W, 3) as a tiled TIFF, and return where."""
    per_cm = 10_000 / microns_per_pixel
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(tile_px, tile_px),
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        metadata=None,
        software=False,
    )
    return path


def tissue_picture(
    height: int, width: int, *, left: int, top: int, right: int, bottom: int, seed: int = 0
) -> NDArray[np.uint8]:
    """Return glass with one rectangle of mottled, pink tissue, shape (height, width, 3)."""
    found = np.full((height, width, 3), GLASS, dtype=np.uint8)
    noise = np.random.default_rng(seed).integers(-25, 26, size=(bottom - top, right - left, 1))
    found[top:bottom, left:right] = np.clip(np.array(TISSUE) + noise, 0, 255)
    return found
