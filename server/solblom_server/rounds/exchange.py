"""One exchange: ask every node the same thing, collect what they answer, lose nothing and nobody by name.

Each order stands in the database before it is sent. Whatever dies, nodes are asked again with a new
attempt and answer with the same bytes. Uses Grid's `push_messages` and `pull_messages`; Flower's
`Strategy.start()` would hold every reply.
"""

import base64
import datetime as dt
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict

from solblom_protocol.errors import CODES, IntegrityError, RunError
from solblom_protocol.messages.flower import SMALL_BYTES
from solblom_protocol.messages.mailbox import content_name
from solblom_protocol.messages.message import parse_timestamp, timestamp
from solblom_protocol.messages.order import OrderHeader, write_order
from solblom_protocol.messages.result import (
    MASK_REPLIES,
    KeyReply,
    MaskReply,
    Refusal,
    Result,
    WitnessReply,
    read_reply,
)
from solblom_server.database import ReplyRow
from solblom_server.log.entries import NOT_YET, LogEntry, answer
from solblom_server.log.transparency_log import Shown
from solblom_server.rounds.reply_checks import check_key, check_result, reply_row, take_cosignature
from solblom_server.rounds.run_context import Question as Question
from solblom_server.rounds.run_context import RunContext as RunContext
from solblom_server.rounds.run_context import utc_now as utc_now
from solblom_server.transports.grids.courier import KeepsOrders
from solblom_server.transports.grids.sealed import sealed_bytes, sealed_content, shared_content
from solblom_verify.canonical import canonical_json
from solblom_verify.wording import counted

MAX_ATTEMPTS = 3
OTHER_LOG = "SB-221"
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 5.0, 120.0
"""How long a hospital that has not said yes or no is left in peace before it is asked again."""
MOST_RESTS = (
    2000  # in one exchange, however far its deadline: each is an order with a number of its own
)
POLL_SECONDS = 0.2
TITLES = {
    "keys": "Key exchange",
    "setup": "Mask setup",
    "agree": "Survivors",
    "open": "Opening",
    "train": "Round",
    "evaluate": "Evaluation",
    "describe": "Table",
    "witness": "Witnessing",
}


@dataclass
class Collection:
    """Replies of one exchange while they arrive."""

    opened: float
    to_ask: deque[str] = field(default_factory=deque)  # sites, each once
    waiting: dict[str, str] = field(default_factory=dict)  # message id → site
    attempts: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    invalid: dict[str, str] = field(default_factory=dict)  # code of a site's last unreadable reply
    resting: dict[str, float] = field(
        default_factory=dict
    )  # not yet: site → when it is asked again
    rested: dict[str, float] = field(default_factory=dict)  # site → how long the last rest was
    longest_rest: float = LONGEST_REST_SECONDS
    heads: dict[str, int] = field(
        default_factory=dict
    )  # order → head of the log that it showed, by its size
    logged: list[LogEntry] = field(
        default_factory=list
    )  # what is to be logged of the replies at hand
    seen: dict[str, int] = field(default_factory=dict)  # site → newest head that it has answered to

    @property
    def unfinished(self) -> bool:
        """Whether somebody may still answer."""
        return bool(self.waiting or self.to_ask or self.resting)

    def rest(self, site: str) -> None:
        """Leave a hospital in peace for a while, each time longer; it counts as no attempt."""
        seconds = min(2 * self.rested.get(site, FIRST_REST_SECONDS / 2), self.longest_rest)
        self.rested[site] = seconds
        self.resting[site] = time.monotonic() + seconds
        self.attempts[site] -= 1

    def wake(self) -> None:
        """Ask those again whose rest is over."""
        now = time.monotonic()
        due = [site for site, ends in self.resting.items() if now >= ends]
        for site in due:
            del self.resting[site]
        self.to_ask += due


