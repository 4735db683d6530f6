"""The fast sampler draws the discrete Gaussian, and its exact arithmetic agrees with its fast one."""

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from scipy import stats

from solblom_client.training import discrete_gaussian as sampler
from solblom_client.training.discrete_gaussian import TAIL_DEVIATIONS, discrete_gaussian_vector
from solblom_client.training.keystream import KeyStream


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


@pytest.mark.parametrize("deviation", [4, 7, 100, 760, 770, 12345, 2**26 - 1])
def test_columns_cover_the_bell_and_none_lies_below_it(deviation: int) -> None:
    columns = sampler._Columns.over(deviation)
    ends = columns.starts + columns.widths.astype(np.int64)
    assert columns.starts[0] == 0
    assert np.array_equal(columns.starts[1:], ends[:-1])
    assert ends[-1] == TAIL_DEVIATIONS * deviation + 1
    assert len(ends) <= 1024
    height = columns.area / columns.widths.astype(np.float64)
    assert (height >= np.exp(-(columns.starts**2) / (2.0 * deviation**2)) * (1 - 1e-15)).all()
    assert np.exp(-(TAIL_DEVIATIONS**2) / 2) < 1e-36


def test_exact_arithmetic_decides_as_the_fast_one_does_where_both_may() -> None:
    """With a margin of two, every coin is decided by 120 digits; the outcomes are the same."""
    columns, count = sampler._Columns.over(5000), 3000
    rng = np.random.default_rng(1)
    column = rng.integers(0, len(columns.starts), count)
    width = columns.widths[column].astype(np.int64)
    size = columns.starts[column] + rng.integers(0, width)
    coins = rng.integers(0, sampler.COINS, count, dtype=np.uint64)
    coins[: count // 2] = np.uint64(sampler.COINS - 1) - coins[: count // 2] // np.uint64(200)
    fast = columns._keep(stream(1), size, column, coins, sampler.MARGIN)
    exact = columns._keep(stream(2), size, column, coins, 2.0)
    assert np.array_equal(fast, exact)
    assert 0 < fast.sum() < count


class _Words:
    """A stream of which the next 320 bits are known."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def integers(self, count: int) -> np.ndarray:  # type: ignore[type-arg]
        assert count == 5
        words = [(self.bits >> (64 * (4 - place))) & (2**64 - 1) for place in range(5)]
        return np.array(words, dtype=np.uint64)


@pytest.mark.parametrize("off", [-3, -1, 1, 3])
def test_a_coin_on_the_edge_is_decided_exactly(off: int) -> None:
    """A few units in 2^341 beside the edge: floats cannot tell, the exact branch does."""
    columns = sampler._Columns.over(100_000)
    column = 300
    size = int(columns.starts[column] + int(columns.widths[column]) - 1)
    with localcontext() as context:
        context.prec = 150
        bell = (-Decimal(size**2) / Decimal(2 * 100_000**2)).exp()
        edge = int(bell * int(columns.widths[column]) / columns.area * 2**341)
    coin = edge + off
    known = np.array([coin >> 320], dtype=np.uint64)
    words: Any = _Words(coin & (2**320 - 1))
    kept = columns._keep(words, np.array([size]), np.array([column]), known, sampler.MARGIN)
    assert bool(kept[0]) == (off < 0)


def test_a_coin_that_is_sure_keeps_every_place_of_its_column() -> None:
    for deviation in (4, 100, 12345):
        columns = sampler._Columns.over(deviation)
        ends = columns.starts + columns.widths.astype(np.int64) - 1
        lowest = np.exp(-(ends**2) / (2.0 * deviation**2)) * columns.widths / columns.area
        assert (columns.sure <= lowest * sampler.COINS).all()
        assert columns.sure.max() > 0.9 * sampler.COINS


@pytest.mark.parametrize("width", [1, 3, 2**20 + 7, 3 * 2**30])
def test_places_in_a_column_are_even(width: int) -> None:
    wide = np.array([width], dtype=np.uint64)
    least = (np.uint64(2**32) - wide) % wide
    columns = sampler._Columns(4, 1, np.array([0]), wide, least, np.array([0], dtype=np.uint64))
    bits = stream(5).integers(200_000) >> np.uint64(32)
    places = columns._places(stream(6), bits, np.zeros(200_000, dtype=np.int64))
    assert places.min() >= 0
    assert places.max() < width
    cells = min(width, 16)
    seen = np.bincount(places * cells // width, minlength=cells)
    assert stats.chisquare(seen).pvalue > 1e-4 if cells > 1 else True


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
