"""A hospital's notice of which runs withdrawals have touched: signed, sealed, and of one size whatever it says.

It lists every run to which the hospital gave an update, with yes or no. It names no patient, and carries no
count. Once yes, always yes: a second withdrawal changes nothing (privacy.md rule 13).
"""

from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.message import (
    Digest,
    KeyId,
    Message,
    RunId,
    SiteName,
    Timestamp,
    frame,
    parse_message,
    unframe,
)
from solblom_protocol.messages.seal import seal, unseal
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

NOTICE_PAYLOAD_TYPE = "application/vnd.solblom.withdrawal-notice+json"
BLOCK_BYTES = 4096  # a payload fills whole blocks


class NoticedRun(Message):
    """A run, and whether somebody whose data it used has withdrawn. 1 and 0 take the same room."""

    study: Digest
    run: RunId
    affected: Literal[0, 1]


class WithdrawalNotice(Message):
    """What a node signs.

    Attributes:
        issued: the day, at 00:00: an hour would say more about when somebody withdrew.
        runs: every run to which this node gave an update, sorted.
        padding: spaces.
    """

    schema_: Literal["solblom.withdrawal-notice/1"] = Field(alias="schema")
    site: SiteName
    node: KeyId
    issued: Timestamp
    runs: list[NoticedRun]
    padding: str = Field(pattern=r"^ *$")


def write_notice(
    notice: WithdrawalNotice, *, key: Ed25519PrivateKey, recipient: X25519PublicKey
) -> bytes:
    """Pad, sign and seal a notice."""
    short = notice.model_copy(update={"padding": ""})
    missing = -len(short.payload()) % BLOCK_BYTES
    padded = notice.model_copy(update={"padding": " " * missing})
    envelope = sign_envelope(padded.payload(), NOTICE_PAYLOAD_TYPE, [key])
    return seal(frame(envelope, b""), kind="reply", recipient=recipient)


def read_notice(
    sealed: bytes, *, key: X25519PrivateKey, node: Ed25519PublicKey
) -> WithdrawalNotice:
    """Open a node's notice as the coordinator and check its signature.

    Raises:
        IntegrityError: SB-403 not signed by `node`; SB-404 or SB-405 malformed.
    """
    envelope, rest = unframe(unseal(sealed, kind="reply", key=key))
    keys = {key_id(node): node}
    try:
        opened = open_envelope(envelope, payload_type=NOTICE_PAYLOAD_TYPE, keys=keys)
    except EnvelopeError as error:
        raise IntegrityError("SB-403", f"The notice's signature does not hold: {error}") from None
    notice = parse_message(WithdrawalNotice, opened.payload)
    if notice.node not in keys or rest:
        raise IntegrityError("SB-404", "The notice names another node, or more came with it")
    return notice
