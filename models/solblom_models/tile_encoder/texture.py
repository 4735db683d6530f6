"""Colour and texture of a tile as 162 numbers, by fixed formulas alone.

Scales are in pixels, so tiles of one study must have one resolution. A tile has at least 50 pixels a side.
"""

from itertools import pairwise

import torch
import torch.nn.functional as functional

from solblom_models.tile_encoder.stain import stains_of

SMALLEST_PX = 50  # two of the largest BLOCKS_PX: one block has no spread
SCALES = (0.7, 1.4, 2.0, 2.8, 4.0, 5.6)  # of Gaussian blurs
PEAK_SCALES = (1.4, 2.0, 2.8, 4.0)
DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
NUCLEUS = 0.15  # haematoxylin above which a peak counts as a nucleus
SOFT = 0.02  # width of the soft thresholds at DENSITIES
RADII = (1, 2, 3)  # of local binary patterns
BLOCKS_PX = (5, 10, 25)
RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
TINY = 1e-6
RAW_FEATURES = 162


def raw_features(tiles: torch.Tensor) -> torch.Tensor:
    """Return the features of RGB tiles (B, 3, H, W) with values 0 to 255, shape (B, 162), float32.

    Raises:
        ValueError: tiles of another shape, or smaller than 50 pixels a side.
    """
    if tiles.ndim != 4 or tiles.shape[1] != 3 or min(tiles.shape[2:]) < SMALLEST_PX:
        raise ValueError(f"tiles are (B, 3, H, W) with at least {SMALLEST_PX} pixels a side")
    tiles = tiles.to(torch.float32)
    stains = stains_of(tiles)
    blurred = {scale: _blur(stains[:, :2], scale) for scale in SCALES}
    parts = [
        *_colour(tiles / 255.0, stains),
        *_bands(blurred),
        *_densities(blurred[1.4]),
        *_peaks(blurred),
        *_edges(blurred[1.4]),
        *_together(blurred),
        *_patterns(blurred[0.7][:, 0]),
        *[functional.avg_pool2d(stains[:, :2], size).std((2, 3)) for size in BLOCKS_PX],
    ]
    return torch.cat(parts, dim=1)


def _colour(rgb: torch.Tensor, stains: torch.Tensor) -> list[torch.Tensor]:
    """Return mean, spread and quantiles of stains and colours, and saturation."""
    high, low = rgb.max(dim=1).values, rgb.min(dim=1).values
    saturation = (high - low) / (high + TINY)
    spread = torch.stack([saturation.mean((1, 2)), saturation.std((1, 2))], dim=1)
    return [
        *(
            stains.mean((2, 3)),
            stains.std((2, 3)),
            _quantiles(stains, (0.05, 0.25, 0.5, 0.75, 0.95)),
        ),
        *(rgb.mean((2, 3)), rgb.std((2, 3)), _quantiles(rgb, (0.1, 0.5, 0.9)), spread),
    ]


def _bands(blurred: dict[float, torch.Tensor]) -> list[torch.Tensor]:
    """Return energy, spread, bright energy and skewness of each band between two blurs (difference of Gaussians)."""
    found = []
    for fine, coarse in pairwise(SCALES):
        band = blurred[fine] - blurred[coarse]
        spread = band.std((2, 3))
        bright = functional.relu(band).pow(2).mean((2, 3)).sqrt()
        skewness = (band**3).mean((2, 3)) / (spread**3 + TINY)
        found += [band.abs().mean((2, 3)), spread, bright, skewness]
    return found


def _densities(stains: torch.Tensor) -> list[torch.Tensor]:
    """Return the share of pixels above each density, softly, for haematoxylin and eosin."""
    levels = torch.tensor(DENSITIES).view(1, -1, 1, 1)
    return [
        torch.sigmoid((stains[:, stain : stain + 1] - levels) / SOFT).mean((2, 3))
        for stain in (0, 1)
    ]


