"""Integer noise for counts: the discrete Gaussian, sampled exactly from the node's key stream.

Algorithms 1 to 3 of Canonne, Kamath & Steinke 2020 (arXiv:2004.00010). Only integers are compared,
so there are no floating-point artefacts (Mironov 2012): what is charged is what is drawn.
"""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from solblom_client.keystream import KeyStream

Counts = NDArray[np.int64]

TAIL_DEVIATIONS = 13
STEPS_PER_DEVIATION = 64
HEIGHT_BITS = 40
MARGIN = 1e-12  # rounding of the bell and of a coin stays below 1e-13
VECTOR_BLOCK = 65_536


def discrete_gaussian(stream: KeyStream, deviation: str, count: int) -> Counts:
    """Return `count` independent integers with probability proportional to exp(-x^2 / (2 deviation^2)).

    `deviation` is a decimal string above 0; it is used as the exact fraction it spells.
    """
    variance = Fraction(deviation) ** 2
    if variance <= 0:
        raise ValueError("the deviation must lie above 0")
    scale = _floor_of_root(variance) + 1
    return np.array([_gaussian(stream, variance, scale) for _ in range(count)], dtype=np.int64)


def _gaussian(stream: KeyStream, variance: Fraction, scale: int) -> int:
    """Reject from the discrete Laplace distribution of that scale (Algorithm 3)."""
    while True:
        candidate = _laplace(stream, scale)
        gamma = (abs(candidate) - variance / scale) ** 2 / (2 * variance)
        if _bernoulli_exp(stream, gamma):
            return candidate


def _laplace(stream: KeyStream, scale: int) -> int:
    """Return x with probability proportional to exp(-|x| / scale) (Algorithm 2)."""
    while True:
        low = _below(stream, scale)
        if not _bernoulli_exp(stream, Fraction(low, scale)):
            continue
        high = 0
        while _bernoulli_exp(stream, Fraction(1)):
            high += 1
        magnitude, negative = low + scale * high, _below(stream, 2) == 1
        if magnitude or not negative:  # zero has one sign only
            return -magnitude if negative else magnitude


def _bernoulli_exp(stream: KeyStream, gamma: Fraction) -> bool:
    """Return True with probability exp(-gamma) (Algorithm 1)."""
    while gamma > 1:
        if not _bernoulli_exp(stream, Fraction(1)):
            return False
        gamma -= 1
    tries = 1
    while _bernoulli(stream, gamma / tries):
        tries += 1
    return tries % 2 == 1


def _bernoulli(stream: KeyStream, probability: Fraction) -> bool:
    return _below(stream, probability.denominator) < probability.numerator