def collect(
    context: RunContext,
    question: Question,
    sites: list[str],
    *,
    until: Callable[[set[str]], bool] = lambda answered: False,
    enough: int | None = None,
    patience: float | None = None,
) -> Collection:
    """Ask these nodes and take each result as it arrives, until all have answered or the deadline has passed.

    `until` ends it earlier: it is asked with the sites whose results are here. So does the `enough`-th
    result: more would change nothing. `patience` is the deadline in seconds where it is not the study's.
    """
    collection = Collection(time.monotonic(), deque(sites))
    context.log.show(sites, at=question.head)  # one transaction for all
    if patience is None:
        patience = 60 * context.document.study.cohort.deadline_minutes
    collection.longest_rest = max(LONGEST_REST_SECONDS, patience / MOST_RESTS)
    deadline = collection.opened + patience
    _ask(context, question, collection)
    while collection.unfinished and time.monotonic() < deadline:
        if until(collection.results):
            break
        _check_wanted(context)
        unanswered = _pull(context, question, collection, enough=enough)
        if len(collection.results) == enough:
            break
        collection.wake()
        some_are_at_work = bool(collection.waiting or collection.resting)
        collection.to_ask += [s for s in unanswered if collection.attempts[s] < MAX_ATTEMPTS]
        _ask(context, question, collection)
        if some_are_at_work:
            time.sleep(getattr(context.grid, "poll_seconds", POLL_SECONDS))
    return collection


def _check_wanted(context: RunContext) -> None:
    """Stop when a person has asked for it.

    Raises:
        RunError: SB-509.
    """
    if context.database.status(context.run) == "stopping":
        raise RunError("SB-509", f"The run {context.run} was stopped: `solblom run stop`")


def _ask(context: RunContext, question: Question, collection: Collection) -> None:
    """Ask the next sites, as many as the courier takes: each order carries the whole model."""
    most = getattr(context.grid, "most_waiting", None)
    while collection.to_ask and (most is None or len(collection.waiting) < most):
        site = collection.to_ask.popleft()
        held = None if site in collection.attempts else _held_order(context, question, site)
        if held is not None:
            collection.attempts[site] = 1
            collection.waiting[held] = site
            continue
        message = _order_message(context, question, site, collection)
        for message_id in context.grid.push_messages([message]):
            collection.waiting[message_id] = site


def close_exchange(context: RunContext, collection: Collection) -> None:
    """Take back the orders that nobody answered in time; call once their round is closed for good.

    What stays would fill the courier's folders with a model a round, and a hospital that finds it
    late could spend its patients' budget on an answer that nobody takes.
    """
    if isinstance(context.grid, KeepsOrders):
        for message_id, site in collection.waiting.items():
            context.grid.withdraw(context.addresses[site], message_id)


def _held_order(context: RunContext, question: Question, site: str) -> str | None:
    """Take up an order of before a restart that the courier still holds; return its message id."""
    grid = context.grid
    if not isinstance(grid, KeepsOrders):
        return None
    newest = context.database.newest_order(context.run, question.number, site, kind=question.kind)
    lifetime = dt.timedelta(minutes=context.document.study.cohort.deadline_minutes)
    address = context.addresses[site]
    if newest is None or not grid.holds_order(address, newest[0]):
        return None
    if context.clock() > parse_timestamp(newest[1]) + lifetime:
        grid.withdraw(address, newest[0])  # its node would refuse it
        return None
    message = context.grid.create_message(RecordDict(), "train", address, str(question.number))
    return grid.take_up(message, newest[0])


def _header(
    context: RunContext, question: Question, site: str, shown: Shown, *, attempt: int
) -> OrderHeader:
    """Return the header of an order to one node."""
    now = context.clock()
    expires = now + dt.timedelta(minutes=context.document.study.cohort.deadline_minutes)
    previous, receipt = context.database.last_answered(context.run, site)
    return OrderHeader(
        schema="solblom.order/1",
        kind=question.kind,
        coordinator=context.coordinator.public.key_id,
        site=site,
        node=context.nodes[site].key_id,
        study=context.document.digest,
        run=context.run,
        round=question.number,
        attempt=attempt,
        issued=timestamp(now),
        expires=timestamp(expires),
        base_model=question.base_model,
        layout=question.layout.to_json(),
        roster=context.roster,
        noise=context.document.study.privacy.noise,
        previous_order=previous,
        last_receipt=receipt,
        masking=question.own_masking.get(site, question.masking),
        checkpoint=shown.checkpoint,
        consistency=tuple(base64.b64encode(part).decode() for part in shown.consistency),
    )


