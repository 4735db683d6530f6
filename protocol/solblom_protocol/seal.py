"""Seal a message from vault to coordinator and back: HPKE (RFC 9180), whatever carries it.

Flower's own node signature covers a timestamp only, and hospitals inspect TLS (privacy.md rule 11).
The sealed bytes are `magic ‖ header length ‖ header ‖ HPKE ciphertext`. The header says in clear
who the message is for, and is bound to the ciphertext as HPKE `info`, so that a changed header
opens nothing. Who *sent* it is proved by the signed envelope inside, which names its recipient
(sign, then encrypt, with the names inside).
"""

from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import canonical_json, digest, parse_canonical

MAGIC = b"SBSEAL1\n"
MAX_HEADER_BYTES = 4096
MAX_SEALED_BYTES = 2 * 1024**3
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

Kind = Literal["order", "reply"]


@dataclass(frozen=True)
class SealHeader:
    """What a courier may read: the kind of message and the recipient's sealing key."""

    kind: Kind
    recipient: str


def sealing_key_id(public: X25519PublicKey) -> str:
    """Return the identity of a sealing key: SHA-256 of its raw 32 bytes."""
    return digest(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def seal(message: bytes, *, kind: Kind, recipient: X25519PublicKey) -> bytes:
    """Return `message` so that only the holder of the recipient's key can read it."""
    header = canonical_json({"kind": kind, "recipient": sealing_key_id(recipient)})
    ciphertext = _SUITE.encrypt(message, recipient, info=header)
    return MAGIC + len(header).to_bytes(4, "big") + header + ciphertext


def read_header(sealed: bytes) -> SealHeader:
    """Return the clear header of a sealed message.

    Raises:
        IntegrityError: SB-405, the bytes are not a sealed message.
    """
    return _split(sealed)[0]


def unseal(sealed: bytes, *, kind: Kind, key: X25519PrivateKey) -> bytes:
    """Return the message inside.

    Raises:
        IntegrityError: SB-405, not a sealed message of this kind, for another key, or changed.
    """
    header, header_bytes, ciphertext = _split(sealed)
    if header.kind != kind:
        raise IntegrityError("SB-405", "The sealed message is of another kind")
    if header.recipient != sealing_key_id(key.public_key()):
        raise IntegrityError("SB-405", "The sealed message is for another recipient")
    try:
        return _SUITE.decrypt(ciphertext, key, info=header_bytes)
    except (InvalidTag, ValueError):
        raise IntegrityError("SB-405", "The sealed message was changed on its way") from None


def _split(sealed: bytes) -> tuple[SealHeader, bytes, bytes]:
    start = len(MAGIC) + 4
    if len(sealed) > MAX_SEALED_BYTES or not sealed.startswith(MAGIC) or len(sealed) < start:
        raise IntegrityError("SB-405", "The bytes are not a sealed message")
    length = int.from_bytes(sealed[len(MAGIC) : start], "big")
    header_bytes = sealed[start : start + length]
    if length > MAX_HEADER_BYTES or len(header_bytes) != length:
        raise IntegrityError("SB-405", "The sealed message's header is cut")
    try:
        value = parse_canonical(header_bytes)
    except ValueError:
        raise IntegrityError("SB-405", "The sealed message's header is malformed") from None
    if not isinstance(value, dict) or set(value) != {"kind", "recipient"}:
        raise IntegrityError("SB-405", "The sealed message's header has unexpected members")
    kind, recipient = value["kind"], value["recipient"]
    if kind not in ("order", "reply") or not isinstance(recipient, str):
        raise IntegrityError("SB-405", "The sealed message's header has a wrong value")
    return SealHeader(kind, recipient), header_bytes, sealed[start + length :]
