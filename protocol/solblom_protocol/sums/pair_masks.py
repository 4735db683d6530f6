"""Masks that cancel in the sum: each pair of hospitals shares one, which one adds and the other subtracts.

The first form of privacy.md rule 8, all or nothing (Bonawitz et al. 2017, section 4.1, without its
recovery): if one hospital's vector is missing, the sum of the others stays uniform.

A mask hides one vector only. Two vectors under the same mask give away their difference, so a vault
never answers a round with two different vectors.
"""

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from solblom_protocol.errors import IntegrityError
from solblom_protocol.sums.ring import Ring, Words
from solblom_verify.canonical import JsonValue, canonical_json

CHECK_WORDS = 4


def run_pair_key(
    mine: X25519PrivateKey,
    peer: X25519PublicKey,
    *,
    pair: tuple[str, str],
    run: str,
    roster: str,
) -> bytes:
    """Return what two hospitals share for a run: X25519, then HKDF-SHA256 over both names, the run and the roster.

    Another roster, also one with a single other key, gives unrelated masks: no sum of it opens. Without
    the names, a hospital that repeats another's public key as its own would share that one's masks, and in a
    third one's vector they would cancel: several spellings of a key give one secret (RFC 7748, section 6.1).

    Raises:
        IntegrityError: SB-405, the peer's key is no point of large order.
    """
    try:
        secret = mine.exchange(peer)
    except ValueError:
        raise IntegrityError("SB-405", "A hospital's mask key is not one") from None
    names: list[JsonValue] = list(sorted(pair))
    return _expand(secret, {"purpose": "pair", "pair": names, "run": run, "roster": roster})


def round_pair_key(pair_key: bytes, *, kind: str, number: int, base_model: str) -> bytes:
    """Return the key of one round's mask: fresh for each kind, number and model of a round."""
    inputs: dict[str, JsonValue] = {
        "purpose": "round",
        "kind": kind,
        "round": number,
        "base_model": base_model,
    }
    return _expand(pair_key, inputs)


def self_mask_key(
    seed: bytes,
    *,
    site: str,
    run: str,
    participants: str,
    kind: str,
    number: int,
    base_model: str,
) -> bytes:
    """Return the key of the mask that a hospital shares with nobody (sums/double_masks.py), from its self seed."""
    inputs: dict[str, JsonValue] = {
        "purpose": "self",
        "site": site,
        "run": run,
        "participants": participants,
        "kind": kind,
        "round": number,
        "base_model": base_model,
    }
    return _expand(seed, inputs)


def masked(ring: Ring, values: Words, *, site: str, masks: Mapping[str, Words]) -> Words:
    """Return a hospital's vector under its masks, one for each peer: added towards later names, else subtracted.

    Raises:
        ValueError: a mask shared with oneself.
    """
    if site in masks:
        raise ValueError("a hospital shares no mask with itself")
    total = values
    for peer, mask in masks.items():
        total = ring.add(total, mask) if site < peer else ring.subtract(total, mask)
    return total


def add_pair_mask(ring: Ring, total: Words, key: bytes, *, site: str, peer: str) -> None:
    """Put one pair's mask onto a hospital's vector, in place; what `masked` does with masks as large as the vector.

    Raises:
        ValueError: a mask shared with oneself.
    """
    if site == peer:
        raise ValueError("a hospital shares no mask with itself")
    ring.add_uniform(total, key, subtract=site > peer)


def checked(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vector with check words behind it: each hospital adds 1, so the opened sum counts hospitals.

    A sum of 32 bits that does not open looks like numbers; these words say that it is none.
    """
    return np.concatenate([values, np.ones(CHECK_WORDS, dtype=np.int64)])


class OpenedSum:
    """Masked vectors added up as they arrive; constant memory, any order.

    Args:
        ring: the ring on which they add up.
        size: values in a vector, without its check words.
        roster: the sites whose masks cancel.
    """

    def __init__(self, ring: Ring, size: int, roster: frozenset[str]) -> None:
        self._ring, self._size, self._roster = ring, size, roster
        self._total: Words = ring.encode(np.zeros(size + CHECK_WORDS, dtype=np.int64))
        self._added: set[str] = set()

    def add(self, site: str, data: bytes | memoryview) -> None:
        """Add one hospital's masked vector.

        Raises:
            IntegrityError: SB-404, not of the roster, twice, or of another size; names the hospital.
        """
        if site not in self._roster or site in self._added:
            raise IntegrityError(
                "SB-404", f"A masked vector of {site} is not in the roster, or came twice"
            )
        words = self._ring.words(data)
        if words.shape != self._total.shape:
            raise IntegrityError("SB-404", f"The masked vector of {site} has another size")
        self._total = self._ring.add(self._total, words)
        self._added.add(site)

    def open(self) -> NDArray[np.int64]:
        """Return the sum, in which all masks cancel.

        Raises:
            IntegrityError: SB-404, a hospital of the roster is missing, by name; or the masks do not cancel.
        """
        missing = sorted(self._roster - self._added)
        if missing or not self._added:
            raise IntegrityError(
                "SB-404", f"The masked sum cannot be opened: missing: {', '.join(missing) or 'all'}"
            )
        values = self._ring.decode(self._total)
        if not bool((values[self._size :] == len(self._added)).all()):
            raise IntegrityError(
                "SB-404", "The masked sum does not open: the hospitals' masks do not cancel"
            )
        return values[: self._size]


def _expand(secret: bytes, inputs: dict[str, JsonValue]) -> bytes:
    info = b"solblom/mask/v1\x00" + canonical_json(inputs)
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
