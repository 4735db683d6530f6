"""Distances between hospitals: near what chance gives for patients dealt at random, larger for a batch effect."""

import numpy as np
import pytest

from solblom_simulation.site_differences import distances

RNG = np.random.default_rng(11)


def test_by_hand() -> None:
    one = np.array([[0.0, 5.0], [2.0, 5.0]], dtype=np.float32)
    two = np.array([[3.0, 5.0], [5.0, 5.0]], dtype=np.float32)
    # Means 1 and 4; inside, squares sum to 4 over 4 - 2 degrees of freedom: variance 2. The second never varies.
    expected = {"distance": round(3 / 2**0.5, 4), "by_chance": 1.0}
    assert distances([one, two]) == [expected, expected]


def test_patients_dealt_at_random_lie_as_far_apart_as_chance_says() -> None:
    groups = [RNG.normal(size=(n, 4000)).astype(np.float32) for n in (30, 50, 100)]
    for found in distances(groups):
        assert found is not None
        assert found["distance"] == pytest.approx(found["by_chance"], rel=0.05)


def test_a_batch_effect_shows_at_its_hospital_most() -> None:
    groups = [RNG.normal(size=(50, 200)).astype(np.float32) for _ in range(4)]
    groups[2] = groups[2] + 0.5
    found = [d["distance"] for d in distances(groups) if d is not None]
    assert found[2] == max(found) == pytest.approx(0.56, abs=0.05)  # sqrt(.5^2 + .2667 / 4)


def test_a_scale_of_a_feature_does_not_matter() -> None:
    groups = [RNG.normal(size=(20, 5)).astype(np.float32) for _ in range(3)]
    assert distances(groups) == distances([group * np.float32(8.0) for group in groups])


@pytest.mark.parametrize("sizes", [(1, 20), (20, 1), (20,)])
def test_where_it_cannot_be_said_nothing_is(sizes: tuple[int, ...]) -> None:
    assert distances([np.ones((n, 2), dtype=np.float32) for n in sizes])[0] is None
    assert distances([np.ones((9, 2), dtype=np.float32)] * 2)[0] is None
