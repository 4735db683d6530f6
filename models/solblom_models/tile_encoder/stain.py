"""From RGB to how much haematoxylin and eosin a pixel has taken up.

Optical density adds up over stains (Beer-Lambert), so a fixed matrix separates them. Vectors: Ruifrok & Johnston 2001
(Analytical and Quantitative Cytology and Histology 23:291), haematoxylin, eosin and DAB, which serves as residual.
"""

import torch

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of each stain in red, green and blue; scaled to length 1 before use."""


def stain_matrix() -> torch.Tensor:
    """Return the stains' unit vectors, shape (3, 3), one stain a row, float64."""
    rows = torch.tensor(STAINS, dtype=torch.float64)
    units: torch.Tensor = rows / rows.norm(dim=1, keepdim=True)
    return units


def optical_density(tiles: torch.Tensor) -> torch.Tensor:
    """Return -log10 of the light that passes, shape as given; tiles hold 0 to 255, and 255 is no density."""
    return -torch.log10((tiles + 1.0) / 256.0)


def stains_of(tiles: torch.Tensor) -> torch.Tensor:
    """Return haematoxylin, eosin and residual, shape (B, 3, H, W), of RGB tiles (B, 3, H, W) with values 0 to 255."""
    inverse = torch.linalg.inv(stain_matrix()).to(tiles.dtype)
    return torch.einsum("bchw,cs->bshw", optical_density(tiles), inverse)


def rgb_of(stains: torch.Tensor) -> torch.Tensor:
    """Return RGB tiles with values 0 to 255 of haematoxylin, eosin and residual; the way back of `stains_of`."""
    density = torch.einsum("bshw,sc->bchw", stains, stain_matrix().to(stains.dtype))
    return (256.0 * 10.0**-density - 1.0).clamp(0.0, 255.0)
