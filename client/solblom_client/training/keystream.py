"""Random numbers straight from ChaCha20 (RFC 8439): sampling coins and noise (privacy.md rule 3).

A torch generator seeded from a key would be Mersenne twister output, predictable from a few
numbers. Opacus' `secure_mode` needs a package that no longer exists.
"""

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

BLOCK = 65_536  # pairs drawn at a time


class KeyStream:
    """An endless stream of random numbers from a 32-byte key that is used for nothing else."""

    def __init__(self, key: bytes) -> None:
        # A key serves one stream only, so the nonce may be constant.
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def integers(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit integers."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")

    def normals(self, count: int) -> torch.Tensor:
        """Return `count` standard normal numbers (Box & Muller 1958), float32.

        The radius comes from a 53-bit uniform, so the tail reaches 8.57 and the mass cut off is
        about 1e-16; the angle from 32 bits. Blocks stay in the processor's cache: about twice the
        time of torch's own generator, which is not cryptographic. Floating-point artefacts are not
        removed here; the export gate's rounding blunts them (rule 14).
        """
        pairs = (count + 1) // 2
        result = torch.empty(2, pairs)
        for start in range(0, pairs, BLOCK):
            size = min(BLOCK, pairs - start)
            raw = bytearray(self._encryptor.update(bytes(12 * size)))
            bits = torch.frombuffer(raw, dtype=torch.int64, count=size)
            uniform = ((bits >> 11) & (2**53 - 1)).double().add_(1).mul_(2.0**-53)
            radius = uniform.log_().mul_(-2).sqrt_().float()
            angle = torch.frombuffer(raw, dtype=torch.int32, count=size, offset=8 * size).float()
            angle.mul_(2 * math.pi / 2**32)
            torch.mul(radius, angle.cos(), out=result[0, start : start + size])
            torch.mul(radius, angle.sin_(), out=result[1, start : start + size])
        return result.view(-1)[:count]

    def poisson_sample(self, population: int, sampling_rate: str) -> Sequence[int]:
        """Return the indices of a Poisson sample: each of `population` with probability `sampling_rate`, alone.

        The rate is a decimal string; the coin is `u64 < floor(rate * 2^64)`, so the true rate is
        never above it.
        """
        threshold = int(Decimal(sampling_rate) * 2**64)
        coins = self.integers(population)
        if threshold >= 2**64:
            return range(population)
        chosen: list[int] = np.nonzero(coins < np.uint64(threshold))[0].tolist()
        return chosen
