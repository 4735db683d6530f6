"""Integers modulo 2^bits: what a secure sum adds up (privacy.md rule 8).

Addition wraps around, so a uniform mask hides any number completely. A sum is read back as a signed
number, which is right as long as it lies inside the ring: `check_range` proves that beforehand.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from solblom_protocol.errors import ConfigurationError, IntegrityError

BLOCK = 16_384  # words at a time: they stay in the cache
Words = NDArray[Any]
"""Unsigned little-endian integers below 2^bits, in the ring's word size."""


@dataclass(frozen=True)
class Ring:
    """The integers modulo 2^bits, in words of 1, 2, 4 or 8 bytes.

    Raises:
        ValueError: not 2 to 64 bits.
    """

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 64:
            raise ValueError(f"a ring has 2 to 64 bits, not {self.bits}")

    @cached_property
    def word_bytes(self) -> int:
        """How many bytes one number takes on its way."""
        return next(size for size in (1, 2, 4, 8) if 8 * size >= self.bits)

    def encode(self, values: NDArray[np.int64]) -> Words:
        """Return signed integers as elements of the ring."""
        return self._reduced(values.astype(np.int64).view(np.uint64).astype(self._word))

    def decode(self, words: Words) -> NDArray[np.int64]:
        """Return elements as signed integers from -2^(bits-1) to 2^(bits-1) - 1."""
        shift = np.uint64(64 - self.bits)
        return (words.astype(np.uint64) << shift).view(np.int64) >> shift.astype(np.int64)

    def words(self, data: bytes | memoryview) -> Words:
        """Return the elements in bytes as they travel.

        Raises:
            IntegrityError: SB-404, not whole words, or one that is no element of the ring.
        """
        if len(data) % self.word_bytes:
            raise IntegrityError("SB-404", "A masked vector is cut inside a word")
        words: Words = np.frombuffer(data, dtype=self._word)
        if self.bits != 8 * self.word_bytes and bool((words >> np.uint8(self.bits)).any()):
            raise IntegrityError("SB-404", "A masked vector has numbers outside its ring")
        return words

    def add(self, total: Words, more: Words) -> Words:
        """Return the sum of two arrays."""
        return self._reduced(total.astype(self._word) + more.astype(self._word))

    def subtract(self, total: Words, less: Words) -> Words:
        """Return the difference of two arrays."""
        return self._reduced(total.astype(self._word) - less.astype(self._word))

    def uniform(self, key: bytes, size: int) -> Words:
        """Return `size` uniform elements from a 32-byte key that is used for nothing else (AES-256-CTR, SP 800-38A)."""
        raw = _stream(key).update(bytes(self.word_bytes * size))
        return self._reduced(np.frombuffer(raw, dtype=self._word))

    def add_uniform(self, total: Words, key: bytes, *, subtract: bool) -> None:
        """Add or subtract, in place, what `uniform` gives for the key; in blocks that stay in the cache."""
        stream = _stream(key)
        zeros = memoryview(bytes(self.word_bytes * min(BLOCK, total.size)))
        room = bytearray(len(zeros) + AES256.block_size // 8 - 1)
        masks = np.frombuffer(room, dtype=self._word, count=min(BLOCK, total.size))
        for start in range(0, total.size, BLOCK):
            part = total[start : start + BLOCK]
            stream.update_into(zeros[: self.word_bytes * part.size], room)
            mask = masks[: part.size]
            (np.subtract if subtract else np.add)(part, mask, out=part)
            if self.bits != 8 * self.word_bytes:
                np.bitwise_and(part, self._word.type(2**self.bits - 1), out=part)

    def check_range(self, *, addends: int, largest: int) -> None:
        """Refuse a sum that could leave the ring: it would be read back as another number.

        `largest` bounds the absolute value of each addend, its noise included.

        Raises:
            ConfigurationError: SB-103.
        """
        if addends * largest >= 2 ** (self.bits - 1):
            raise ConfigurationError(
                "SB-103",
                f"A sum of {addends} numbers up to {largest} does not fit a ring of {self.bits} bits",
                "Use a larger ring, fewer fractional bits or less noise",
            )

    @cached_property
    def _word(self) -> np.dtype[Any]:
        return np.dtype(f"<u{self.word_bytes}")

    def _reduced(self, words: Words) -> Words:
        """Drop what lies above the ring; a word that the ring fills wraps by itself."""
        if self.bits == 8 * self.word_bytes:
            return words
        reduced: Words = words & self._word.type(2**self.bits - 1)
        return reduced


def _stream(key: bytes) -> CipherContext:
    """Return the key stream of a mask; processors have instructions for AES, which halve a large mask's time."""
    return Cipher(AES256(key), CTR(bytes(16))).encryptor()
