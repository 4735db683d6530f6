"""A reply: a result (update and signed receipt), a mask key, a cosignature, or a refusal (a code). Signed, then sealed.

The receipt is what the artefact keeps for ever: which work was done on whose order, under which
study, at which price in privacy. It carries no count of patients, only a band, and only keyed
digests of cohort and consent.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field, field_validator

from solblom_protocol.errors import REFUSAL_CODES, IntegrityError
from solblom_protocol.messages.message import (
    Digest,
    KeyId,
    Message,
    RoundNumber,
    RunId,
    SiteName,
    frame,
    parse_message,
    unframe,
)
from solblom_protocol.messages.order import NamedRelease, OrderKind
from solblom_protocol.messages.seal import seal, unseal
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.sums.mask_keys import MASK_KEY_PAYLOAD_TYPE, MaskKey, sign_mask_key
from solblom_protocol.sums.mask_setup import DEALT_PAYLOAD_TYPE, SHARE_KEY_PAYLOAD_TYPE
from solblom_protocol.sums.survivors import SURVIVORS_PAYLOAD_TYPE
from solblom_protocol.sums.unmasking import RELEASE_PAYLOAD_TYPE
from solblom_verify.canonical import digest
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

RECEIPT_PAYLOAD_TYPE = "application/vnd.solblom.receipt+json"
REFUSAL_PAYLOAD_TYPE = "application/vnd.solblom.refusal+json"
WITNESSED_PAYLOAD_TYPE = "application/vnd.solblom.witnessed+json"

_BANDS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


BANDS = frozenset(
    [f"0-{_BANDS[0] - 1}", f"{_BANDS[-1]}-", *(f"{a}-{b - 1}" for a, b in pairwise(_BANDS))]
)


def count_band(count: int) -> str:
    """Return the band of a patient count, such as `100-199`: exact counts never leave a hospital."""
    if count < _BANDS[0]:
        return f"0-{_BANDS[0] - 1}"
    for low, high in pairwise(_BANDS):
        if count < high:
            return f"{low}-{high - 1}"
    return f"{_BANDS[-1]}-"


class Receipt(Message):
    """What a node signs about one piece of work.

    Attributes:
        kind: what was done, as in the order.
        work: digest of every input of the update (privacy.md rule 3).
        order: digest of the order that was first answered with this work.
        update: SHA-256 of the bytes that left: an update, or the counts of a release.
        outside_epsilon: names of what left without noise, as the hospital's policy allows.
        event: what the work did to the patients' privacy.
        noise_commitment: commitment to the key of noise and sampling, made before training (rule
        12).
        cohort: keyed digest of the patients and their rows, with a salt of its own.
        consent: keyed digest of the consent state, with a salt of its own.
        patients: band of how many patients the work touched; of families instead, where these are the unit.
        code: digest of the node's installed Solblom code.
    """

    schema_: Literal["solblom.receipt/1"] = Field(alias="schema")
    kind: OrderKind
    site: SiteName
    node: KeyId
    study: Digest
    run: RunId
    round: RoundNumber
    base_model: Digest
    order: Digest
    work: Digest
    update: Digest
    event: dict[str, Any]
    noise_commitment: Digest
    cohort: Digest
    consent: Digest
    patients: str
    code: Digest
    fixed_point_bits: Annotated[int, Field(ge=0, le=40)]  # 0: whole numbers
    outside_epsilon: list[NamedRelease]
    simulation: bool

    @field_validator("patients")
    @classmethod
    def _band(cls, value: str) -> str:
        if value not in BANDS:
            raise ValueError("a patient count leaves a hospital in bands only")
        return value

    def privacy_event(self) -> PrivacyEvent:
        """Return the event, checked."""
        return PrivacyEvent.from_json(self.event)


class Refusal(Message):
    """A node says no. `code` is all that leaves; `order` names what was refused, when it could be read."""

    schema_: Literal["solblom.refusal/1"] = Field(alias="schema")
    site: SiteName
    node: KeyId
    order: Digest | None
    code: str


class Witnessed(Message):
    """What a node answers to an order to witness: a cosignature of the order's checkpoint, as a note's line.

    Attributes:
        order: digest of the order that is answered.
        cosignature: line of a C2SP cosignature/v1, by the site's name and the node's signing key.
    """

    schema_: Literal["solblom.witnessed/1"] = Field(alias="schema")
    site: SiteName
    node: KeyId
    run: RunId
    order: Digest
    cosignature: Annotated[str, Field(max_length=512)]


@dataclass(frozen=True)
class Result:
    """A checked result: the receipt, its signed envelope, and the update's bytes."""

    receipt: Receipt
    envelope: bytes
    update: bytes | memoryview

    @property
    def receipt_digest(self) -> str:
        """SHA-256 of the signed receipt."""
        return digest(self.envelope)


@dataclass(frozen=True)
class KeyReply:
    """A checked answer to an order for keys: what the node signed, and its envelope as it arrived."""

    message: MaskKey
    envelope: bytes


def write_key_reply(
    message: MaskKey, *, key: Ed25519PrivateKey, recipient: X25519PublicKey
) -> bytes:
    """Sign and seal a mask key."""
    return seal(frame(sign_mask_key(message, key), b""), kind="reply", recipient=recipient)


@dataclass(frozen=True)
class MaskReply:
    """A checked answer about masks where hospitals may drop out: which of MASK_REPLIES it is, and its envelope."""

    payload_type: str
    envelope: bytes


