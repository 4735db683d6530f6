"""The signed list of revoked permits: a file that travels like everything else, so revocation needs no network.

Signed by the permit's own issuer. A list that is missing, unreadable, too old, from the future or older
than one that was seen before stops what depends on it: silence never means "not revoked".
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.message import CLOCK_TOLERANCE, Message
from solblom_protocol.permits.issuer import Issuer, IssuerName
from solblom_protocol.permits.jws import JwsError, open_token, sign_token
from solblom_protocol.permits.permit import Jti, Seconds, moment
from solblom_verify.canonical import CanonicalError, digest, parse_json

REVOCATIONS_TYPE = "revocations+jwt"
MAX_LIST_BYTES = 8 * 1024**2


class RevocationList(Message):
    """The claims of a list. `iat` only grows: a hospital refuses an older list than it has seen."""

    v: Literal[1]
    iss: IssuerName
    iat: Seconds
    revoked: Annotated[tuple[Jti, ...], Field(max_length=100_000)]


@dataclass(frozen=True)
class SignedList:
    """A list whose signature was checked; `digest` names its very bytes."""

    list: RevocationList
    digest: str
    key_id: str


@dataclass(frozen=True)
class SeenList:
    """The newest list of an issuer that this hospital has seen."""

    iat: int
    digest: str


def sign_revocations(revoked: RevocationList, key: Ed25519PrivateKey) -> bytes:
    """Return the token of a list."""
    return sign_token(revoked.payload(), kind=REVOCATIONS_TYPE, key=key)


def open_revocations(data: bytes, issuers: Mapping[str, Issuer]) -> dict[str, SignedList]:
    """Return the lists in a file, one a line, by the key id of their issuer.

    Raises:
        RefusedError: SB-218, one of them cannot be read, is not an issuer's, or an issuer has two.
    """
    found: dict[str, SignedList] = {}
    for token in data.rstrip(b"\n").split(b"\n"):
        opened = _open_list(token, tuple(sorted(issuers.items())))
        if opened.key_id in found:
            raise RefusedError("SB-218", "The revocation file has two lists of one issuer")
        found[opened.key_id] = opened
    return found


@lru_cache(maxsize=16)  # the same bytes under the same keys, before every order
def _open_list(token: bytes, pinned: tuple[tuple[str, Issuer], ...]) -> SignedList:
    issuers = dict(pinned)
    keys = {known: issuer.key for known, issuer in issuers.items()}
    try:
        opened = open_token(token, kind=REVOCATIONS_TYPE, keys=keys, max_bytes=MAX_LIST_BYTES)
        parse_json(opened.payload)
        value = RevocationList.model_validate_json(opened.payload)
    except JwsError as error:
        raise RefusedError("SB-218", f"The revocation list does not hold: {error}") from None
    except (ValidationError, CanonicalError, ValueError):
        raise RefusedError("SB-218", "The revocation list has wrong members") from None
    if value.iss != issuers[opened.key_id].name:
        raise RefusedError("SB-218", "The revocation list names another issuer than its key")
    return SignedList(value, digest(token), opened.key_id)


def check_fresh(
    signed: SignedList, *, max_age_seconds: int, now: dt.datetime, seen: SeenList | None
) -> None:
    """Refuse a list that proves nothing today: from the future, rolled back, or too old.

    Raises:
        RefusedError: SB-218.
    """
    made = signed.list.iat
    if made > (now + CLOCK_TOLERANCE).timestamp():
        raise RefusedError("SB-218", f"The revocation list is from the future: {moment(made)}")
    if seen is not None and (
        made < seen.iat or (made == seen.iat and signed.digest != seen.digest)
    ):
        raise RefusedError(
            "SB-218", f"The revocation list is older than the one of {moment(seen.iat)}, seen here"
        )
    if now.timestamp() - made > max_age_seconds:
        raise RefusedError(
            "SB-218",
            f"The revocation list is of {moment(made)}; it may be {max_age_seconds} seconds old",
        )
