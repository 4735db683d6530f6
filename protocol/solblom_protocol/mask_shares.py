"""Shares of a mask key and of a self seed: split, sealed to one hospital each, joined again.

Shamir 1979 over GF(2^128), from pycryptodome, as Bonawitz et al. 2017 (section 3.1) ask for. A secret
has 32 bytes, a field element 16, so each half is shared on its own, at the same points. Fewer than
`threshold` shares of a half say nothing about it.

A share says inside the seal whose it is, for whom, and of which sum. So a share of another round, run or
owner is refused by name, and nobody passes off another hospital's shares as those of a node of its own,
which would make the others release both kinds of one hospital under two names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages import Message, SiteName, parse_message
from solblom_protocol.seal import seal, unseal
from solblom_protocol.sum_roster import SumRound, check_round
from solblom_verify.canonical import canonical_json, digest

SECRET_BYTES = 32
_BLOCK_BYTES = 16  # one element of GF(2^128)

SecretHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

ShareKind = Literal["key", "seed"]
"""What is shared: the private mask key, opened where its owner dropped out, or the self seed, where it did not."""


class _ShareMessage(Message):
    schema_: Literal["solblom.mask-share/1"] = Field(alias="schema")
    round: SumRound
    owner: SiteName
    recipient: SiteName
    key: SecretHex
    seed: SecretHex


@dataclass(frozen=True)
class SharePair:
    """One hospital's share of another's mask key, and of its self seed."""

    key: bytes = field(repr=False)
    seed: bytes = field(repr=False)


def split_secret(secret: bytes, *, threshold: int, count: int) -> tuple[bytes, ...]:
    """Return one share for each of the points 1 to `count`; any `threshold` of them give the secret.

    Raises:
        ValueError: not 32 bytes, or not 2 ≤ threshold ≤ count.
    """
    if len(secret) != SECRET_BYTES or not 2 <= threshold <= count:
        raise ValueError("a secret of 32 bytes is split for a threshold from 2 to all")
    halves = [
        Shamir.split(threshold, count, secret[start : start + _BLOCK_BYTES], False)
        for start in (0, _BLOCK_BYTES)
    ]
    return tuple(low[1] + high[1] for low, high in zip(*halves, strict=True))


def join_secret(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """Return the secret from shares by their point; wrong shares give another secret, so compare it.

    Raises:
        ValueError: fewer than `threshold`, a share of another length, or a point below 1.
    """
    if len(shares) < threshold or any(
        len(share) != SECRET_BYTES or point < 1 for point, share in shares.items()
    ):
        raise ValueError(f"a secret needs {threshold} shares of {SECRET_BYTES} bytes")
    used = sorted(shares.items())[:threshold]
    return b"".join(
        Shamir.combine(
            [(point, share[start : start + _BLOCK_BYTES]) for point, share in used], False
        )
        for start in (0, _BLOCK_BYTES)
    )


def share_commitment(
    of: SumRound, *, owner: str, recipient: str, kind: ShareKind, share: bytes
) -> str:
    """Return the digest by which an owner commits to a share: who releases another one is found out.

    It hides the share: 32 uniform bytes cannot be searched.
    """
    return digest(
        canonical_json(
            {
                "purpose": "solblom/mask-share/v1",
                "round": of.model_dump(mode="json"),
                "owner": owner,
                "recipient": recipient,
                "kind": kind,
                "share": share.hex(),
            }
        )
    )


def seed_commitment(of: SumRound, *, owner: str, seed: bytes) -> str:
    """Return the digest by which an owner commits to its self seed, which has no public half."""
    return digest(
        canonical_json(
            {
                "purpose": "solblom/self-seed/v1",
                "round": of.model_dump(mode="json"),
                "owner": owner,
                "seed": seed.hex(),
            }
        )
    )


def seal_share(
    pair: SharePair, of: SumRound, *, owner: str, recipient: str, key: X25519PublicKey
) -> bytes:
    """Return a pair of shares sealed to its recipient's share key, bound to the sum, the owner and the recipient."""
    message = _ShareMessage(
        schema="solblom.mask-share/1",
        round=of,
        owner=owner,
        recipient=recipient,
        key=pair.key.hex(),
        seed=pair.seed.hex(),
    )
    return seal(message.payload(), kind="share", recipient=key)


def unseal_share(
    sealed: bytes, of: SumRound, *, owner: str, recipient: str, key: X25519PrivateKey
) -> SharePair:
    """Return the pair of shares that `owner` sealed to `recipient` for this sum.

    Raises:
        IntegrityError: SB-405, not sealed to this key, or changed; SB-404, of another run, round, owner or
        recipient. Names the owner.
    """
    what = f"The share of {owner} for {recipient}"
    try:
        message = parse_message(_ShareMessage, unseal(sealed, kind="share", key=key))
    except IntegrityError as error:
        raise IntegrityError("SB-405", f"{what} cannot be opened: {error.message}") from None
    check_round(message.round, of, what=what)
    if message.owner != owner:
        raise IntegrityError("SB-404", f"{what} is a share of {message.owner}")
    if message.recipient != recipient:
        raise IntegrityError("SB-404", f"{what} was made for {message.recipient}")
    return SharePair(bytes.fromhex(message.key), bytes.fromhex(message.seed))
