"""A slide's own stain brought to a public reference, and how far it is from it.

What is fitted comes from one slide, so from one patient: a tile's features do not depend on other patients
(privacy.md rule 1). The references come from OpenSlide's CMU-1-Small-Region (CC0): bench/stain_reference.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.slide_error import SlideError
from solblom_models.tile_encoder.stain import STAINS

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Restain = Callable[[Pixels], Pixels]
Method = Literal["as-is", "reinhard", "macenko"]

LEAST_PIXELS = 500  # of tissue, to fit anything
LEAST_DENSITY = 0.15  # optical density below which a pixel is not stained (Macenko 2009: beta)
TAIL = 1.0  # percentile of angles that stands for a pure stain (Macenko 2009: alpha)
GLASS = 220  # a pixel whose darkest channel is not below it is not stained
ALIKE = 0.98  # cosine of two stains' directions: 11 degrees; the reference has 31
STRONG = 99.0  # percentile of a stain's amount that is brought to the reference
MOST_GAIN = 3.0  # of an amount: a nearly unstained slide is not blown up
# Reinhard et al. 2001 (IEEE CG&A 21(5):34), eq. 3-6: RGB to LMS, and the logarithm of it to l-alpha-beta
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag([1 / np.sqrt(3), 1 / np.sqrt(6), 1 / np.sqrt(2)]) @ np.array(
    [[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]]
)


@dataclass(frozen=True)
class Stains:
    """Directions of haematoxylin and eosin in optical density, shape (2, 3), and their strong amounts, (2,)."""

    directions: Floats
    amounts: Floats


@dataclass(frozen=True)
class Spread:
    """Mean and spread of l, alpha, beta over tissue, shape (3,) each."""

    mean: Floats
    spread: Floats


REFERENCE_STAINS = Stains(
    np.array([[0.7053, 0.6314, 0.3223], [0.2487, 0.905, 0.3453]]), np.array([1.6755, 1.4442])
)
REFERENCE_SPREAD = Spread(np.array([-0.6363, -0.0668, 0.0266]), np.array([0.3805, 0.0823, 0.0191]))


def restainer(method: Method, tissue: Pixels) -> Restain:
    """Return what brings tiles of a slide to the public reference.

    Args:
        method: of the contract; `as-is` changes nothing.
        tissue: pixels of the slide's tissue, shape (N, 3).

    Raises:
        SlideError: there is too little stained tissue to fit it.
    """
    if method == "as-is":
        return _same
    if method == "reinhard":
        spread = spread_of(tissue)
        return lambda tile: _to_spread(tile, spread, REFERENCE_SPREAD)
    stains = stains_of_tissue(tissue)
    return lambda tile: _to_stains(tile, stains, REFERENCE_STAINS)


def stains_of_tissue(tissue: Pixels) -> Stains:
    """Return directions and strong amounts of both stains in pixels (N, 3).

    Source: Macenko et al. 2009 (ISBI, p. 1107): the plane of the two largest singular vectors, and in it the extreme
    angles.

    Raises:
        SlideError: too few pixels are stained, or both stains lie in one direction.
    """
    density = _density(tissue)
    density = density[(density > LEAST_DENSITY).all(axis=1)]
    if len(density) < LEAST_PIXELS:
        raise SlideError("it has too little stained tissue to bring its stain to the reference")
    _, axes = np.linalg.eigh(np.cov(density.T))
    plane = axes[:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    angles = np.arctan2(*(density @ plane).T[::-1])
    ends = [np.percentile(angles, share) for share in (TAIL, 100 - TAIL)]
    found = np.array([plane @ [np.cos(angle), np.sin(angle)] for angle in ends])
    found = np.abs(found) / np.linalg.norm(found, axis=1, keepdims=True)
    if float(found[0] @ found[1]) > ALIKE:
        raise SlideError("its haematoxylin and eosin cannot be told apart")
    blue = found[:, 0] / found[:, 1]  # haematoxylin takes more red, for its green, than eosin
    directions = found[np.argsort(-blue)]
    amounts = np.percentile(_amounts(density, directions), STRONG, axis=1)
    return Stains(directions, np.maximum(amounts, 1e-3))


def spread_of(tissue: Pixels) -> Spread:
    """Return mean and spread of l, alpha, beta over pixels (N, 3).

    Raises:
        SlideError: there are too few pixels.
    """
    if len(tissue) < LEAST_PIXELS:
        raise SlideError("it has too little stained tissue to bring its stain to the reference")
    values = _to_lab(tissue.reshape(-1, 3))
    return Spread(values.mean(axis=0), np.maximum(values.std(axis=0), 1e-3))


def amounts_of(tissue: Pixels) -> tuple[float, float]:
    """Return the mean of haematoxylin and of eosin over pixels (N, 3), by the fixed matrix of Ruifrok & Johnston 2001.

    For people who compare scanners; no model sees it.
    """
    if not len(tissue):
        return 0.0, 0.0
    rows = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    found = (_density(tissue) @ np.linalg.inv(rows)).mean(axis=0)
    return float(found[0]), float(found[1])


def jittered(tiles: Pixels, spread: float, *, generator: np.random.Generator) -> Pixels:
    """Return tiles (B, H, W, 3) with other amounts of haematoxylin and eosin: each tile's own factors, log-normal."""
    rows = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    found = np.empty_like(tiles)
    for number, tile in enumerate(tiles):
        factors = np.exp(generator.normal(0.0, spread, 2))
        amounts = _density(tile.reshape(-1, 3)) @ np.linalg.inv(rows)
        amounts[:, :2] *= factors
        found[number] = _pixels(amounts @ rows).reshape(tile.shape)
    return found


