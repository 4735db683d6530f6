"""Integer noise for counts: the discrete Gaussian, sampled exactly from the node's key stream.

Algorithms 1 to 3 of Canonne, Kamath & Steinke 2020 (arXiv:2004.00010). Only integers are compared,
so there are no floating-point artefacts (Mironov 2012): what is charged is what is drawn.
"""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from solblom_client.training.keystream import KeyStream

Counts = NDArray[np.int64]

TAIL_DEVIATIONS = 13
MOST_COLUMNS = 1024
FEWER = (1016, 960, 880, 800, 720, 640)  # columns to aim for: whole-number widths add some
COLUMN_BITS, COIN_BITS = 10, 21
COINS = 2**COIN_BITS
MARGIN = 1e-12  # rounding of the bell and of a coin stays below 1e-13
VECTOR_BLOCK = 32_768


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

    What is cut has probability below 1e-36 each. Rejection from columns of equal area that lie above the
    bell: a column is drawn uniformly, a place in it uniformly, and the place is kept with probability
    exp(-y^2 / 2 s^2) over the column's height. That coin has 21 bits. It is decided in floating point unless
    what follows its bits could matter, or it falls within `margin` of the edge, which is far more than
    rounding can do; then it is decided by exact arithmetic on 320 bits more. So no rounding error of this
    machine decides anything (Mironov 2012), as in `discrete_gaussian`, at a fraction of its time.

    Raises:
        ValueError: a deviation below 4 or from 2^26.
    """
    if not 4 <= deviation < 2**26:
        raise ValueError(f"the deviation is {deviation}; it must be from 4 to 2^26")
    columns = _Columns.over(deviation)
    found = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        wanted = min(max(64, int(1.3 * (count - filled))), VECTOR_BLOCK)
        kept = columns.draw(stream, wanted, margin)[: count - filled]
        found[filled : filled + len(kept)] = kept
        filled += len(kept)
    return found


@dataclass(frozen=True)
class _Columns:
    """Columns over the half bell, all of one area: column i is `widths[i]` integers wide, area / width high.

    A coin below `sure[i]` keeps every place of column i, so that the bell is looked at for few places only.
    """

    deviation: int
    area: int
    starts: NDArray[np.int64]
    widths: NDArray[np.uint64]
    least: NDArray[np.uint64]
    sure: NDArray[np.uint64]

    @classmethod
    def over(cls, deviation: int) -> "_Columns":
        """Return at most 1024 columns from 0 to 13 deviations; none is lower than the bell at its start."""
        area, starts, widths = next(
            found
            for found in (_cut(deviation, aim) for aim in FEWER)
            if len(found[1]) <= MOST_COLUMNS
        )
        first, wide = np.array(starts), np.array(widths, dtype=np.uint64)
        lowest = _chance(first + wide.astype(np.int64) - 1, wide, deviation=deviation, area=area)
        sure = np.maximum(np.floor(lowest * COINS) - 1.0, 0.0).astype(np.uint64)
        return cls(deviation, area, first, wide, (np.uint64(2**32) - wide) % wide, sure)

    def draw(self, stream: KeyStream, count: int, margin: float) -> Counts:
        """Return what is kept of `count` tries; a try takes 64 random bits: place 32, column 10, coin 21, sign 1."""
        words = stream.integers(count)
        rest = words >> np.uint64(32)
        column = (rest & np.uint64(self._mask)).view(np.int64)
        kept = column < len(self.starts)
        size = self._places(stream, words & _LOW, column)
        size += self.starts.take(column, mode="clip")
        coins = (rest >> np.uint64(COLUMN_BITS)) & np.uint64(COINS - 1)
        unsure = np.nonzero((coins >= self.sure.take(column, mode="clip")) & kept)[0]
        kept[unsure] = self._keep(stream, size[unsure], column[unsure], coins[unsure], margin)
        negative = rest >= np.uint64(2**31)
        kept &= ~(negative & (size == 0))  # zero has one sign only
        np.negative(size, out=size, where=negative)
        return size.compress(kept)

    @property
    def _mask(self) -> int:
        return int((1 << (len(self.starts) - 1).bit_length()) - 1)

    def _places(
        self, stream: KeyStream, bits: NDArray[np.uint64], column: NDArray[np.int64]
    ) -> Counts:
        """Return a uniform place in each column from 32 random bits (Lemire 2019: no place is favoured)."""
        product = bits * self.widths.take(column, mode="clip")
        few = np.nonzero((product & _LOW) < self.least.max())[0]
        wrong = self._favoured(few, product, column)  # the column's own bound decides
        while len(wrong):
            again = stream.integers(len(wrong)) >> np.uint64(32)
            product[wrong] = again * self.widths.take(column[wrong], mode="clip")
            wrong = self._favoured(wrong, product, column)
        product >>= np.uint64(32)
        return product.view(np.int64)

    def _favoured(
        self, among: NDArray[np.int64], product: NDArray[np.uint64], column: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return which of these places would come too often, and are drawn again."""
        least = self.least.take(column[among], mode="clip")
        found: NDArray[np.int64] = among[(product[among] & _LOW) < least]
        return found

    def _keep(
        self,
        stream: KeyStream,
        size: Counts,
        column: NDArray[np.int64],
        coins: NDArray[np.uint64],
        margin: float,
    ) -> NDArray[np.bool_]:
        """Decide coins of 21 bits; those within `margin` of the edge by exact arithmetic."""
        width = self.widths[column]
        chance = _chance(size, width, deviation=self.deviation, area=self.area)
        above = coins / COINS - chance  # the whole coin lies between this and 2^-21 more
        kept: NDArray[np.bool_] = above + 1.0 / COINS <= -margin
        for index in np.nonzero(~kept & (above < margin))[0]:
            kept[index] = self._decide(
                stream, int(size[index]), int(width[index]), int(coins[index])
            )
        return kept

    def _decide(self, stream: KeyStream, size: int, width: int, coin: int) -> bool:
        """Decide one coin exactly: 21 bits that are known, 320 that follow, against 120 digits of the bell."""
        for word in stream.integers(5).tolist():
            coin = (coin << 64) | int(word)
        with localcontext() as context:
            context.prec = 120
            exponent = -Decimal(size * size) / Decimal(2 * self.deviation**2)
            chance = exponent.exp() * width / self.area
            kept: bool = Decimal(coin) < chance * Decimal(2) ** (COIN_BITS + 320)
            return kept


def _cut(deviation: int, aim: int) -> tuple[int, list[int], list[int]]:
    """Return the area of a column, where columns start and how wide they are; about `aim` of them."""
    area = -(-5 * deviation // (4 * aim)) or 1  # the half bell's area is below 5/4 s + 1
    starts, widths, start, end = [], [], 0, TAIL_DEVIATIONS * deviation + 1
    while start < end:
        # Where the bell is 1 or less, a column of width `area` is at least as high.
        widest = area * math.exp(start**2 / (2.0 * deviation**2)) * (1.0 - MARGIN)
        width = min(max(area, int(widest)), end - start)
        starts.append(start)
        widths.append(width)
        start += width
    return area, starts, widths


def _chance(
    size: NDArray[np.int64], width: NDArray[np.uint64], *, deviation: int, area: int
) -> NDArray[np.float64]:
    """Return the bell's height over its column's, to within rounding."""
    real = size.astype(np.float64)
    chance: NDArray[np.float64] = np.exp(real * real * (-0.5 / float(deviation) ** 2))
    return chance * (width.astype(np.float64) / area)


_LOW = np.uint64(2**32 - 1)
