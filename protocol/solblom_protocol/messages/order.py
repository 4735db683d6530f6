"""An order: the coordinator asks one node for one update or one release. Signed, then sealed to that node.

The order repeats nothing of the study except its digest: the node trains with the settings that its
own people approved. The array beside the header is the global model, locked once for all nodes of the
round; its key is sealed to each beside the header.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.logs.transparency import MAX_NOTE_BYTES
from solblom_protocol.messages.message import (
    Digest,
    KeyId,
    Message,
    RoundNumber,
    RunId,
    SiteName,
    Timestamp,
    frame,
    parse_exact,
    parse_timestamp,
    unframe,
)
from solblom_protocol.messages.seal import (
    LockedArray,
    seal_head,
    split_body,
    unlock,
    unseal,
)
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import digest
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

ORDER_PAYLOAD_TYPE = "application/vnd.solblom.order+json"


OrderKind = Literal["keys", "setup", "train", "evaluate", "describe", "agree", "open", "witness"]
"""What is asked.

An update, a score histogram of a model on the test patients, or Table 1. With shared noise also a key for
the masks of a run; where hospitals may drop out, the setup of a sum's masks, a signature on whose vectors a
sum has, and the shares that open it. After a run, a cosignature of the head of the coordinator's log.
"""

MAX_PROOF_HASHES = 128
"""In a consistency proof: twice the height of a tree that no log outgrows (2^53 entries)."""

NamedRelease = Literal["site-auroc"]
"""What may leave without noise where study and policy both name it; printed as outside epsilon."""


class RosterEntry(Message):
    """A hospital that takes part in the run, by name and signing key."""

    site: SiteName
    node: KeyId


class OrderHeader(Message):
    """What the coordinator asks and signs.

    Attributes:
        study: digest of the signed study.
        round: number of the round, of the release, or 1 for Table 1: each kind is numbered from 1.
        base_model: SHA-256 of the array beside the header; Table 1 needs none, the array is empty.
        layout: names and shapes in that array; the update must have the same.
        roster: all nodes of the run, sorted by site.
        previous_order: digest of the last order that this node answered, as far as the coordinator
        knows.
        masking: what other hospitals signed for the masks, as text. All or nothing: each one's mask
        key, in the roster's order. With dropouts: share keys for a setup, setups for a vector, the
        survivor set to be signed, or that set and its signatures. An order for keys has none.
        last_receipt: digest of this node's newest receipt, as far as the coordinator knows; an
        unknown one means that the node's state was rolled back.
        checkpoint: signed head of the coordinator's log, as a C2SP signed note; once a node has seen
        one, every order has one.
        consistency: base64 hashes which prove that the log only grew since the head that this node is
        known to have seen; empty where there is none.
    """

    schema_: Literal["solblom.order/1"] = Field(alias="schema")
    kind: OrderKind
    coordinator: KeyId
    site: SiteName
    node: KeyId
    study: Digest
    run: RunId
    round: RoundNumber
    attempt: RoundNumber
    issued: Timestamp
    expires: Timestamp
    base_model: Digest
    layout: list[dict[str, Any]]
    roster: list[RosterEntry]
    noise: Literal["local", "shared"]
    previous_order: Digest | None
    last_receipt: Digest | None
    masking: tuple[str, ...]
    checkpoint: Annotated[str, Field(max_length=MAX_NOTE_BYTES)] | None = None
    consistency: Annotated[tuple[str, ...], Field(max_length=MAX_PROOF_HASHES)] = ()


@dataclass(frozen=True)
class Order:
    """An order whose signature was checked: header, digest of its envelope, and the model's bytes."""

    header: OrderHeader
    digest: str
    array: bytes


@dataclass(frozen=True)
class SealedOrder:
    """An order ready for a courier.

    Attributes:
        digest: names the signed envelope inside.
        head: what is sealed to this node alone.
        body: the locked model, the same for all nodes of the round.
    """

    digest: str
    head: bytes
    body: bytes | memoryview

    @property
    def sealed(self) -> bytes:
        """The bytes that travel, in one piece."""
        return b"".join((self.head, self.body))


def write_order(
    header: OrderHeader, array: LockedArray, *, key: Ed25519PrivateKey, recipient: X25519PublicKey
) -> SealedOrder:
    """Sign the header and seal it, with the key of its array, to the node."""
    envelope = sign_envelope(header.payload(), ORDER_PAYLOAD_TYPE, [key])
    return seal_order(envelope, array, recipient=recipient)


def seal_order(envelope: bytes, array: LockedArray, *, recipient: X25519PublicKey) -> SealedOrder:
    """Return a signed envelope and the array's key sealed to the node, and the locked array behind them."""
    head = seal_head(
        frame(envelope, array.key), kind="order", recipient=recipient, body=len(array.ciphertext)
    )
    return SealedOrder(digest(envelope), head, array.ciphertext)


def read_order(sealed: bytes, *, key: X25519PrivateKey, coordinator: Ed25519PublicKey) -> Order:
    """Open a sealed order and check the pinned coordinator's signature.

    Raises:
        RefusedError: SB-202 not a readable order for this key; SB-201 not the pinned coordinator's
        signature.
    """
    try:
        envelope, array_key = unframe(unseal(sealed, kind="order", key=key))
    except IntegrityError as error:
        raise RefusedError("SB-202", error.message) from None
    signer = key_id(coordinator)
    try:
        opened = open_envelope(
            envelope, payload_type=ORDER_PAYLOAD_TYPE, keys={signer: coordinator}
        )
    except EnvelopeError as error:
        raise RefusedError("SB-201", f"The order's signature does not hold: {error}") from None
    try:
        header = parse_exact(OrderHeader, opened.payload)
        parse_timestamp(header.issued)
        parse_timestamp(header.expires)
    except IntegrityError as error:
        raise RefusedError("SB-202", error.message) from None
    if header.coordinator != signer:
        raise RefusedError("SB-201", "The order names another coordinator than the pinned one")
    try:
        array = unlock(LockedArray(bytes(array_key), split_body(sealed)[1]))
    except IntegrityError as error:
        raise RefusedError("SB-202", error.message) from None
    if digest(array) != header.base_model:
        raise RefusedError("SB-202", "The order's array is not the model that its header names")
    return Order(header, digest(envelope), array)