def _same(tile: Pixels) -> Pixels:
    return tile


def _to_stains(tile: Pixels, own: Stains, reference: Stains) -> Pixels:
    """Scale both stains and turn them to the reference; what is neither is kept, so the reference stays as it is."""
    gain = np.append(np.minimum(reference.amounts / own.amounts, MOST_GAIN), 1.0)
    amounts = _density(tile) @ np.linalg.inv(_with_residual(own.directions))
    found = _pixels((amounts * gain) @ _with_residual(reference.directions))
    return found.reshape(tile.shape)


def _to_spread(tile: Pixels, own: Spread, reference: Spread) -> Pixels:
    """Bring mean and spread to the reference; glass has no part in them and stays as it is."""
    gain = np.minimum(reference.spread / own.spread, MOST_GAIN)
    values = (_to_lab(tile.reshape(-1, 3)) - own.mean) * gain + reference.mean
    light = 10.0 ** (values @ np.linalg.inv(_LAB).T) @ np.linalg.inv(_LMS).T
    found = np.clip(np.round(light * 256 - 1), 0, 255).astype(np.uint8).reshape(tile.shape)
    glass = tile.min(axis=-1, keepdims=True) >= GLASS
    return np.where(glass, tile, found)


def _with_residual(directions: Floats) -> Floats:
    """Return both directions and the unit vector that stands upright on them, shape (3, 3)."""
    upright = np.cross(directions[0], directions[1])
    return np.stack([*directions, upright / np.linalg.norm(upright)])


def _to_lab(pixels: Pixels) -> Floats:
    light = (pixels.astype(np.float64) + 1) / 256
    found: Floats = np.log10(light @ _LMS.T) @ _LAB.T
    return found


def _density(pixels: Pixels) -> Floats:
    found: Floats = -np.log10((pixels.reshape(-1, 3).astype(np.float64) + 1) / 256)
    return found


def _pixels(density: Floats) -> Pixels:
    return np.clip(np.round(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)


def _amounts(density: Floats, directions: Floats) -> Floats:
    """Return the amounts of two stains, shape (2, N), by least squares, none below 0."""
    found: Floats = np.maximum(np.linalg.pinv(directions.T) @ density.T, 0.0)
    return found
