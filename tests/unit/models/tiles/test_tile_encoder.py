"""The built-in encoder: fixed formulas, public constants, and nothing of one patient in another's features."""

import numpy as np
import pytest
import torch

from solblom_models.tile_encoder.encoder import constants, encode, with_surroundings
from solblom_models.tile_encoder.stain import rgb_of, stains_of
from solblom_models.tile_encoder.texture import RAW_FEATURES, raw_features

RNG = np.random.default_rng(4)
TILES = RNG.integers(60, 256, size=(5, 50, 50, 3), dtype=np.uint8)


def test_stains_of_a_tile_give_the_tile_back() -> None:
    tiles = torch.from_numpy(TILES).permute(0, 3, 1, 2).double()
    assert torch.allclose(rgb_of(stains_of(tiles)), tiles, atol=1e-6)


def test_a_tile_of_one_stain_has_no_other() -> None:
    pure = torch.zeros(1, 3, 30, 30, dtype=torch.float64)
    pure[:, 0] = 0.5  # haematoxylin
    found = stains_of(rgb_of(pure))
    assert torch.allclose(found[:, 0], torch.tensor(0.5, dtype=torch.float64), atol=1e-6)
    assert float(found[:, 1:].abs().max()) < 1e-6


def test_features_do_not_depend_on_the_other_tiles_of_a_call() -> None:
    together = encode(iter(TILES))
    assert together.shape == (5, constants().turn.shape[1])
    for number in range(len(TILES)):
        assert np.allclose(encode([TILES[number]])[0], together[number], atol=1e-4)


def test_turned_and_mirrored_tiles_have_the_same_texture() -> None:
    raw = [
        raw_features(torch.from_numpy(t.copy()).permute(2, 0, 1)[None])
        for t in (TILES[0], np.rot90(TILES[0]), TILES[0][::-1])
    ]
    assert torch.allclose(raw[0], raw[1], atol=2e-3)
    assert torch.allclose(raw[0], raw[2], atol=2e-3)


def test_a_white_and_a_black_tile_have_finite_features() -> None:
    for value in (0, 255):
        found = raw_features(torch.full((1, 3, 50, 50), float(value)))
        assert found.shape == (1, RAW_FEATURES)
        assert bool(torch.isfinite(found).all())


def test_nuclei_are_counted() -> None:
    stains = torch.zeros(2, 3, 64, 64)
    for y in range(8, 64, 16):
        for x in range(8, 64, 16):
            stains[1, 0, y - 2 : y + 3, x - 2 : x + 3] = 1.0
    raw = raw_features(rgb_of(stains))
    assert float((raw[1] - raw[0]).abs().max()) > 0.1
    peaks = raw[:, 38 + 40 + 18]  # share of peaks at the first scale
    assert float(peaks[0]) == 0
    assert float(peaks[1]) == pytest.approx(16 / 64**2)


@pytest.mark.parametrize("shape", [(50, 50), (50, 50, 4), (10, 50, 3)])
def test_what_is_no_tile_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tile"):
        encode([np.zeros(shape, dtype=np.uint8)])
    with pytest.raises(ValueError, match="bytes"):
        encode([np.zeros((50, 50, 3), dtype=np.uint16)])


def test_no_tiles_give_no_features() -> None:
    assert encode([]).shape == (0, constants().turn.shape[1])
    none = with_surroundings(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.int64), tile_px=50)
    assert none.shape == (0, 12)


def test_surroundings_are_the_neighbours_and_the_whole() -> None:
    features = np.array([[1.0], [3.0], [50.0]], dtype=np.float32)
    corners = np.array([[0, 0], [50, 0], [100_000, 0]])
    found = with_surroundings(features, corners, tile_px=50)
    assert found[:, 0].tolist() == [1, 3, 50]
    assert found[0, 1] == pytest.approx(3)  # its only neighbour
    assert found[2, 1] == 50  # alone: itself
    assert np.allclose(found[:, 2], 18)


def test_many_tiles_have_the_surroundings_that_few_at_a_time_have() -> None:
    features = RNG.normal(size=(600, 3)).astype(np.float32)
    corners = RNG.integers(0, 3_000, size=(600, 2))
    found = with_surroundings(features, corners, tile_px=50)
    square = ((corners[:, None] - corners[None]) ** 2).sum(axis=2)
    weights = np.exp(-square / (2 * 200.0**2))
    np.fill_diagonal(weights, 0)
    expected = weights @ features / weights.sum(axis=1, keepdims=True)
    assert np.allclose(found[:, 3:6], expected, atol=1e-4)
