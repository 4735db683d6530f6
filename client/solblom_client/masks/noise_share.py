"""What a hospital adds to a secure sum: its clipped sum on the integer grid, its share of the noise, its masks.

    clipped sum  →  times 2^f, rounded, cut off  →  plus a discrete Gaussian share  →  plus masks

Rounding and cutting happen before the noise and depend on no secret but the sum, so the sensitivity
of privacy.md rule 7 covers them. With masks the vector is uniform to anybody who lacks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from solblom_client.training.discrete_gaussian import discrete_gaussian_vector
from solblom_client.training.keystream import KeyStream
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.sums.pair_masks import (
    add_pair_mask,
    checked,
    round_pair_key,
    run_pair_key,
)
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.secure_sum import TAIL

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Masking:
    """Everything from which the masks of one answer follow.

    Attributes:
        keys: every hospital's mask key, this one's too.
        roster: digest of the approved roster.
    """

    site: str
    mine: X25519PrivateKey
    keys: Mapping[str, X25519PublicKey]
    run: str
    roster: str
    kind: OrderKind
    number: int
    base_model: str


def on_grid(values: NDArray[np.float64], *, fractional_bits: int, largest: int) -> Integers:
    """Return values times 2^f as integers, cut off at `largest`, shape kept.

    Raises:
        RefusedError: SB-213, a value is not finite.
    """
    if not bool(np.isfinite(values).all()):
        raise RefusedError("SB-213", "The clipped sum has values that are not finite")
    scaled = values * 2.0**fractional_bits  # exact, or infinite and cut off
    np.rint(scaled, out=scaled)
    np.clip(scaled, -largest, largest, out=scaled)
    grid: Integers = scaled.astype(np.int64)
    return grid


def with_noise_share(values: Integers, *, share: int, largest: int, stream: KeyStream) -> Integers:
    """Return the values with this node's share of the noise; no sum of the roster's vectors leaves the ring.

    Raises:
        RefusedError: SB-213, a value is larger than its range allows.
    """
    noisy = discrete_gaussian_vector(stream, share, len(values))
    noisy += values
    most = largest + TAIL * share
    if int(noisy.max(initial=0)) > most or int(noisy.min(initial=0)) < -most:
        raise RefusedError("SB-213", "A value of a masked vector is out of range")
    return noisy


def under_masks(ring: Ring, values: Integers, masking: Masking) -> bytes:
    """Return the vector as it leaves: words of the ring, under one mask for each other hospital.

    Raises:
        RefusedError: SB-216, this hospital's own key is not among the run's keys.
        IntegrityError: SB-405, another's key is none.
    """
    own = masking.keys.get(masking.site)
    if own is None or own != masking.mine.public_key():
        raise RefusedError("SB-216", "The order carries another mask key of this hospital's")
    total = ring.encode(checked(values))
    for peer, key in masking.keys.items():
        if peer != masking.site:
            pair = run_pair_key(
                masking.mine,
                key,
                pair=(masking.site, peer),
                run=masking.run,
                roster=masking.roster,
            )
            fresh = round_pair_key(
                pair, kind=masking.kind, number=masking.number, base_model=masking.base_model
            )
            add_pair_mask(ring, total, fresh, site=masking.site, peer=peer)
    return total.tobytes()
