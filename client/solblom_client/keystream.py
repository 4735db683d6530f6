"""Random numbers straight from ChaCha20 (RFC 8439): sampling coins and noise (privacy.md rule 3).

A torch generator seeded from a key would be Mersenne twister output, predictable from a few
numbers. Opacus' `secure_mode` needs a package that no longer exists.
"""

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray


class KeyStream:
    """An endless stream of random numbers from a 32-byte key that is used for nothing else."""

    def __init__(self, key: bytes) -> None:
        # A key serves one stream only, so the nonce may be constant.
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def integers(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit integers."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return `count` standard normal numbers (Box & Muller 1958) from 53-bit uniforms, float64.

        The largest possible value is 8.57. Floating-point artefacts are not removed here; the
        export gate's rounding blunts them, and the privacy statement lists them as open (rule 14).
        """
        pairs = (count + 1) // 2
        uniform = ((self.integers(2 * pairs) >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
        angle = 2.0 * np.pi * uniform[pairs:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return np.asarray(both[:count], dtype=np.float64)

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
