"""Integer noise is the distribution that is charged, and follows from its key alone."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from solblom_client.training.discrete_gaussian import discrete_gaussian
from solblom_client.training.keystream import KeyStream

DRAWS = 20_000


def probabilities(deviation: float, reach: int) -> np.ndarray:
    weights = np.array([math.exp(-(x**2) / (2 * deviation**2)) for x in range(-reach, reach + 1)])
    return weights / weights.sum()


@pytest.mark.parametrize("deviation", ["0.5000", "1.3520", "7.2500"])
def test_draws_fit_the_discrete_gaussian(deviation: str) -> None:
    reach = math.ceil(6 * float(deviation))
    drawn = discrete_gaussian(KeyStream(b"k" * 32), deviation, DRAWS)
    observed = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=2 * reach + 1)
    expected = DRAWS * probabilities(float(deviation), reach)
    common = expected >= 5
    found = [*observed[common], observed[~common].sum()]
    wanted = [*expected[common], expected[~common].sum()]
    assert chisquare(found, wanted).pvalue > 1e-3


def test_rounded_continuous_noise_does_not_fit() -> None:
    """The fit can fail: rounding a normal number gives other probabilities where noise is small."""
    rng = np.random.default_rng(1)
    drawn = np.rint(0.5 * rng.standard_normal(DRAWS)).astype(int)
    observed = np.bincount(np.clip(drawn, -3, 3) + 3, minlength=7)[2:5]
    expected = probabilities(0.5, 3)[2:5]
    assert chisquare(observed, observed.sum() * expected / expected.sum()).pvalue < 1e-3


def test_one_key_gives_one_noise() -> None:
    first, second = (discrete_gaussian(KeyStream(b"k" * 32), "2.5", 50) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_another_key_gives_other_noise() -> None:
    first, second = (discrete_gaussian(KeyStream(bytes([k]) * 32), "2.5", 50) for k in (1, 2))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("deviation", ["0", "0.0000"])
def test_no_noise_is_refused(deviation: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        discrete_gaussian(KeyStream(b"k" * 32), deviation, 1)


def test_noise_is_whole_and_centred() -> None:
    drawn = discrete_gaussian(KeyStream(b"c" * 32), "42.9794", 5_000)
    assert drawn.dtype == np.int64
    assert abs(drawn.mean()) < 5 * 42.9794 / math.sqrt(5_000)
