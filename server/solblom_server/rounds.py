"""The round loop: open, order, collect, fold, close. Each step stands in the database before it happens.

Whatever dies, the run resumes at its open round: nodes are asked again with a new attempt and
answer with the same bytes. Uses Grid's `push_messages` and `pull_messages`; Flower's
`Strategy.start()` would hold every reply.
"""

import datetime as dt
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from solblom_models.flat import flatten, layout_of
from solblom_models.task import find_task
from solblom_protocol.errors import IntegrityError, RunError
from solblom_protocol.layout import Layout, pack, unpack
from solblom_protocol.messages import timestamp
from solblom_protocol.order import OrderHeader, RosterEntry, write_order
from solblom_protocol.public_keys import PublicKeys
from solblom_protocol.result import Receipt, Refusal, Result, read_reply
from solblom_protocol.study import StudyDocument
from solblom_server.aggregation import Fold
from solblom_server.checkpoints import read_checkpoint, write_checkpoint
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database, ReplyRow
from solblom_server.optimisers import ServerState, step
from solblom_verify.canonical import canonical_json, digest

MAX_ATTEMPTS = 3
POLL_SECONDS = 0.2

Progress = Callable[[int, int, str], None]
"""Called with (round, rounds, what happened)."""

PROGRESS: ContextVar[Progress] = ContextVar("PROGRESS", default=lambda number, rounds, text: None)