def _order_message(
    context: RunContext, question: Question, site: str, collection: Collection
) -> Message:
    """Write one order into the database, then return it as a Flower message."""
    kind, number = question.kind, question.number
    attempt = context.database.next_attempt(context.run, number, site, kind=kind)
    shown = context.log.show([site], at=question.head)[site]
    header = _header(context, question, site, shown, attempt=attempt)
    order = write_order(
        header,
        question.locked,
        key=context.coordinator.signing,
        recipient=context.nodes[site].sealing,
    )
    context.database.add_order(
        order.digest,
        context.run,
        number,
        site,
        attempt,
        kind=kind,
        sealed=content_name(order.head, order.body),
        now=parse_timestamp(header.issued),
    )
    collection.heads[order.digest] = shown.size
    if kind == "witness":
        context.log.note_asked(order.digest, shown.size)
    collection.attempts[site] = collection.attempts.get(site, 0) + 1
    is_large = len(order.head) + len(order.body) > SMALL_BYTES
    shares = is_large and getattr(context.grid, "shares_bodies", False)
    content = shared_content(order.head, question.body) if shares else sealed_content(order.sealed)
    return context.grid.create_message(content, "train", context.addresses[site], str(number))


def _pull(
    context: RunContext,
    question: Question,
    collection: Collection,
    *,
    enough: int | None,
) -> list[str]:
    """Take in what has arrived, or what is still needed of it; return the sites whose message was lost."""
    lost: list[str] = []
    for reply in context.grid.pull_messages(list(collection.waiting)):
        site = collection.waiting.pop(reply.metadata.reply_to_message_id, None)
        if site is None or site in collection.done:
            continue
        # None: an error of the courier, or a message without a reply.
        sealed = None if reply.has_error() else sealed_bytes(reply.content)
        if sealed is None:
            lost.append(site)
            continue
        if not _take_in(context, question, collection, site, sealed):
            lost.append(site)
        if len(collection.results) == enough:
            break
    context.log.append(*collection.logged, seen=collection.seen)
    collection.logged, collection.seen = [], {}
    return lost


def _take_in(
    context: RunContext, question: Question, collection: Collection, site: str, sealed: bytes
) -> bool:
    """Check one reply and take it; False when its bytes are not this node's answer to this question.

    Bytes that a courier changed on either way, or an old refusal played again, count as lost: the node
    is asked again. Otherwise anybody on the way could end a hospital's round.
    """
    seconds = time.monotonic() - collection.opened
    try:
        reply = read_reply(
            sealed, key=context.coordinator.sealing, node=context.nodes[site].signing
        )
        if isinstance(reply, Refusal):
            return _take_refusal(context, question, collection, site, reply)
        _take_answer(context, question, site, reply)
    except IntegrityError as error:
        collection.invalid[site] = error.code
        row = reply_row(context, question, site, "invalid", seconds, code=error.code)
        context.database.add_reply(context.run, row)
        return False
    collection.done.add(site)
    collection.results.add(site)
    row = reply_row(context, question, site, "result", seconds, result=reply)
    if row.order_digest in collection.heads:  # it had remembered that order's head when it answered
        collection.seen[site] = collection.heads[row.order_digest]
    _keep(context, collection, row)
    return True


