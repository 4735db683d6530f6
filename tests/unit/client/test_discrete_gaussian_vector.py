"""The fast sampler draws the discrete Gaussian, and its exact arithmetic agrees with its fast one."""

import numpy as np
import pytest
from scipy import stats

from solblom_client import discrete_gaussian as sampler
from solblom_client.discrete_gaussian import TAIL_DEVIATIONS, discrete_gaussian_vector
from solblom_client.keystream import KeyStream


def stream(number: int = 0) -> KeyStream:
    return KeyStream(bytes([number]) * 32)


@pytest.mark.parametrize("deviation", [4, 5, 63, 64, 65, 200])
def test_numbers_fit_the_discrete_gaussian(deviation: int) -> None:
    drawn = discrete_gaussian_vector(stream(deviation), deviation, 400_000)
    values = np.arange(-6 * deviation, 6 * deviation + 1)
    expected = np.exp(-(values**2) / (2.0 * deviation**2))
    expected *= len(drawn) / expected.sum()
    seen = np.array([(drawn == value).sum() for value in values])
    kept = expected > 8
    square = float(((seen - expected)[kept] ** 2 / expected[kept]).sum())
    assert stats.chi2.sf(square, kept.sum()) > 1e-4


@pytest.mark.parametrize("deviation", [4, 1000, 300_000, 2**26 - 1])
def test_mean_spread_and_tail_are_right_at_every_scale(deviation: int) -> None:
    drawn = discrete_gaussian_vector(stream(), deviation, 500_000) / deviation
    assert abs(drawn.mean()) < 5 / np.sqrt(500_000)
    assert abs(drawn.var() - 1) < 5 * np.sqrt(2 / 500_000)
    assert 4.2 < np.abs(drawn).max() < 6.5
    assert abs(stats.kurtosis(drawn)) < 5 * np.sqrt(24 / 500_000)


def test_the_tail_beyond_thirteen_deviations_is_cut() -> None:
    steps = sampler._Steps.under(100)
    last = len(steps.heights) * steps.width
    assert last >= TAIL_DEVIATIONS * 100
    assert np.exp(-(TAIL_DEVIATIONS**2) / 2) < 1e-36


def test_exact_arithmetic_decides_as_the_fast_one_does_where_both_may() -> None:
    """With a margin of one, every coin is decided by 110 digits; the outcomes are the same."""
    deviation, count = 5000, 3000
    steps = sampler._Steps.under(deviation)
    rng = np.random.default_rng(1)
    step = rng.integers(0, len(steps.heights) // 3, count)
    size = step * steps.width + rng.integers(0, steps.width, count)
    coins = rng.integers(0, 2**64, count, dtype=np.uint64)
    fast = steps._keep(stream(1), size, step, coins, sampler.MARGIN)
    exact = steps._keep(stream(2), size, step, coins, 1.0)
    assert np.array_equal(fast, exact)
    assert 0 < fast.sum() < count


@pytest.mark.parametrize("off", [-3, -1, 1, 3])
def test_a_coin_on_the_edge_is_decided_exactly(off: int) -> None:
    """One unit in 2^64 beside the edge: floats cannot tell, the exact branch does."""
    from decimal import Decimal, localcontext

    steps, size = sampler._Steps.under(1000), 1500
    step = size // steps.width
    height = int(steps.heights[step])
    with localcontext() as context:
        context.prec = 80
        chance = (-Decimal(size**2) / Decimal(2 * 1000**2)).exp() * 2**40 / height
        edge = int(chance * 2**64)
    coin = np.array([edge + off], dtype=np.uint64)
    kept = steps._keep(stream(), np.array([size]), np.array([step]), coin, sampler.MARGIN)
    assert bool(kept[0]) == (off < 0)


def test_the_same_key_gives_the_same_numbers_whatever_the_block() -> None:
    first = discrete_gaussian_vector(stream(3), 50, 1000)
    assert np.array_equal(first, discrete_gaussian_vector(stream(3), 50, 1000))
    assert not np.array_equal(first, discrete_gaussian_vector(stream(4), 50, 1000))


def test_no_number_has_two_sources() -> None:
    """Zero has one sign only: otherwise it came twice as often as it should."""
    drawn = discrete_gaussian_vector(stream(9), 4, 400_000)
    zero, one = (drawn == 0).mean(), (np.abs(drawn) == 1).mean() / 2
    assert zero / one == pytest.approx(np.exp(1 / 32), abs=0.02)


@pytest.mark.parametrize("deviation", [0, 3, 2**26])
def test_a_deviation_out_of_range_is_refused(deviation: int) -> None:
    with pytest.raises(ValueError, match="deviation"):
        discrete_gaussian_vector(stream(), deviation, 1)
