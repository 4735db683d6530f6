"""`solblom-texture-1`: texture, standardised and turned by constants of one public slide, and what surrounds a tile.

Constants were made by bench/encoder_constants.py from crops of OpenSlide's CMU-1-Small-Region (CC0), with stains varied
at random: no patient of any study had a part in them (privacy.md rule 2), so they cost no epsilon.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load

from solblom_models.tile_encoder.texture import raw_features
from solblom_protocol.errors import IntegrityError

NAME = "solblom-texture-1"
CONSTANTS = "constants.safetensors"
LIMIT_RAW, LIMIT = 8.0, 8.0  # standard deviations of public tiles
AT_ONCE = 256  # tiles; bounds memory
FEW = 4096  # tiles; for so many each pair is weighted, which grows with their square
COLUMNS = 16  # features whose surroundings are worked out at once on a grid; bounds memory
REACH = 4.0  # of a tile's neighbourhood, in tiles: the spread of its Gaussian weights


@dataclass(frozen=True)
class Constants:
    """Public numbers: features become `clip((clip((raw - mean) / spread) - center) @ turn)`."""

    mean: NDArray[np.float32]  # (162,)
    spread: NDArray[np.float32]
    center: NDArray[np.float32]
    turn: NDArray[np.float32]  # (162, K)


def encode(tiles: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return features of RGB tiles of one size, each (H, W, 3) of bytes; shape (N, K).

    Raises:
        ValueError: tiles of different sizes, of another shape or type, or too small.
    """
    found, waiting = [], []
    for tile in tiles:
        if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3:
            raise ValueError("a tile is (H, W, 3) of bytes")
        waiting.append(tile)
        if len(waiting) == AT_ONCE:
            found.append(_encode(np.stack(waiting)))
            waiting = []
    if waiting:
        found.append(_encode(np.stack(waiting)))
    width = constants().turn.shape[1]
    return np.concatenate(found) if found else np.zeros((0, width), dtype=np.float32)


def with_surroundings(
    features: NDArray[np.float32], coords: NDArray[np.int64], *, tile_px: float
) -> NDArray[np.float32]:
    """Return each tile's features beside those of its neighbours and of its whole bag, shape (N, 3 K).

    Neighbours are weighted by a Gaussian of four tiles' width; a tile without any stands in for them itself. All is
    of one patient, so a patient's gradient depends on that patient only. Beyond FEW tiles on a grid, as tile_grid cuts
    them, the same comes of far fewer steps; tiles at places without order take a time that grows with their square.

    Args:
        features: of one patient's tiles on one slide, shape (N, K).
        coords: upper left corners, pixels, shape (N, 2).
        tile_px: a tile's side, in the pixels of `coords`.
    """
    if not len(features):
        return np.zeros((0, 3 * features.shape[1]), dtype=np.float32)
    places, spread = coords.astype(np.float64), REACH * tile_px
    (x, columns), (y, rows) = (np.unique(side, return_inverse=True) for side in places.T)
    on_grid = len(x) * len(y) * (len(x) + len(y)) < len(features) ** 2
    if len(features) > FEW and on_grid:
        near = _near_on_grid(features, _falloff(x, spread), _falloff(y, spread), columns, rows)
    else:
        near = _near(features, places, spread)
    whole = np.broadcast_to(features.mean(axis=0), features.shape)
    return np.concatenate([features, near, whole], axis=1).astype(np.float32)


def _near(
    features: NDArray[np.float32], places: NDArray[np.float64], spread: float
) -> NDArray[np.float32]:
    """Return the weighted mean of each tile's neighbours, pair by pair."""
    near = np.empty_like(features)
    for start in range(0, len(features), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        square = ((places[part, None] - places[None]) ** 2).sum(axis=2)
        weights = np.exp(-square / (2 * spread**2))
        weights[np.arange(len(weights)), np.arange(start, start + len(weights))] = 0.0
        total = weights.sum(axis=1, keepdims=True)
        mean = (weights / np.maximum(total, 1e-9)) @ features
        near[part] = np.where(total > 1e-3, mean, features[part])
    return near


def _near_on_grid(
    features: NDArray[np.float32],
    across: NDArray[np.float64],
    down: NDArray[np.float64],
    columns: NDArray[np.intp],
    rows: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Return what `_near` does, rounding apart: a Gaussian is the product of one across and one down a grid.

    So nothing is cut off, and R rows of C columns take R C (R + C) steps a feature in place of N^2.

    Args:
        features: shape (N, K).
        across: weight of each column for each, shape (C, C).
        down: as `across`, of rows, shape (R, R).
        columns: of the tiles, shape (N,).
        rows: as `columns`.
    """

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return for each tile the weighted sum over all others, shape (N, k)."""
        cells = np.zeros((len(down), len(across), values.shape[1]))
        np.add.at(cells, (rows, columns), values)
        cells = (down @ cells.reshape(len(down), -1)).reshape(cells.shape)
        found: NDArray[np.float64] = (across @ cells)[rows, columns] - values
        return found

    near = np.empty_like(features)
    total = summed(np.ones((len(features), 1)))
    for start in range(0, features.shape[1], COLUMNS):
        part = features[:, start : start + COLUMNS]
        mean = summed(part.astype(np.float64)) / np.maximum(total, 1e-9)
        near[:, start : start + COLUMNS] = np.where(total > 1e-3, mean, part)
    return near


def _falloff(places: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
    """Return a Gaussian of the distance between each two places along one side, shape (n, n)."""
    found: NDArray[np.float64] = np.exp(-((places[:, None] - places) ** 2) / (2 * spread**2))
    return found


def encoder_digest() -> str:
    """Return SHA-256 of the constants, in hex: what a contract pins."""
    return hashlib.sha256(_bytes()).hexdigest()


@lru_cache(maxsize=1)
def constants() -> Constants:
    """Return the constants that ship with this package.

    Raises:
        IntegrityError: SB-405, they are malformed.
    """
    found = load(_bytes())
    if set(found) != {"mean", "spread", "center", "turn"}:
        raise IntegrityError("SB-405", "The encoder's constants are malformed")
    return Constants(**found)


def _bytes() -> bytes:
    return (files("solblom_models.tile_encoder") / CONSTANTS).read_bytes()


def _encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        raw = raw_features(torch.from_numpy(tiles).permute(0, 3, 1, 2)).numpy()
    return turned(raw, constants())


def turned(raw: NDArray[np.float32], by: Constants) -> NDArray[np.float32]:
    """Return raw features by the constants, shape (N, K)."""
    standard = np.clip((raw - by.mean) / by.spread, -LIMIT_RAW, LIMIT_RAW)
    found: NDArray[np.float32] = np.clip((standard - by.center) @ by.turn, -LIMIT, LIMIT)
    return found.astype(np.float32)
