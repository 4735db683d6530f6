"""How a hospital joins a federation: a signed invitation goes out, a signed answer comes back.

Both carry the keys that signed them, so a signature proves only that nothing changed on the way. Who
holds the keys is proved by people: both sides read the other's fingerprint over the phone.
"""

import datetime as dt
import secrets
from base64 import b64decode
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import Field

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.keys.key_files import public_pem, sealing_key_from_pem, signing_key_from_pem
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import (
    Digest,
    Message,
    Model,
    SiteName,
    Timestamp,
    parse_message,
    parse_timestamp,
    timestamp,
)
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import digest, parse_canonical
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

INVITE_PAYLOAD_TYPE = "application/vnd.solblom.invite+json"
JOIN_PAYLOAD_TYPE = "application/vnd.solblom.join+json"
MAX_BYTES = 64 * 1024

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Url = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:\[\]-]{1,253}$")]


class Invite(Message):
    """What a coordinator gives a hospital: who it is, and for which site."""

    schema_: Literal["solblom.invite/1"] = Field(alias="schema")
    site: SiteName
    coordinator: SiteName
    signing_key: str
    sealing_key: str
    url: Url | None  # where the coordinator answers; None: rounds by file only
    certificates: str | None  # PEM of the authority that its certificate must come from
    nonce: Nonce
    issued: Timestamp
    expires: Timestamp

    @property
    def keys(self) -> PublicKeys:
        """The coordinator's public keys."""
        return _keys(self.coordinator, self.signing_key, self.sealing_key)


class JoinAnswer(Message):
    """What the hospital answers: its own public keys. Private keys were born there and stay there."""

    schema_: Literal["solblom.join/1"] = Field(alias="schema")
    site: SiteName
    signing_key: str
    sealing_key: str
    transport_key: (
        str  # PEM, EC P-256: Flower's node key, transport only, certified by this signature
    )
    invite: Digest
    issued: Timestamp

    @property
    def keys(self) -> PublicKeys:
        """The node's public keys."""
        return _keys(self.site, self.signing_key, self.sealing_key)


@dataclass(frozen=True)
class OpenedInvite:
    """An invitation whose signature holds, and the digest by which an answer names it."""

    invite: Invite
    digest: str


@dataclass(frozen=True)
class Address:
    """Where a coordinator answers, and the PEM certificates of the authority to believe there."""

    url: str
    certificates: str


@dataclass(frozen=True)
class EnrolledNode:
    """What an answer brings: the node's keys, and its transport key as PEM."""

    keys: PublicKeys
    transport_key: str


def write_invite(
    site: str,
    coordinator: PublicKeys,
    key: Ed25519PrivateKey,
    *,
    address: Address | None = None,
    now: dt.datetime,
    days: int,
) -> bytes:
    """Return a signed invitation for one site, valid for some days; `address` None: rounds by file only."""
    invite = Invite(
        schema="solblom.invite/1",
        site=site,
        coordinator=coordinator.name,
        signing_key=public_pem(coordinator.signing),
        sealing_key=public_pem(coordinator.sealing),
        url=None if address is None else address.url,
        certificates=None if address is None else address.certificates,
        nonce=secrets.token_hex(16),
        issued=timestamp(now),
        expires=timestamp(now + dt.timedelta(days=days)),
    )
    return sign_envelope(invite.payload(), INVITE_PAYLOAD_TYPE, [key])


def open_invite(envelope: bytes, *, now: dt.datetime) -> OpenedInvite:
    """Return an invitation; says nothing about who holds its key.

    Raises:
        IntegrityError: SB-603, malformed, changed, or expired.
    """
    invite = _open(Invite, envelope, INVITE_PAYLOAD_TYPE)
    if now > parse_timestamp(invite.expires):
        raise IntegrityError("SB-603", f"The invitation expired at {invite.expires}")
    return OpenedInvite(invite, digest(envelope))


def write_answer(
    opened: OpenedInvite,
    node: PublicKeys,
    key: Ed25519PrivateKey,
    *,
    transport_key: str,
    now: dt.datetime,
) -> bytes:
    """Return the hospital's signed answer.

    Raises:
        IntegrityError: SB-603, the invitation is for another site.
    """
    if opened.invite.site != node.name:
        raise IntegrityError(
            "SB-603", f"The invitation is for the site {opened.invite.site}; this is {node.name}"
        )
    answer = JoinAnswer(
        schema="solblom.join/1",
        site=node.name,
        signing_key=public_pem(node.signing),
        sealing_key=public_pem(node.sealing),
        transport_key=transport_key,
        invite=opened.digest,
        issued=timestamp(now),
    )
    return sign_envelope(answer.payload(), JOIN_PAYLOAD_TYPE, [key])


def open_answer(envelope: bytes, invite: bytes, *, now: dt.datetime) -> EnrolledNode:
    """Return the public keys of the hospital that answered this invitation.

    Raises:
        IntegrityError: SB-603, malformed, changed, for another invitation or site, or too late.
    """
    opened, answer = open_invite(invite, now=now), _open(JoinAnswer, envelope, JOIN_PAYLOAD_TYPE)
    if answer.invite != opened.digest or answer.site != opened.invite.site:
        raise IntegrityError("SB-603", "The answer is to another invitation")
    check_transport_key(answer.transport_key)
    return EnrolledNode(answer.keys, answer.transport_key)


def check_transport_key(pem: str) -> None:
    """Refuse what is no EC P-256 public key: Flower takes NIST curves only.

    Raises:
        IntegrityError: SB-603.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise IntegrityError("SB-603", "The answer's transport key is no EC P-256 public key")


def answered_site(envelope: bytes) -> str:
    """Return the site that an answer speaks for, to find its invitation.

    Raises:
        IntegrityError: SB-603.
    """
    return _open(JoinAnswer, envelope, JOIN_PAYLOAD_TYPE).site


def _open(kind: type[Model], envelope: bytes, payload_type: str) -> Model:
    """Return the message in an envelope that is signed by the key inside it.

    Raises:
        IntegrityError: SB-603.
    """
    if len(envelope) > MAX_BYTES:
        raise IntegrityError("SB-603", f"The file has {len(envelope)} bytes, over {MAX_BYTES}")
    try:
        outer = parse_canonical(envelope)
        payload = (
            b64decode(str(outer["payload"]), validate=True) if isinstance(outer, dict) else b""
        )
        message = parse_message(kind, payload)
        key = signing_key_from_pem(str(message.signing_key), source="key")  # type: ignore[attr-defined]
        open_envelope(envelope, payload_type=payload_type, keys={key_id(key): key})
    except (ValueError, KeyError, EnvelopeError, IntegrityError, ConfigurationError):
        raise IntegrityError(
            "SB-603", f"The file is no {kind.__name__} signed by the key inside it"
        ) from None
    return message


def _keys(name: str, signing: str, sealing: str) -> PublicKeys:
    return PublicKeys(
        name,
        signing_key_from_pem(signing, source=name),
        sealing_key_from_pem(sealing, source=name),
    )
