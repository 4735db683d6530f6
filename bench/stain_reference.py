"""Make the references of stain normalisation from one public slide, CMU-1-Small-Region (CC0, OpenSlide).

SOLBLOM_SLIDES names the folder that holds it. Pixels of evenly spread tiles of its tissue at 0.5 microns per pixel are
used. Prints the constants of models/solblom_models/slides/stain_normalisation.py, and how far those that stand there
are from them.

No patient of a study is read.
"""

import os
from pathlib import Path

import numpy as np

from solblom_models.slides.slide import open_slide
from solblom_models.slides.slide_features import stained_pixels
from solblom_models.slides.stain_normalisation import (
    REFERENCE_SPREAD,
    REFERENCE_STAINS,
    spread_of,
    stains_of_tissue,
)
from solblom_models.slides.tiles import tile_grid
from solblom_models.slides.tissue import find_tissue

SLIDE = "cmu_small_region.svs"


def main() -> None:
    """Print the constants and the differences."""
    with open_slide(Path(os.environ["SOLBLOM_SLIDES"]) / SLIDE) as slide:
        tissue = find_tissue(slide)
        grid = tile_grid(slide, tissue, tile_px=256, microns_per_pixel=0.5, min_tissue=0.5)
        pixels = stained_pixels(slide, grid)
    stains, spread = stains_of_tissue(pixels), spread_of(pixels)
    print("directions", np.round(stains.directions, 4).tolist())
    print("amounts", np.round(stains.amounts, 4).tolist())
    print("mean", np.round(spread.mean, 4).tolist(), "spread", np.round(spread.spread, 4).tolist())
    for name, made, kept in (
        ("directions", stains.directions, REFERENCE_STAINS.directions),
        ("amounts", stains.amounts, REFERENCE_STAINS.amounts),
        ("mean", spread.mean, REFERENCE_SPREAD.mean),
        ("spread", spread.spread, REFERENCE_SPREAD.spread),
    ):
        print(f"{name}: largest difference to the package {np.abs(made - kept).max():.1e}")


if __name__ == "__main__":
    main()
