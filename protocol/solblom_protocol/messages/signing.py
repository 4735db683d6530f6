"""Signing: DSSE envelopes with Ed25519, in the one spelling that `solblom_verify.envelope` accepts.

Signing stands here and not in the verifier, whose readers need only what checks.
"""

from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import (  # type: ignore[attr-defined]  # public, not in __all__
    CryptoSigner,
    SSlibKey,
)

from solblom_verify.canonical import canonical_json, parse_canonical
from solblom_verify.envelope import EnvelopeError, decode_base64, key_id


def sign_envelope(payload: bytes, payload_type: str, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Sign `payload` with every key and give the canonical bytes of the envelope.

    Raises:
        EnvelopeError: no payload, no key, or one key given twice.

    Source: DSSE protocol.md, "Signing".
    """
    signers = {key_id(key.public_key()): key for key in keys}
    if not payload or not keys or len(signers) != len(keys):
        raise EnvelopeError("signing needs a payload and at least one key, each key once")
    envelope = Envelope(payload, payload_type, {})
    for keyid, key in sorted(signers.items()):
        # securesystemslib has a key id rule of its own; ours is passed in.
        envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=keyid)))
    return canonical_json(envelope.to_dict())


def add_signature(envelope: bytes, key: Ed25519PrivateKey) -> bytes:
    """Give the envelope with one more signature; the same bytes if the key has signed it already.

    Whoever calls has verified the envelope.

    Raises:
        EnvelopeError: the bytes are no envelope.
    """
    try:
        members: Any = parse_canonical(envelope)
        payload = decode_base64(members["payload"])
        added: Any = parse_canonical(sign_envelope(payload, members["payloadType"], [key]))
        signatures = {
            entry["keyid"]: entry for entry in added["signatures"] + members["signatures"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise EnvelopeError("not an envelope that can be signed") from error
    return canonical_json(members | {"signatures": [signatures[i] for i in sorted(signatures)]})
