"""Integer noise for counts: the discrete Gaussian, sampled exactly from the node's key stream.

Algorithms 1 to 3 of Canonne, Kamath & Steinke 2020 (arXiv:2004.00010). Only integers are compared,
so there are no floating-point artefacts (Mironov 2012): what is charged is what is drawn.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from solblom_client.keystream import KeyStream

Counts = NDArray[np.int64]


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
