"""Hit rate: how often the highest tiles lie in a lesion, beside chance."""

import numpy as np
import pytest

from solblom_models.slides.hit_rate import hit_rate

LESION = np.array([0.0, 0.2, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.49])


def test_a_tile_that_is_half_lesion_is_a_hit_and_less_is_none() -> None:
    scores = np.arange(10.0)
    half = np.roll(scores, 3)  # the highest is tile 2
    found = hit_rate([half], [LESION])
    assert found is not None
    assert found.highest == 1.0
    missed = hit_rate([scores], [LESION])  # the highest is the last, 0.49 of it lesion
    assert missed is not None
    assert missed.highest == 0.0


def test_a_heatmap_of_one_colour_gets_chance() -> None:
    found = hit_rate([np.full(10, 0.7)], [LESION])
    assert found is not None
    assert found.highest == found.top == found.chance == pytest.approx(0.2)


def test_random_scores_get_chance() -> None:
    generator = np.random.default_rng(0)
    scores = [generator.normal(size=50) for _ in range(3000)]
    shares = [(generator.random(50) < 0.3).astype(float) for _ in range(3000)]
    found = hit_rate(scores, shares)
    assert found is not None
    assert found.highest == pytest.approx(found.chance, abs=0.03)
    assert found.top == pytest.approx(found.chance, abs=0.02)


def test_slides_without_a_lesion_are_not_counted() -> None:
    found = hit_rate([LESION, LESION], [LESION, np.zeros(10)])
    assert found is not None
    assert found.slides == 1
    assert hit_rate([LESION], [np.zeros(10)]) is None
    assert hit_rate([], []) is None


def test_five_highest_are_a_share_and_equal_scores_are_split() -> None:
    scores = np.array([9.0, 8.0, 7.0, 6.0, 1.0, 1.0])
    found = hit_rate([scores], [np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])])
    assert found is not None
    assert found.top == pytest.approx((1 + 0.5) / 5)


def test_with_fewer_tiles_than_five_all_are_taken() -> None:
    found = hit_rate([np.array([1.0, 2.0])], [np.array([1.0, 0.0])])
    assert found is not None
    assert (found.highest, found.top) == (0.0, 0.5)


def test_each_slide_counts_once_whatever_its_size() -> None:
    small, large = np.array([1.0, 0.0]), np.array([1.0] + [0.0] * 99)
    found = hit_rate([small, large], [small, large])
    assert found is not None
    assert found.chance == pytest.approx((0.5 + 0.01) / 2)


@pytest.mark.parametrize(
    ("scores", "shares", "words"),
    [
        ([np.nan, 1.0], [1.0, 0.0], "not finite"),
        ([0.0, 1.0], [np.nan, 0.0], "between 0 and 1"),
        ([0.0, 1.0], [1.5, 0.0], "between 0 and 1"),
        ([0.0, 1.0, 2.0], [1.0, 0.0], "differ"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    scores: list[float], shares: list[float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        hit_rate([np.array(scores)], [np.array(shares)])
