"""Signatures: DSSE envelopes with Ed25519, in exactly one spelling.

Source: https://github.com/secure-systems-lab/dsse (protocol.md, envelope.md). DSSE lets a reader
skip signatures it does not know and take two base64 alphabets. Here every byte counts: an
envelope that could be written differently, or carries anything unverified, is refused.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # public, not in __all__
    Signature,
    SSlibKey,
)

from solblom_verify.canonical import MAX_BYTES, CanonicalError, parse_canonical
from solblom_verify.shape import JsonObject, ShapeError

_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


class EnvelopeError(ValueError):
    """An envelope or a key is not acceptable, for the reason given."""


@dataclass(frozen=True)
class OpenedEnvelope:
    """What an envelope holds once every signature on it is verified."""

    payload: bytes
    signers: tuple[str, ...]  # key ids, sorted


def key_id(public: Ed25519PublicKey) -> str:
    """Name a key: the hexadecimal SHA-256 of its SubjectPublicKeyInfo in DER."""
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, _SPKI)).hexdigest()


def public_key_to_pem(public: Ed25519PublicKey) -> str:
    """Write a public key as PEM, as `openssl pkey -pubout` does."""
    return public.public_bytes(serialization.Encoding.PEM, _SPKI).decode("ascii")


def public_key_from_pem(pem: str) -> Ed25519PublicKey:
    """Read an Ed25519 public key from PEM, in the one spelling `public_key_to_pem` gives.

    Raises:
        EnvelopeError: the text is no PEM public key, another kind of key, or spelt otherwise.
    """
    try:
        public = serialization.load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnvelopeError("not a public key in PEM") from error
    if not isinstance(public, Ed25519PublicKey):
        raise EnvelopeError("not an Ed25519 key")
    if public_key_to_pem(public) != pem:
        raise EnvelopeError("the PEM has text or line breaks that do not belong")
    return public


def open_envelope(
    data: bytes,
    *,
    payload_type: str,
    keys: Mapping[str, Ed25519PublicKey],
    threshold: int = 1,
    max_bytes: int = MAX_BYTES,
) -> OpenedEnvelope:
    """Verify every signature of an envelope and give its payload.

    Args:
        data: the envelope, which must be the canonical form of itself.
        payload_type: the only type of payload accepted.
        keys: the keys whose signatures count, by `key_id`.
        threshold: how many of them must have signed.
        max_bytes: the longest envelope read.

    Raises:
        EnvelopeError: another spelling, type or set of members; a signature that is unknown, bad,
            repeated or out of order, even beyond the threshold; fewer signatures than that.

    Source: DSSE protocol.md, "Verifying".
    """
    if threshold < 1:
        raise EnvelopeError(f"threshold must be at least 1, got {threshold}")
    # One key under two names would count twice towards the threshold.
    if any(key_id(public) != keyid for keyid, public in keys.items()):
        raise EnvelopeError("a trusted key stands under a key id that is not its own")
    try:
        members = JsonObject.of(parse_canonical(data, max_bytes=max_bytes), "envelope")
        envelope = _read_envelope(members, payload_type)
    except (CanonicalError, ShapeError) as error:
        raise EnvelopeError(str(error)) from error
    for signature in envelope.signatures.values():
        _verify_signature(signature, keys, envelope.pae())
    if len(envelope.signatures) < threshold:
        found = len(envelope.signatures)
        raise EnvelopeError(f"{found} trusted signatures, and {threshold} are needed")
    return OpenedEnvelope(envelope.payload, tuple(envelope.signatures))


def _read_envelope(members: JsonObject, payload_type: str) -> Envelope:
    members.only({"payload", "payloadType", "signatures"})
    if members.text("payloadType") != payload_type:
        raise EnvelopeError(f"the payload type is not {payload_type}")
    signatures = {}
    previous = ""
    for entry in members.objects("signatures"):
        entry.only({"keyid", "sig"})
        keyid = entry.sha256("keyid")
        if keyid <= previous:
            raise EnvelopeError("signatures are not in order of key id, each once")
        signatures[keyid] = Signature(keyid, decode_base64(entry.text("sig")).hex())
        previous = keyid
    return Envelope(decode_base64(members.text("payload")), payload_type, signatures)


def decode_base64(text: str) -> bytes:
    """Read base64 in its one spelling.

    Raises:
        EnvelopeError: another alphabet, padding or spare bits.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError as error:
        raise EnvelopeError("not base64") from error
    # Spare bits before the padding can be set freely; only zero is accepted.
    if base64.b64encode(data).decode("ascii") != text:
        raise EnvelopeError("not canonical base64")
    return data


def _verify_signature(
    signature: Signature, keys: Mapping[str, Ed25519PublicKey], signed: bytes
) -> None:
    public = keys.get(signature.keyid)
    if public is None:
        raise EnvelopeError(f"a signature by key {signature.keyid}, which is not trusted here")
    try:
        SSlibKey.from_crypto(public, keyid=signature.keyid).verify_signature(signature, signed)
    except UnverifiedSignatureError as error:
        raise EnvelopeError(f"the signature by key {signature.keyid} is not valid") from error
