"""Seal a message from vault to coordinator and back: HPKE (RFC 9180), whatever carries it.

Flower's own node signature covers a timestamp only, and hospitals inspect TLS (privacy.md rule 11).
The sealed bytes are `magic ‖ header length ‖ header ‖ HPKE ciphertext ‖ body`. The header says in
clear who the message is for, and is bound to the ciphertext as HPKE `info`, so that a changed header
opens nothing. Who *sent* it is proved by the signed envelope inside, which names its recipient
(sign, then encrypt, with the names inside).

The body is an array that several recipients get: the round's model. It is locked once, under a key of
its own that each recipient finds in its own sealed part, so the same bytes serve all hospitals
(docs/adr/0008). What it must be stands, as a digest, in the signed envelope.

A reply is padded to whole blocks before it is encrypted: whoever carries it cannot tell one band of
patients from another, nor a refusal from the answer of a model that fits into a block.
"""

import os
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import canonical_json, digest, parse_canonical

MAGIC = b"SBSEAL2\n"
MAX_HEADER_BYTES = 4096
MAX_SEALED_BYTES = 2 * 1024**3
KEY_BYTES = 32
REPLY_BLOCK_BYTES = 4096
_ONLY_NONCE = bytes(12)  # a key locks one array, so the nonce may be constant (RFC 8439 §2.8)
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

Kind = Literal["order", "reply"]


@dataclass(frozen=True)
class SealHeader:
    """What a courier may read: the kind of message, the recipient's sealing key, the length of the body."""

    kind: Kind
    recipient: str
    body: int


@dataclass(frozen=True)
class LockedArray:
    """An array encrypted once for all who get `key`."""

    key: bytes
    ciphertext: bytes | memoryview


def sealing_key_id(public: X25519PublicKey) -> str:
    """Return the identity of a sealing key: SHA-256 of its raw 32 bytes."""
    return digest(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def lock(array: bytes) -> LockedArray:
    """Encrypt an array under a new key (ChaCha20-Poly1305, RFC 8439)."""
    key = os.urandom(KEY_BYTES)
    return LockedArray(key, ChaCha20Poly1305(key).encrypt(_ONLY_NONCE, array, None))


def unlock(locked: LockedArray) -> bytes:
    """Return the array.

    Raises:
        IntegrityError: SB-405, another key, or changed.
    """
    try:
        return ChaCha20Poly1305(locked.key).decrypt(_ONLY_NONCE, locked.ciphertext, None)
    except (InvalidTag, ValueError):
        raise IntegrityError("SB-405", "The array was changed on its way") from None


def seal(
    message: bytes,
    *,
    kind: Kind,
    recipient: X25519PublicKey,
    body: bytes | memoryview = b"",
) -> bytes:
    """Return `message` so that only the holder of the recipient's key can read it; `body` follows as it is."""
    return b"".join((seal_head(message, kind=kind, recipient=recipient, body=len(body)), body))


def seal_head(message: bytes, *, kind: Kind, recipient: X25519PublicKey, body: int) -> bytes:
    """Return what precedes a body of that many bytes, which several sealed messages may share."""
    header = canonical_json({"body": body, "kind": kind, "recipient": sealing_key_id(recipient)})
    padded = _padded(message) if kind == "reply" else message
    ciphertext = _SUITE.encrypt(padded, recipient, info=header)
    return b"".join((MAGIC, len(header).to_bytes(4, "big"), header, ciphertext))


def seal_bound(message: bytes, *, context: bytes, recipient: X25519PublicKey) -> bytes:
    """Return a short message that only the recipient opens, and only who knows what it belongs to (HPKE `info`)."""
    return _SUITE.encrypt(message, recipient, info=context)


def unseal_bound(sealed: bytes, *, context: bytes, key: X25519PrivateKey) -> bytes:
    """Return the message.

    Raises:
        IntegrityError: SB-405, for another key, of another context, or changed.
    """
    try:
        return _SUITE.decrypt(sealed, key, info=context)
    except (InvalidTag, ValueError):
        raise IntegrityError(
            "SB-405", "It was sealed to another key or for another purpose, or changed on its way"
        ) from None


def read_header(sealed: bytes) -> SealHeader:
    """Return the clear header of a sealed message.

    Raises:
        IntegrityError: SB-405, the bytes are not a sealed message.
    """
    return _split(sealed)[0]


def split_body(sealed: bytes) -> tuple[bytes, memoryview]:
    """Return what is sealed to one recipient, and the body that several may share, which is not copied.

    Raises:
        IntegrityError: SB-405, the bytes are not a sealed message.
    """
    start = len(sealed) - read_header(sealed).body
    return sealed[:start], memoryview(sealed)[start:]


def unseal(sealed: bytes, *, kind: Kind, key: X25519PrivateKey) -> bytes:
    """Return the message inside; the body, if any, is `split_body`'s.

    Raises:
        IntegrityError: SB-405, not a sealed message of this kind, for another key, or changed.
    """
    header, header_bytes, ciphertext = _split(sealed)
    if header.kind != kind:
        raise IntegrityError("SB-405", "The sealed message is of another kind")
    if header.body and kind != "order":
        raise IntegrityError("SB-405", f"A sealed {kind} has no body")
    if header.recipient != sealing_key_id(key.public_key()):
        raise IntegrityError("SB-405", "The sealed message is for another recipient")
    try:
        message = _SUITE.decrypt(ciphertext, key, info=header_bytes)
    except (InvalidTag, ValueError):
        raise IntegrityError("SB-405", "The sealed message was changed on its way") from None
    return _unpadded(message) if kind == "reply" else message


def _padded(message: bytes) -> bytes:
    """Return whole blocks: the message, a byte 0x80, and zeros (ISO/IEC 7816-4)."""
    return message + b"\x80" + bytes(-(len(message) + 1) % REPLY_BLOCK_BYTES)


def _unpadded(padded: bytes) -> bytes:
    """Return the message; padding has one spelling.

    Raises:
        IntegrityError: SB-405.
    """
    last = padded[-REPLY_BLOCK_BYTES:].rstrip(b"\0")
    if len(padded) % REPLY_BLOCK_BYTES or not last.endswith(b"\x80"):
        raise IntegrityError("SB-405", "The reply's padding is malformed")
    return padded[: len(padded) - min(len(padded), REPLY_BLOCK_BYTES) + len(last) - 1]


def _split(sealed: bytes) -> tuple[SealHeader, bytes, memoryview]:
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
    if not isinstance(value, dict) or set(value) != {"body", "kind", "recipient"}:
        raise IntegrityError("SB-405", "The sealed message's header has unexpected members")
    kind, recipient, body = value["kind"], value["recipient"], value["body"]
    if kind not in ("order", "reply") or not isinstance(recipient, str) or type(body) is not int:
        raise IntegrityError("SB-405", "The sealed message's header has a wrong value")
    if not 0 <= body <= len(sealed) - start - length:
        raise IntegrityError("SB-405", "The sealed message's body is cut")
    header = SealHeader(kind, recipient, body)
    return header, header_bytes, memoryview(sealed)[start + length : len(sealed) - body]
