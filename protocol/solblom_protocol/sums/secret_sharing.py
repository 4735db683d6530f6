"""Shamir's secret sharing over a prime field: any `threshold` shares give the secret, fewer say nothing (Shamir 1979).

Written here because a sum opens one secret for every hospital, all from shares at the same points: what depends
on the points alone is computed once (docs/adr/0010). Python's integers take different times for different
numbers; whoever could measure that runs on the machine that knows the secret.
"""

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**130 - 5  # the smallest well-known prime above 2^128
SECRET_BYTES = 16
SHARE_BYTES = 17


def split_secret(secret: bytes, *, threshold: int, count: int) -> tuple[bytes, ...]:
    """Return one share of 17 bytes for each of the points 1 to `count`.

    Raises:
        ValueError: not 16 bytes, or not 2 ≤ threshold ≤ count.
    """
    if len(secret) != SECRET_BYTES or not 2 <= threshold <= count:
        raise ValueError("a secret of 16 bytes is split for a threshold from 2 to all")
    higher = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients = [int.from_bytes(secret, "big"), *higher]
    return tuple(
        _value_at(point, coefficients).to_bytes(SHARE_BYTES, "big") for point in range(1, count + 1)
    )


def join_secret(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Return the secret from shares by their point; wrong shares give another secret, so compare it.

    Raises:
        ValueError: fewer than `threshold`, a share that is none, a point below 1, or shares that give no
        secret of 16 bytes.
    """
    numbers = {point: int.from_bytes(share, "big") for point, share in shares.items()}
    if len(shares) < threshold or any(
        len(shares[point]) != SHARE_BYTES or number >= PRIME or not 1 <= point < PRIME
        for point, number in numbers.items()
    ):
        raise ValueError(f"a secret needs {threshold} shares of {SHARE_BYTES} bytes")
    points = tuple(sorted(numbers)[:threshold])
    weights = _weights_at_zero(points)
    total = sum(weight * numbers[point] for point, weight in zip(points, weights, strict=True))
    found = total % PRIME
    if found >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("the shares give no secret: one of them is wrong")
    return found.to_bytes(SECRET_BYTES, "big")


def _value_at(point: int, coefficients: Sequence[int]) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


@lru_cache(maxsize=64)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return Lagrange's weights: the polynomial's value at 0 is the sum of weight times share."""
    weights = []
    for point in points:
        weight = 1
        for other in points:
            if other != point:
                weight = weight * other * pow(other - point, -1, PRIME) % PRIME
        weights.append(weight)
    return tuple(weights)