@dataclass(frozen=True)
class WitnessReply:
    """A checked answer to an order to witness: what the node signed, and its envelope as it arrived."""

    message: Witnessed
    envelope: bytes


MASK_REPLIES: dict[OrderKind, str] = {
    "keys": SHARE_KEY_PAYLOAD_TYPE,
    "setup": DEALT_PAYLOAD_TYPE,
    "agree": SURVIVORS_PAYLOAD_TYPE,
    "open": RELEASE_PAYLOAD_TYPE,
}
"""What a node signs in answer to each kind of order about masks."""


def seal_mask_reply(envelope: bytes, *, recipient: X25519PublicKey) -> bytes:
    """Seal what a node has signed about masks."""
    return seal(frame(envelope, b""), kind="reply", recipient=recipient)


def write_witnessed(
    message: Witnessed, *, key: Ed25519PrivateKey, recipient: X25519PublicKey
) -> bytes:
    """Sign and seal a cosignature."""
    envelope = sign_envelope(message.payload(), WITNESSED_PAYLOAD_TYPE, [key])
    return seal(frame(envelope, b""), kind="reply", recipient=recipient)


def write_result(
    receipt: Receipt, update: bytes, *, key: Ed25519PrivateKey, recipient: X25519PublicKey
) -> tuple[bytes, str]:
    """Sign the receipt and seal it with its update; return the sealed reply and the receipt's digest."""
    envelope = sign_envelope(receipt.payload(), RECEIPT_PAYLOAD_TYPE, [key])
    sealed = seal(frame(envelope, update), kind="reply", recipient=recipient)
    return sealed, digest(envelope)


def write_refusal(refusal: Refusal, *, key: Ed25519PrivateKey, recipient: X25519PublicKey) -> bytes:
    """Sign and seal a refusal."""
    envelope = sign_envelope(refusal.payload(), REFUSAL_PAYLOAD_TYPE, [key])
    return seal(frame(envelope, b""), kind="reply", recipient=recipient)


def read_reply(
    sealed: bytes, *, key: X25519PrivateKey, node: Ed25519PublicKey
) -> Result | Refusal | KeyReply | MaskReply | WitnessReply:
    """Open a node's reply and check that node's signature.

    Raises:
        IntegrityError: SB-403 not signed by `node`; SB-404 or SB-405 malformed.
    """
    envelope, array = unframe(unseal(sealed, kind="reply", key=key))
    keys = {key_id(node): node}
    try:
        opened = open_envelope(envelope, payload_type=RECEIPT_PAYLOAD_TYPE, keys=keys)
    except EnvelopeError:
        return (
            _read_key(envelope, array, keys)
            or _read_mask_reply(envelope, array, keys)
            or _read_witnessed(envelope, array, keys)
            or _read_refusal(envelope, array, keys)
        )
    receipt = parse_message(Receipt, opened.payload)
    if receipt.node not in keys:
        raise IntegrityError("SB-403", "The receipt names another node than the one that signed it")
    if digest(array) != receipt.update:
        raise IntegrityError("SB-404", "The update is not the one that its receipt names")
    receipt.privacy_event()
    return Result(receipt, envelope, array)


def _read_key(
    envelope: bytes, array: memoryview, keys: dict[str, Ed25519PublicKey]
) -> KeyReply | None:
    """Return a signed mask key; None when the reply is something else."""
    try:
        opened = open_envelope(envelope, payload_type=MASK_KEY_PAYLOAD_TYPE, keys=keys)
    except EnvelopeError:
        return None
    message = parse_message(MaskKey, opened.payload)
    if message.node not in keys or array:
        raise IntegrityError("SB-404", "The mask key names another node, or more came with it")
    return KeyReply(message, envelope)


def _read_mask_reply(
    envelope: bytes, array: memoryview, keys: dict[str, Ed25519PublicKey]
) -> MaskReply | None:
    """Return what a node signed about masks; None when the reply is something else."""
    for payload_type in MASK_REPLIES.values():
        try:
            open_envelope(envelope, payload_type=payload_type, keys=keys)
        except EnvelopeError:
            continue
        if array:
            raise IntegrityError("SB-404", "More came with an answer about masks")
        return MaskReply(payload_type, envelope)
    return None


def _read_witnessed(
    envelope: bytes, array: memoryview, keys: dict[str, Ed25519PublicKey]
) -> WitnessReply | None:
    """Return a signed cosignature; None when the reply is something else."""
    try:
        opened = open_envelope(envelope, payload_type=WITNESSED_PAYLOAD_TYPE, keys=keys)
    except EnvelopeError:
        return None
    message = parse_message(Witnessed, opened.payload)
    if message.node not in keys or array:
        raise IntegrityError("SB-404", "The cosignature names another node, or more came with it")
    return WitnessReply(message, envelope)


def _read_refusal(envelope: bytes, array: memoryview, keys: dict[str, Ed25519PublicKey]) -> Refusal:
    try:
        opened = open_envelope(envelope, payload_type=REFUSAL_PAYLOAD_TYPE, keys=keys)
    except EnvelopeError as error:
        raise IntegrityError("SB-403", f"The reply's signature does not hold: {error}") from None
    refusal = parse_message(Refusal, opened.payload)
    if refusal.node not in keys or array:
        raise IntegrityError("SB-404", "The refusal carries more than a code")
    if refusal.code not in REFUSAL_CODES:
        raise IntegrityError("SB-404", "The refusal carries an unknown code")
    return refusal