def _take_refusal(
    context: RunContext, question: Question, collection: Collection, site: str, refusal: Refusal
) -> bool:
    """Take a no, or a not yet; False where the node is asked again at once.

    Raises:
        IntegrityError: SB-404, it answers another order.
    """
    if refusal.order is not None and not context.database.is_order(
        refusal.order, context.run, question.number, site, kind=question.kind
    ):
        raise IntegrityError("SB-404", "The refusal answers another order")
    # What could not be read was the courier's fault, perhaps; and an order that a newer one overtook shows an
    # older head of the log than its node has seen: then the next one shows the newest.
    again = refusal.order is None or refusal.code == OTHER_LOG
    if again and collection.attempts[site] < MAX_ATTEMPTS:
        return False
    seconds = time.monotonic() - collection.opened
    row = reply_row(context, question, site, "refusal", seconds, code=refusal.code)
    _keep(context, collection, row)
    if refusal.code == NOT_YET:  # shown while it waits; a result takes its place
        collection.rest(site)
        return True
    collection.done.add(site)
    collection.refusals[site] = refusal.code
    return True


def _take_answer(
    context: RunContext,
    question: Question,
    site: str,
    reply: Result | KeyReply | MaskReply | WitnessReply,
) -> None:
    """Check an answer and take what it carries.

    Raises:
        IntegrityError: SB-404 or SB-405, it is not what was asked for.
    """
    if isinstance(reply, KeyReply):
        check_key(context, question, site, reply.message)
        question.take(site, reply.envelope)
    elif isinstance(reply, MaskReply):
        if reply.payload_type != MASK_REPLIES.get(question.kind):
            raise IntegrityError("SB-404", "The answer about masks is not what was ordered")
        question.take(site, reply.envelope)  # checks run, round and site, which were signed
    elif isinstance(reply, WitnessReply):
        take_cosignature(context, question, site, reply.message)
    else:
        check_result(context, question, site, reply.receipt)
        event = canonical_json(reply.receipt.event).decode()
        context.database.add_charge(
            context.run, question.number, site, reply.receipt.work, event, kind=question.kind
        )
        question.take(site, reply.update)


def _keep(context: RunContext, collection: Collection, row: ReplyRow) -> None:
    """Keep one reply in the database, and log it with the others that are at hand."""
    context.database.add_reply(context.run, row)
    entry = answer(context.run, row)
    if entry is not None:
        collection.logged.append(entry)


def check_quorum(
    context: RunContext, question: Question, collection: Collection, *, needed: int | None = None
) -> None:
    """Refuse an exchange with fewer results than `needed`, or else the study's quorum.

    Raises:
        RunError: every hospital that is missing is named with the reason. SB-507 where refusals
            alone made it fail, SB-501 where hospitals are silent.
    """
    quorum = needed or context.document.study.cohort.quorum
    if len(collection.results) >= quorum:
        return
    silent = sorted(set(context.nodes) - collection.done)
    reasons = [f"{site} refused ({code})" for site, code in sorted(collection.refusals.items())]
    reasons += [
        f"{site} has not said yes or no ({NOT_YET})"
        if site in collection.rested
        else f"{site} sent no valid reply ({collection.invalid[site]})"
        if site in collection.invalid
        else f"{site} did not answer"
        for site in silent
    ]
    refused = len(context.nodes) - len(collection.refusals) < quorum
    raise RunError(
        "SB-507" if refused else "SB-501",
        f"{TITLES[question.kind]} {question.number}: {len(collection.results)} of "
        f"{counted(len(context.nodes), 'hospital')} gave an answer, "
        f"and the quorum is {quorum}: {', '.join(reasons)}",
        _hint(context.run, collection.refusals),
    )


def _hint(run: str, refusals: dict[str, str]) -> str:
    go_on = f"run `solblom run resume {run}`"
    if not refusals:
        return f"When they are back, {go_on}"
    codes = sorted(set(refusals.values()) & CODES.keys())
    told = "; ".join(f"{code}: {CODES[code].title}" for code in codes)
    return (
        f"{told}. Ask the hospitals named; each one's own log says more, and docs/reference/errors.md "
        f"what to do. Then {go_on}"
    )
