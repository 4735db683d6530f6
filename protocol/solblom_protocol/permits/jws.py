"""Compact JWS (RFC 7515) with Ed25519, in exactly one spelling: for permits and lists of revoked permits.

A reader of JWS that takes the algorithm from the token has been fooled in many ways (RFC 8725, section 2.1). Here
algorithm, type and key are fixed by the reader; every other header, spelling or member is refused
before a signature is looked at.
"""

import base64
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey

from solblom_verify.canonical import CanonicalError, parse_json
from solblom_verify.envelope import key_id

ALGORITHM = "Ed25519"  # RFC 9864, fully specified
ACCEPTED = ("Ed25519", "EdDSA")  # EdDSA: older issuers; the pinned key says which curve is meant
HEADER_MEMBERS = {"alg", "typ", "kid"}  # no jwk, jku, x5c, crit, b64: a token never brings its key
MAX_HEADER_BYTES = 1024


class JwsError(ValueError):
    """A token is not acceptable, for the reason given."""


@dataclass(frozen=True)
class OpenedToken:
    """What a token holds once its signature is verified, and the id of the key that signed it."""

    payload: bytes
    key_id: str


def sign_token(payload: bytes, *, kind: str, key: Ed25519PrivateKey) -> bytes:
    """Return the compact JWS of a payload; `kind` is the header's `typ`."""
    header = {"alg": ALGORITHM, "typ": kind, "kid": key_id(key.public_key())}
    signer = OKPKey(key, key)
    return jws.serialize_compact(header, payload, signer, algorithms=[ALGORITHM]).encode()


def open_token(
    token: bytes, *, kind: str, keys: Mapping[str, Ed25519PublicKey], max_bytes: int
) -> OpenedToken:
    """Return the payload of a token signed by one of `keys` (key id → key).

    Raises:
        JwsError: too large, another spelling, algorithm, type or member, an unknown key, or a
            signature that is not valid.
    """
    if len(token) > max_bytes:
        raise JwsError(f"{len(token)} bytes, and {max_bytes} are allowed")
    parts = token.split(b".")
    if len(parts) != 3:
        raise JwsError("not a compact JWS")
    header_part, payload_part, signature_part = parts
    header = _read_header(_decode(header_part))
    payload = _decode(payload_part)
    _decode(signature_part)
    if header["alg"] not in ACCEPTED:  # RFC 8725, section 3.1: never `none`, never a MAC
        raise JwsError("the algorithm is not Ed25519")
    if header["typ"] != kind:  # RFC 8725, section 3.11: no token of one kind passes for another
        raise JwsError(f"the type is not {kind}")
    public = keys.get(header["kid"])
    if public is None or key_id(public) != header["kid"]:
        raise JwsError("signed by a key that is not pinned here")
    _verify(token, public)
    return OpenedToken(payload, header["kid"])


def _verify(token: bytes, public: Ed25519PublicKey) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # that EdDSA is the older name
            jws.deserialize_compact(token, OKPKey(public, public), algorithms=list(ACCEPTED))
    except (JoseError, ValueError, TypeError):
        raise JwsError("the signature is not valid") from None


def _read_header(data: bytes) -> dict[str, str]:
    try:
        value: Any = parse_json(data, max_bytes=MAX_HEADER_BYTES)
    except CanonicalError as error:
        raise JwsError(f"the header is not JSON: {error}") from None
    if not isinstance(value, dict) or set(value) != HEADER_MEMBERS:
        raise JwsError("the header has other members than alg, typ and kid")
    if not all(isinstance(text, str) for text in value.values()):
        raise JwsError("the header has a member that is no text")
    return value


def _decode(part: bytes) -> bytes:
    """Return the bytes of a part; spare bits, padding and other alphabets are refused.

    Source: RFC 7515, section 2 (base64url without padding).
    """
    try:
        data = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise JwsError("not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise JwsError("not base64url in its one spelling")
    return data