def utc_now() -> dt.datetime:
    """Return the present moment in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class RunContext:
    """Everything a run needs, fixed before its first round."""

    grid: Grid
    coordinator: Coordinator
    database: Database
    run: str
    document: StudyDocument
    nodes: dict[str, PublicKeys]  # by site
    addresses: dict[str, int]  # Flower node id by site
    layout: Layout
    folder: Path
    clock: Callable[[], dt.datetime] = utc_now

    @property
    def roster(self) -> list[RosterEntry]:
        """All nodes of the run, sorted by site."""
        return [RosterEntry(site=s, node=self.nodes[s].key_id) for s in sorted(self.nodes)]


@dataclass
class _Collection:
    """Replies of one round while they arrive."""

    fold: Fold
    opened: float
    waiting: dict[str, str] = field(default_factory=dict)  # message id → site
    attempts: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    invalid: dict[str, str] = field(default_factory=dict)  # code of a site's last unreadable reply


def initial_model(document: StudyDocument) -> tuple[bytes, Layout]:
    """Return the weights before round 1 and their layout, from the public seed."""
    task = find_task(document.study.task.name)
    model = task.build(document)
    layout = layout_of(model, local=task.local_parameters)
    return flatten(model, layout), layout


def run_rounds(context: RunContext) -> ServerState:
    """Run all rounds that are not closed yet and return the final state.

    Raises:
        RunError: SB-501, fewer results than the quorum; the run can be resumed.
    """
    state, start = _resume(context)
    rounds = context.document.study.training.rounds
    for number in range(start, rounds + 1):
        model = pack([state.model])
        context.database.open_round(context.run, number, digest(model), now=context.clock())
        collection = _collect(context, number, model)
        _check_quorum(context, number, collection)
        training = context.document.study.training
        state = step(state, collection.fold.mean(), training, round_number=number)
        write_checkpoint(context.folder / "checkpoints", number, state)
        result = digest(pack([state.model]))
        context.database.close_round(context.run, number, result, now=context.clock())
        PROGRESS.get()(number, rounds, f"{collection.fold.count} of {len(context.nodes)} hospitals")
    return state


def _resume(context: RunContext) -> tuple[ServerState, int]:
    closed = [r.round for r in context.database.rounds(context.run) if r.status == "closed"]
    folder = context.folder / "checkpoints"
    if closed:
        return read_checkpoint(folder, closed[-1]), closed[-1] + 1
    initial, layout = initial_model(context.document)
    state = ServerState.initial(unpack(initial, layout).copy())
    write_checkpoint(folder, 0, state)
    return state, 1


def _collect(context: RunContext, number: int, model: bytes) -> _Collection:
    """Ask every node and fold each result as it arrives, until all have answered or the deadline has passed."""
    collection = _Collection(Fold(context.layout.size), time.monotonic())
    deadline = collection.opened + 60 * context.document.study.cohort.deadline_minutes
    _ask(context, number, model, collection, sorted(context.nodes))
    while collection.waiting and time.monotonic() < deadline:
        unanswered = _pull(context, number, model, collection)
        again = [s for s in unanswered if collection.attempts[s] < MAX_ATTEMPTS]
        if again:
            _ask(context, number, model, collection, again)
        if collection.waiting:
            time.sleep(POLL_SECONDS)
    return collection


def _ask(
    context: RunContext, number: int, model: bytes, collection: _Collection, sites: list[str]
) -> None:
    for site in sites:
        message = _order_message(context, number, model, site, collection)
        for message_id in context.grid.push_messages([message]):
            collection.waiting[message_id] = site


def _order_message(
    context: RunContext, number: int, model: bytes, site: str, collection: _Collection
) -> Message:
    """Write one order into the database, then return it as a Flower message."""
    now, node = context.clock(), context.nodes[site]
    attempt = context.database.next_attempt(context.run, number, site)
    previous, receipt = context.database.last_answered(context.run, site)
    header = OrderHeader(
        schema="solblom.order/1",
        kind="train",
        coordinator=context.coordinator.public.key_id,
        site=site,
        node=node.key_id,
        study=context.document.digest,
        run=context.run,
        round=number,
        attempt=attempt,
        issued=timestamp(now),
        expires=timestamp(
            now + dt.timedelta(minutes=context.document.study.cohort.deadline_minutes)
        ),
        base_model=digest(model),
        layout=context.layout.to_json(),
        roster=context.roster,
        noise=context.document.study.privacy.noise,
        previous_order=previous,
        last_receipt=receipt,
    )
    order = write_order(header, model, key=context.coordinator.signing, recipient=node.sealing)
    context.database.add_order(order.digest, context.run, number, site, attempt, now=now)
    collection.attempts[site] = collection.attempts.get(site, 0) + 1
    array = Array(
        dtype="uint8", shape=(len(order.sealed),), stype="solblom.sealed", data=order.sealed
    )
    content = RecordDict({"solblom": ArrayRecord({"sealed": array})})
    return context.grid.create_message(content, "train", context.addresses[site], str(number))


def _pull(context: RunContext, number: int, model: bytes, collection: _Collection) -> list[str]:
    """Take in what has arrived; return the sites whose message was lost."""
    lost: list[str] = []
    for reply in context.grid.pull_messages(list(collection.waiting)):
        site = collection.waiting.pop(reply.metadata.reply_to_message_id, None)
        if site is None or site in collection.done:
            continue
        sealed = _sealed_bytes(reply)
        if sealed is None:
            lost.append(site)
            continue
        if not _take_in(context, number, model, collection, site, sealed):
            lost.append(site)
    return lost


def _sealed_bytes(reply: Message) -> bytes | None:
    """Return what a node sent; None for an error of the courier, or a message without a reply."""
    if reply.has_error():
        return None
    try:
        return bytes(reply.content.array_records["solblom"]["sealed"].data)
    except KeyError:
        return None


def _take_in(
    context: RunContext,
    number: int,
    model: bytes,
    collection: _Collection,
    site: str,
    sealed: bytes,
) -> bool:
    """Check one reply and fold it; False when its bytes are not this node's answer to this round.

    Bytes that a courier changed, or an old refusal played again, count as lost: the node is asked
    again. Otherwise anybody on the way could end a hospital's round.
    """
    seconds = time.monotonic() - collection.opened
    try:
        reply = read_reply(
            sealed, key=context.coordinator.sealing, node=context.nodes[site].signing
        )
        if isinstance(reply, Refusal):
            if reply.order is not None and not context.database.is_order(
                reply.order, context.run, number, site
            ):
                raise IntegrityError("SB-404", "The refusal answers another order")
            collection.done.add(site)
            collection.refusals[site] = reply.code
            row = _reply_row(context, number, site, "refusal", seconds, code=reply.code)
            context.database.add_reply(context.run, row)
            return True
        _check_result(context, number, model, site, reply.receipt)
        event = canonical_json(reply.receipt.event).decode()
        context.database.add_charge(context.run, number, site, reply.receipt.work, event)
        collection.fold.add(unpack(reply.update, context.layout).astype(np.float32))
    except IntegrityError as error:
        collection.invalid[site] = error.code
        row = _reply_row(context, number, site, "invalid", seconds, code=error.code)
        context.database.add_reply(context.run, row)
        return False
    collection.done.add(site)
    row = _reply_row(context, number, site, "result", seconds, result=reply)
    context.database.add_reply(context.run, row)
    return True


def _check_result(
    context: RunContext, number: int, model: bytes, site: str, receipt: Receipt
) -> None:
    """Refuse a receipt that is not about what was asked.

    Raises:
        IntegrityError: SB-404.
    """
    expected = {
        "site": site,
        "run": context.run,
        "round": number,
        "study": context.document.digest,
        "base_model": digest(model),
        "event": context.document.round_event.to_json(),
    }
    for name, value in expected.items():
        if getattr(receipt, name) != value:
            raise IntegrityError("SB-404", f"The receipt's {name} is not what was ordered")
    if not context.database.is_order(receipt.order, context.run, number, site):
        raise IntegrityError("SB-404", "The receipt answers an order that was never issued")


def _reply_row(
    context: RunContext,
    number: int,
    site: str,
    kind: str,
    seconds: float,
    *,
    code: str | None = None,
    result: Result | None = None,
) -> ReplyRow:
    return ReplyRow(
        round=number,
        site=site,
        order_digest="" if result is None else result.receipt.order,
        kind=kind,
        code=code,
        receipt=None if result is None else result.receipt_digest,
        envelope=None if result is None else result.envelope,
        arrived=timestamp(context.clock()),
        seconds=round(seconds, 3),
    )


def _check_quorum(context: RunContext, number: int, collection: _Collection) -> None:
    quorum = context.document.study.cohort.quorum
    if collection.fold.count >= quorum:
        return
    silent = sorted(set(context.nodes) - collection.done)
    reasons = [f"{site} refused ({code})" for site, code in sorted(collection.refusals.items())]
    reasons += [
        f"{site} sent no valid reply ({collection.invalid[site]})"
        if site in collection.invalid
        else f"{site} did not answer"
        for site in silent
    ]
    raise RunError(
        "SB-501",
        f"Round {number}: {collection.fold.count} of {len(context.nodes)} hospitals gave an update, "
        f"and the quorum is {quorum}: {', '.join(reasons)}",
        _hint(collection.refusals),
    )


def _hint(refusals: dict[str, str]) -> str | None:
    if not refusals:
        return None
    return (
        "Ask the hospitals named; each one's own log says why. "
        "docs/reference/errors.md explains the codes"
    )
