"""Surroundings of a large slide's tiles are those that weighing each pair gives, in far less time."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from solblom_models.tile_encoder import encoder
from solblom_models.tile_encoder.encoder import FEW, REACH, with_surroundings

TILE = 50.6  # corners are rounded, so columns are 50 or 51 apart
RNG = np.random.default_rng(9)


def by_pairs(
    features: NDArray[np.float32], coords: NDArray[np.int64], *, tile_px: float = TILE
) -> NDArray[np.float32]:
    """Return surroundings by the dense formula alone."""
    near = np.empty_like(features)
    places = coords.astype(np.float64)
    for start in range(0, len(features), encoder.AT_ONCE):
        part = slice(start, start + encoder.AT_ONCE)
        square = ((places[part, None] - places[None]) ** 2).sum(axis=2)
        weights = np.exp(-square / (2 * (REACH * tile_px) ** 2))
        weights[np.arange(len(weights)), np.arange(start, start + len(weights))] = 0.0
        total = weights.sum(axis=1, keepdims=True)
        mean = (weights / np.maximum(total, 1e-9)) @ features
        near[part] = np.where(total > 1e-3, mean, features[part])
    whole = np.broadcast_to(features.mean(axis=0), features.shape)
    return np.concatenate([features, near, whole], axis=1).astype(np.float32)


def on_grid(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    rows, columns = np.nonzero(cells)
    corner = np.round(np.arange(max(cells.shape)) * TILE).astype(np.int64)
    return np.stack([corner[columns], corner[rows]], axis=1)


def tissue() -> NDArray[np.int64]:
    """Return more than FEW tiles: a piece with holes, one tile far from it, and two at its side."""
    cells = np.zeros((90, 120), dtype=bool)
    cells[:70, :90] = RNG.random((70, 90)) < 0.9
    cells[89, 119] = True  # 30 tiles away: only the far end of the Gaussian reaches it
    cells[75:77, 10] = True
    return on_grid(cells)


def test_a_large_slide_has_the_surroundings_that_pairs_of_tiles_give() -> None:
    coords = tissue()
    features = RNG.normal(3, 5, size=(len(coords), 2 * encoder.COLUMNS + 1)).astype(np.float32)
    assert len(coords) > FEW
    found, expected = with_surroundings(features, coords, tile_px=TILE), by_pairs(features, coords)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_few_tiles_have_the_very_numbers_that_published_results_had() -> None:
    coords = tissue()[:FEW]
    features = RNG.normal(size=(len(coords), 3)).astype(np.float32)
    assert np.array_equal(
        with_surroundings(features, coords, tile_px=TILE), by_pairs(features, coords)
    )


@pytest.mark.parametrize("far", [False, True])
def test_many_tiles_without_a_grid_have_the_same_surroundings(far: bool) -> None:
    coords = RNG.integers(0, 10**9 if far else 9_000, size=(FEW + 200, 2))
    features = RNG.normal(size=(len(coords), 2)).astype(np.float32)
    found = with_surroundings(features, coords, tile_px=TILE)
    assert np.allclose(found, by_pairs(features, coords), rtol=1e-4, atol=1e-5)


def test_surroundings_of_80_000_tiles_take_seconds() -> None:
    """Pair by pair they took ten minutes of CPU, and half a gigabyte."""
    coords = on_grid(np.ones((280, 280), dtype=bool))
    features = RNG.normal(size=(len(coords), 80)).astype(np.float32)
    start = time.process_time()
    with_surroundings(features, coords, tile_px=TILE)
    assert time.process_time() - start < 60
