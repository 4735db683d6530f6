"""This hospital as a witness of the coordinator's log: it signs a head only if the log just grew since the last one.

Every order shows the newest signed head of that log, and the proof that it extends the head which this node
remembers (RFC 6962 §2.1.2). The head is remembered on disk before anything is answered, so that two histories
cannot both be shown here, and a history cannot be taken back. What does not hold is refused with one code outside;
inside, the log of decisions says which rule it was, and both checkpoints are kept: together they prove it.
"""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from solblom_client import gate
from solblom_client.clock import pass_clock
from solblom_client.policy import NodeConfig
from solblom_client.service.opening_hours import check_open
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.logs.cosignature import cosign
from solblom_protocol.logs.transparency import (
    Head,
    decoded,
    head_in,
    log_origin,
    read_checkpoint,
    split_note,
    verify_consistency,
)
from solblom_protocol.messages.order import Order, OrderHeader
from solblom_protocol.messages.result import Witnessed
from solblom_verify.envelope import key_id

OUTSIDE_CODE = "SB-221"
PROOF_FILES = {
    "SB-411": "refused-checkpoint.txt",  # two roots of one size: a proof by itself
    "SB-412": "refused-shorter-checkpoint.txt",  # an older head that came late is refused so too
    "SB-413": "refused-unproven-checkpoint.txt",
}
"""Beside the log of decisions: the checkpoint that is remembered, and the first that each rule refused."""


class HistoryError(IntegrityError):
    """The coordinator's log is not the one that this node has seen grow. Outside it is SB-221."""


def checked_head(
    seen: Head | None,
    checkpoint: str | None,
    consistency: Sequence[str],
    *,
    origin: str,
    public: Ed25519PublicKey,
) -> Head | None:
    """Return the head that an order shows, once it is proven to extend the one `seen`; None: neither is there.

    Raises:
        HistoryError: SB-414 nothing is shown after something was; SB-415 the checkpoint is not this log's, not
            signed by the coordinator, or malformed; SB-412 the log is shorter; SB-411 as long, with other
            entries; SB-413 longer, without proof that it only grew.
    """
    if checkpoint is None:
        if seen is None:
            return None
        raise HistoryError("SB-414", f"The order shows no head; the log had {seen.size} entries")
    try:
        head = read_checkpoint(checkpoint, origin, public)
        if split_note(checkpoint)[0].count("\n") != 3:  # nothing is cosigned that is not understood
            raise IntegrityError("SB-405", "The checkpoint says more than its log, size and root")
        proof = [decoded(part) for part in consistency]
    except IntegrityError as error:
        raise HistoryError("SB-415", error.message) from None
    if seen is None or head == seen:
        return head
    if head.size < seen.size:
        raise HistoryError("SB-412", f"The log has {head.size} entries; it had {seen.size}")
    if head.size == seen.size:
        raise HistoryError("SB-411", f"Two histories of {head.size} entries are signed")
    if not verify_consistency(seen, head, proof):  # RFC 9162 §2.1.4.2
        raise HistoryError(
            "SB-413", f"No proof leads from the {seen.size} entries seen to {head.size}"
        )
    return head


class Witness:
    """What a node has seen of its coordinator's log, in the vault's state."""

    def __init__(self, state: VaultState, coordinator: Ed25519PublicKey) -> None:
        self._state, self._public = state, coordinator
        self.origin = log_origin(key_id(coordinator))
        self._key = f"witness:{self.origin}"  # another coordinator has another log

    def _remembered(self) -> str | None:
        rows = self._state.query("SELECT value FROM meta WHERE key = ?", (self._key,))
        return str(rows[0][0]) if rows else None

    def seen(self) -> Head | None:
        """Return the newest head that was seen; None before the first.

        Raises:
            IntegrityError: SB-402, what is remembered is not signed by the coordinator.
        """
        note = self._remembered()
        if note is None:
            return None
        try:
            return read_checkpoint(note, self.origin, self._public)
        except IntegrityError:
            raise IntegrityError(
                "SB-402", "What is remembered of the coordinator's log does not hold"
            ) from None

    def check(self, header: OrderHeader) -> Head | None:
        """Return the head that an order shows where it is a new one; None where there is nothing to remember.

        Raises:
            HistoryError: as `checked_head`.
            IntegrityError: SB-402; SB-406, the proof of two histories cannot be kept.
        """
        seen = self.seen()
        try:
            head = checked_head(
                seen,
                header.checkpoint,
                header.consistency,
                origin=self.origin,
                public=self._public,
            )
        except HistoryError as error:
            self._keep_proof(header.checkpoint, error)
            raise
        return None if head == seen else head

    def remember(self, header: OrderHeader) -> None:
        """Remember the head of an order that was checked; call inside a transaction."""
        self._state.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (self._key, str(header.checkpoint))
        )

    def _keep_proof(self, checkpoint: str | None, error: HistoryError) -> None:
        """Keep the first two signed checkpoints that one rule refused; another rule's do not stand in their way."""
        if error.code not in PROOF_FILES:
            return
        path = proof_file(self._state.folder, error.code)
        if path.exists():
            return
        try:
            write_whole(path, f"{self._remembered()}\n{checkpoint}".encode())
        except OSError as reason:
            raise IntegrityError("SB-406", f"{path.name}: {reason.strerror}") from None


def pass_witness_gate(
    order: Order,
    config: NodeConfig,
    state: VaultState,
    *,
    node: str,
    witness: Witness,
    now: dt.datetime,
) -> bool:
    """Run the checks of an order to witness; return whether this very order was seen before.

    Neither approval nor permit is asked for: a log must be witnessed after a study has ended, too (docs/adr/0015).

    Raises:
        RefusedError: the first rule that says no.
    """
    header, store = order.header, Store(state)
    gate.check_recipient(header, site=config.node.site, node=node)
    check_open(config, now)
    pass_clock(state, now)
    gate.check_order_times(header, now=now, latest=store.latest_time())
    if order.array or header.layout or header.masking or header.round != 1:
        raise RefusedError("SB-202", "An order to witness carries a model or is numbered")
    if header.checkpoint is None:
        raise HistoryError("SB-414", "An order to witness shows no checkpoint")
    history = store.history(order)
    gate.check_chain(header, history)
    if history.seen and head_in(header.checkpoint) != witness.seen():
        # Answered already; a cosignature of today must not stand under a head that was overtaken.
        raise RefusedError("SB-207", "A newer head was seen since this order to witness")
    return history.seen


def cosigned(order: Order, key: Ed25519PrivateKey, *, now: dt.datetime) -> tuple[Witnessed, Head]:
    """Return the answer to an order to witness, and the head that it signs, which was checked and remembered."""
    header = order.header
    note = str(header.checkpoint)
    message = Witnessed(
        schema="solblom.witnessed/1",
        site=header.site,
        node=header.node,
        run=header.run,
        order=order.digest,
        cosignature=cosign(note, header.site, key, time=int(now.timestamp())),
    )
    return message, head_in(note)


def proof_file(state: Path, code: str = "SB-411") -> Path:
    """Return where a node keeps the two checkpoints that a rule refused; SB-411: they cannot both be of one log."""
    return state / "log" / PROOF_FILES[code]