def _peaks(blurred: dict[float, torch.Tensor]) -> list[torch.Tensor]:
    """Return how many peaks of haematoxylin there are for each pixel, and their mean height: about the nuclei."""
    found = []
    for scale in PEAK_SCALES:
        dark = blurred[scale][:, :1]
        peak = ((dark == functional.max_pool2d(dark, 5, 1, 2)) & (dark > NUCLEUS)).to(dark.dtype)
        height = (peak * dark).sum((2, 3)) / (peak.sum((2, 3)) + 1)
        found.append(torch.cat([peak.mean((2, 3)), height], dim=1))
    return found


def _edges(stains: torch.Tensor) -> list[torch.Tensor]:
    """Return gradient magnitudes, and how much of them runs one way (structure tensor, Bigun & Granlund 1987)."""
    across = stains[..., 1:-1, 2:] - stains[..., 1:-1, :-2]
    down = stains[..., 2:, 1:-1] - stains[..., :-2, 1:-1]
    size = (across**2 + down**2).sqrt()
    found = [torch.cat([size.mean((2, 3)), size.std((2, 3)), _quantiles(size, (0.5, 0.9))], dim=1)]
    for scale in (2.0, 4.0):
        xx, yy, xy = (_blur(v, scale) for v in (across**2, down**2, across * down))
        one_way = ((xx - yy) ** 2 + 4 * xy**2).sqrt() / (xx + yy + TINY)
        weighted = ((xx + yy) * one_way).mean((2, 3)) / ((xx + yy).mean((2, 3)) + 1e-9)
        found += [one_way.mean((2, 3)), one_way.std((2, 3)), weighted]
    return found


def _together(blurred: dict[float, torch.Tensor]) -> list[torch.Tensor]:
    """Return the correlation of haematoxylin and eosin at two scales."""
    found = []
    for scale in (1.4, 4.0):
        h, e = blurred[scale][:, 0], blurred[scale][:, 1]
        h, e = h - h.mean((1, 2), keepdim=True), e - e.mean((1, 2), keepdim=True)
        found.append((h * e).mean((1, 2)) / (h.std((1, 2)) * e.std((1, 2)) + TINY))
    return [torch.stack(found, dim=1)]


def _patterns(dark: torch.Tensor) -> list[torch.Tensor]:
    """Return histograms of local binary patterns (Ojala et al. 2002: rotation-invariant, uniform) at three radii."""
    height, width = dark.shape[1:]
    found = []
    for r in RADII:
        centre = dark[:, r:-r, r:-r]
        ring = torch.stack(
            [
                dark[:, r + r * y : height - r + r * y, r + r * x : width - r + r * x] > centre
                for y, x in RING
            ],
            dim=1,
        ).to(torch.int64)
        ones, changes = ring.sum(dim=1), (ring != ring.roll(1, dims=1)).sum(dim=1)
        code = torch.where(changes <= 2, ones, 9)  # 0 to 8 ones in one run; 9: the rest
        shares = [(code == value).to(torch.float32).mean((1, 2)) for value in range(10)]
        found.append(torch.stack(shares, dim=1))
    return found


def _quantiles(values: torch.Tensor, shares: tuple[float, ...]) -> torch.Tensor:
    """Return quantiles over pixels, shape (B, channels x shares)."""
    found = torch.quantile(values.flatten(2), torch.tensor(shares), dim=2)  # (shares, B, channels)
    return found.permute(1, 2, 0).flatten(1)


def _blur(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return values blurred by a Gaussian of this standard deviation in pixels, mirrored at the edges."""
    reach, channels = int(3 * scale + 0.5), values.shape[1]
    places = torch.arange(-reach, reach + 1, dtype=values.dtype)
    kernel = torch.exp(-(places**2) / (2 * scale**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(values, (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(
        padded, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels
    )
    return functional.conv2d(
        rows, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels
    )