def _below(stream: KeyStream, bound: int) -> int:
    """Return a uniform integer from 0 to bound - 1, by rejection: no remainder is ever favoured."""
    bits = (bound - 1).bit_length()
    words = max(1, -(-bits // 64))
    while True:
        value = int.from_bytes(stream.integers(words).tobytes(), "little") >> (64 * words - bits)
        if value < bound:
            return value


def _floor_of_root(variance: Fraction) -> int:
    root = 0
    while Fraction(root + 1) ** 2 <= variance:
        root += 1
    return root


def discrete_gaussian_vector(
    stream: KeyStream, deviation: int, count: int, *, margin: float = MARGIN
) -> Counts:
    """Return `count` independent discrete Gaussians of a whole-number deviation, cut at 13 deviations.

    What is cut has probability below 1e-36 each. Rejection from steps of equal width that lie above the
    bell: a step is drawn with probability proportional to its whole-number weight, a place in it
    uniformly, and the place is kept with probability exp(-y^2 / 2 s^2) over the step's height. That
    coin is decided in floating point unless it falls within `margin` of the edge, which is far more than
    rounding can do; then it is decided by exact arithmetic on 320 random bits. So no rounding error of
    this machine decides anything (Mironov 2012), as in `discrete_gaussian`, at a thousandth of its time.

    Raises:
        ValueError: a deviation below 4 or from 2^26.
    """
    if not 4 <= deviation < 2**26:
        raise ValueError(f"the deviation is {deviation}; it must be from 4 to 2^26")
    steps = _Steps.under(deviation)
    found = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        wanted = min(max(64, int(1.15 * (count - filled))), VECTOR_BLOCK)
        kept = steps.draw(stream, wanted, margin)[: count - filled]
        found[filled : filled + len(kept)] = kept
        filled += len(kept)
    return found


@dataclass(frozen=True)
class _Steps:
    """A staircase above the half bell: `width` integers a step, `heights` in units of 2^-40, rounded up."""

    deviation: int
    width: int
    heights: NDArray[np.uint64]  # of each step
    ends: NDArray[np.uint64]  # running sum of the heights

    @classmethod
    def under(cls, deviation: int) -> "_Steps":
        width = max(1, deviation // STEPS_PER_DEVIATION)
        # Integers from 0 to the last one below 13 deviations; a step is as high as its first place.
        starts = width * np.arange(-(-TAIL_DEVIATIONS * deviation // width), dtype=np.float64)
        bell = np.exp(-(starts**2) / (2.0 * deviation**2)) * 2.0**HEIGHT_BITS
        heights = np.ceil(bell * (1.0 + MARGIN)).astype(np.uint64)
        return cls(deviation, width, heights, np.cumsum(heights))

    def draw(self, stream: KeyStream, count: int, margin: float) -> Counts:
        """Return what is kept of `count` tries."""
        total = int(self.ends[-1])
        step = np.searchsorted(self.ends, _uniform(stream, total, count), side="right")
        place = _uniform(stream, self.width, count)
        size = step.astype(np.int64) * self.width + place.astype(np.int64)
        coins = stream.integers(count)
        bits = stream.integers(-(-count // 64)).view(np.uint8)
        signs = np.unpackbits(bits, bitorder="little")[:count].astype(bool)
        kept = self._keep(stream, size, step, coins, margin)
        kept &= ~(signs & (size == 0))  # zero has one sign only
        kept &= size <= TAIL_DEVIATIONS * self.deviation
        values: Counts = np.where(signs, -size, size)[kept]
        return values

    def _keep(
        self,
        stream: KeyStream,
        size: Counts,
        step: NDArray[np.int64],
        coins: NDArray[np.uint64],
        margin: float,
    ) -> NDArray[np.bool_]:
        real = size.astype(np.float64)
        bell = np.exp(-(real * real) / (2.0 * self.deviation**2))
        chance = bell * 2.0**HEIGHT_BITS / self.heights[step].astype(np.float64)
        coin = coins.astype(np.float64) * 2.0**-64
        kept: NDArray[np.bool_] = coin < chance
        for index in np.nonzero(np.abs(coin - chance) <= margin)[0]:
            kept[index] = self._decide(
                stream, int(size[index]), int(self.heights[step[index]]), int(coins[index])
            )
        return kept

    def _decide(self, stream: KeyStream, size: int, height: int, coin: int) -> bool:
        """Decide one coin exactly: 64 bits that are known, 256 that follow, against 110 digits of the bell."""
        for word in stream.integers(4).tolist():
            coin = (coin << 64) | int(word)
        with localcontext() as context:
            context.prec = 110
            exponent = -Decimal(size * size) / Decimal(2 * self.deviation**2)
            chance = exponent.exp() * 2**HEIGHT_BITS / height
            kept: bool = Decimal(coin) < chance * Decimal(2) ** 320
            return kept


def _uniform(stream: KeyStream, bound: int, count: int) -> NDArray[np.uint64]:
    """Return `count` uniform integers below `bound`, by rejection: no remainder is favoured."""
    if bound == 1:
        return np.zeros(count, dtype=np.uint64)
    shift = np.uint64(64 - (bound - 1).bit_length())
    found = stream.integers(count) >> shift
    while True:
        wrong = np.nonzero(found >= bound)[0]
        if not len(wrong):
            return found
        found[wrong] = stream.integers(len(wrong)) >> shift
