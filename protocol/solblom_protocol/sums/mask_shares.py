"""Shares of a mask key and of a self seed: split, sealed to one hospital each, joined again.

Shared as Bonawitz et al. 2017 (section 3.1) ask for. A secret has 16 bytes; what it is for is derived from
it together with the sum and its owner.

The seal of a share is bound to its owner, its recipient and the sum. So a share of another round, run or
owner opens for nobody, and nobody passes off another hospital's shares as those of a node of its own,
which would make the others release both kinds of one hospital under two names.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.seal import seal_bound, unseal_bound
from solblom_protocol.sums.roster import SumRound
from solblom_protocol.sums.secret_sharing import SHARE_BYTES
from solblom_verify.canonical import canonical_json, digest

ShareHex = Annotated[str, Field(pattern=r"^[0-9a-f]{34}$")]

ShareKind = Literal["key", "seed"]
"""What is shared: the seed of the mask key, opened where its owner dropped out, or the self seed, where it did not."""


@dataclass(frozen=True)
class SharePair:
    """One hospital's share of another's mask key, and of its self seed."""

    key: bytes = field(repr=False)
    seed: bytes = field(repr=False)


def mask_private_key(of: SumRound, *, owner: str, seed: bytes) -> X25519PrivateKey:
    """Return the X25519 key that an owner's mask seed stands for, in this sum only (HKDF-SHA256, RFC 5869)."""
    info = b"solblom/mask-key/v1\x00" + canonical_json(
        {"round": of.model_dump(mode="json"), "owner": owner}
    )
    raw = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(seed)
    return X25519PrivateKey.from_private_bytes(raw)


def share_commitment(
    of: SumRound, *, owner: str, recipient: str, kind: ShareKind, share: bytes
) -> str:
    """Return the digest by which an owner commits to a share: who releases another one is found out.

    It hides the share: a uniform field element cannot be searched, and each commitment has its own context.
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
    return seal_bound(pair.key + pair.seed, context=_context(of, owner, recipient), recipient=key)


def unseal_share(
    sealed: bytes, of: SumRound, *, owner: str, recipient: str, key: X25519PrivateKey
) -> SharePair:
    """Return the pair of shares that `owner` sealed to `recipient` for this sum.

    Raises:
        IntegrityError: SB-405, changed, sealed to another key, or a share of another run, round, owner or
        recipient. Names the owner.
    """
    what = f"The share of {owner} for {recipient}"
    try:
        pair = unseal_bound(sealed, context=_context(of, owner, recipient), key=key)
    except IntegrityError as error:
        raise IntegrityError("SB-405", f"{what} cannot be opened: {error.message}") from None
    if len(pair) != 2 * SHARE_BYTES:
        raise IntegrityError("SB-405", f"{what} is not two shares")
    return SharePair(pair[:SHARE_BYTES], pair[SHARE_BYTES:])


def _context(of: SumRound, owner: str, recipient: str) -> bytes:
    return canonical_json(
        {
            "purpose": "solblom/sealed-share/v1",
            "round": of.model_dump(mode="json"),
            "owner": owner,
            "recipient": recipient,
        }
    )
