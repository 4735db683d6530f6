"""Whether the noise in an update is the noise that was promised (replay, grade C). Pure; its numbers never leave.

What an update holds besides clipped gradients, divided by its promised deviation, must look like independent standard
normal numbers. Three tests, each of which says no to honest noise once in 10,000 times:

* size: the sum of squares of n of them is chi-square with n degrees of freedom, two-sided. Finds missing, weaker and
  stronger noise.
* shape: Kolmogorov-Smirnov against the normal distribution. Finds one number used for many weights, and other noise.
* reuse: for another round's z', the product z · z' / |z'| is standard normal. Finds the same noise in two rounds, with
  which anybody could take it off.

Only the verdicts are given out, not the p-values: with an update that is public, the size of its noise says something
about the sum of gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 1e-4  # of each test: probability of a no to honest noise
MIN_GRID_STEPS = (
    32.0  # deviation over the grid of updates: below it rounding would be judged, not noise
)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One verdict: what was tested, at which threshold, and whether it passed."""

    name: str
    threshold: str
    passed: bool


@dataclass(frozen=True)
class NoiseVerdict:
    """All verdicts on the noise of a round.

    Attributes:
        rounds: whose noise was judged; the first is the one that was asked for.
        values: how many numbers each of them has.
        power: probability with which half of the promised deviation would have failed the test of size.
    """

    rounds: tuple[int, ...]
    values: int
    tests: tuple[Finding, ...]
    power: float

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return all(test.passed for test in self.tests)


def judge(noise: Sequence[tuple[int, Values]]) -> NoiseVerdict:
    """Judge the noise of some rounds, each (round, noise over its promised deviation); the first is the one asked for.

    Size and shape are judged over all of them together, reuse of the first one's noise in each of the others.

    Raises:
        ValueError: there is none.
    """
    from scipy import stats

    if not noise or not all(z.size for _, z in noise):
        raise ValueError("no noise to judge")
    whole = np.concatenate([z for _, z in noise])
    count = whole.size
    squares = float(np.dot(whole, whole))
    size = 2 * min(stats.chi2.cdf(squares, count), stats.chi2.sf(squares, count))
    shape = stats.kstest(whole, "norm").pvalue
    tests = [
        Finding("size (chi-square)", f"p >= {LEVEL:g}", bool(size >= LEVEL)),
        Finding("shape (Kolmogorov-Smirnov)", f"p >= {LEVEL:g}", bool(shape >= LEVEL)),
    ]
    if len(noise) > 1:
        level = LEVEL / (len(noise) - 1)  # Bonferroni
        p = min(2 * stats.norm.sf(abs(_product(noise[0][1], z))) for _, z in noise[1:])
        tests.append(Finding("reuse in another round", f"p >= {level:g}", bool(p >= level)))
    rounds = tuple(number for number, _ in noise)
    return NoiseVerdict(rounds, noise[0][1].size, tuple(tests), _power(stats, count))


def _product(first: Values, other: Values) -> float:
    """Return the product that is standard normal where the noise of two rounds is independent."""
    length = float(np.linalg.norm(other))
    return float(np.dot(first, other)) / length if length > 0 else 0.0


def _power(stats: Any, count: int) -> float:
    """Return how probably half of the deviation, a quarter of the squares, fails the test of size."""
    low, high = stats.chi2.ppf(LEVEL / 2, count), stats.chi2.isf(LEVEL / 2, count)
    return float(stats.chi2.cdf(4 * low, count) + stats.chi2.sf(4 * high, count))
