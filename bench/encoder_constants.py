"""Make the constants of the built-in tile encoder from one public slide, CMU-1-Small-Region (CC0, OpenSlide).

SOLBLOM_SLIDES names the folder that holds it; needs tifffile and Pillow. 4,500 crops of 50 pixels, 1,500 each at 0.75,
1 and 1.5 microns per pixel (of a scan at 0.5), background left out; haematoxylin and eosin scaled by lognormal factors
of spread .25, the residual by .08, all shifted by .02, as between laboratories. Then: mean and spread of each raw
feature, and 80 principal components, each divided by the root of its spread, so that strong ones stay stronger than
weak ones.

No patient of a study is read. `--write` puts the file into the package; without it the file there is compared.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

from solblom_models.tile_encoder import encoder
from solblom_models.tile_encoder.encoder import LIMIT_RAW, Constants
from solblom_models.tile_encoder.stain import rgb_of, stains_of
from solblom_models.tile_encoder.texture import raw_features

SLIDE = "cmu_small_region.svs"
SIDE, EACH, SHRINK = 50, 1_500, (1.5, 2.0, 3.0)
COMPONENTS, SEED = 80, 20261124
VARY, SHIFT = (0.25, 0.25, 0.08), 0.02


def crops(slide: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return crops with tissue, shape (N, 50, 50, 3)."""
    rng, found = np.random.default_rng(SEED), []
    for factor in SHRINK:
        size = int(slide.shape[1] / factor), int(slide.shape[0] / factor)
        small = np.asarray(Image.fromarray(slide).resize(size, Image.Resampling.BOX))
        taken = 0
        while taken < EACH:
            y, x = (int(rng.integers(0, side - SIDE)) for side in small.shape[:2])
            tile = small[y : y + SIDE, x : x + SIDE]
            if (tile.min(axis=2) > 220).mean() <= 0.6:
                found.append(tile)
                taken += 1
    return np.stack(found)


def varied(tiles: NDArray[np.uint8]) -> torch.Tensor:
    """Return the tiles as if other laboratories had stained them, (N, 3, H, W)."""
    generator = torch.Generator().manual_seed(SEED)
    stains = stains_of(torch.from_numpy(tiles).permute(0, 3, 1, 2).float())
    shape = (len(tiles), 3, 1, 1)
    factors = torch.exp(
        torch.randn(shape, generator=generator) * torch.tensor(VARY).view(1, 3, 1, 1)
    )
    return rgb_of(stains * factors + SHIFT * torch.randn(shape, generator=generator)).round()


def constants_of(raw: NDArray[np.float32]) -> Constants:
    """Return the constants of public raw features (N, 162)."""
    values = raw.astype(np.float64)
    mean, spread = values.mean(axis=0), values.std(axis=0) + 1e-3
    standard = np.clip((values - mean) / spread, -LIMIT_RAW, LIMIT_RAW)
    center = standard.mean(axis=0)
    _, sizes, axes = np.linalg.svd(standard - center, full_matrices=False)
    signs = np.sign(axes[np.arange(COMPONENTS), np.abs(axes[:COMPONENTS]).argmax(axis=1)])
    spreads = sizes[:COMPONENTS] / np.sqrt(len(values))
    turn = (axes[:COMPONENTS] * signs[:, None] / np.sqrt(spreads)[:, None]).T
    return Constants(
        *(np.ascontiguousarray(a, dtype=np.float32) for a in (mean, spread, center, turn))
    )


def main() -> None:
    """Make the file, and write it or compare it with the one that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    slide = tifffile.imread(Path(os.environ["SOLBLOM_SLIDES"]) / SLIDE, key=0)
    tiles = varied(crops(slide))
    with torch.no_grad():
        raw = torch.cat([raw_features(part) for part in tiles.split(256)]).numpy()
    made = constants_of(raw)
    path = Path(encoder.__file__).parent / encoder.CONSTANTS
    if options.write:
        path.write_bytes(save(vars(made)))
        print(f"Wrote {path.name}, sha256 {encoder.encoder_digest()}")
        return
    shipped = encoder.constants()
    for name, value in vars(made).items():
        print(f"{name}: largest difference {np.abs(value - getattr(shipped, name)).max():.2e}")


if __name__ == "__main__":
    main()
