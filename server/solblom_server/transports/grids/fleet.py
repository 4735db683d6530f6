"""The fleet grid: orders travel as Flower messages through a SuperLink, and none is lost on the way.

Flower delivers at most once and tells nobody what was lost (facts measured with flwr 1.41: a lost
pull loses the message, a reply cut off half-way blocks its reader for three minutes). So every order
stays on this disk until it is answered; a node that is silent is asked whether it has it, is at
work, or answered already; and each message is read by a thread of its own.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import pull_objects

from solblom_protocol.errors import CODES
from solblom_protocol.messages.flower import ASK, ORDER, ORDER_NAME, RECORD, STATE, STATES
from solblom_protocol.messages.mailbox import content_name
from solblom_server.transports.grids.courier import CourierGrid
from solblom_server.transports.grids.sealed import (
    sealed_bytes,
    sealed_content,
    sealed_parts,
    wire_content,
)

FIRST_ASK_SECONDS, LONGEST_ASK_SECONDS = 8.0, 120.0
SECONDS_PER_BYTE = 1e-6
"""A large model is asked about later: both ways take their time, and a question too early is an answer sent twice."""
PULL_SECONDS = 0.1
PULLS_PER_SECOND = 30.0
"""Over all nodes: more would keep the SuperLink busy with saying no."""
EARLY_PULL_SECONDS, EARLY_PAUSE, EARLY_UNTIL = 1.0, 0.125, 0.75
"""A reply is looked for each eighth, at most each second, of the first three quarters of what the last one took."""
WAIT_SECONDS = 0.5
READERS = 6
"""Replies that may be in memory at once; each is up to a model."""
STUCK_SECONDS = 10.0
"""A reply that takes longer gives its place up to another; Flower may block for 180 s."""

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, UPLOAD_SECONDS = 0.02, 0.5, 60.0

Report = Callable[[int, str, str | None], None]
"""Called with (Flower node id, state, code) when something is heard of a node."""


@dataclass
class _Order:
    """An order on its way. `asks_at`: when the node is asked about it, in monotonic seconds."""

    name: str
    node: int
    message: Message
    ask_after_seconds: float = 0.0
    asks_at: float = 0.0
    wires: list["_Wire"] = field(default_factory=list)


@dataclass
class _Wire:
    """One Flower message about an order, and whether anybody still wants its reply."""

    order: str
    node: int
    message_id: str
    is_question: bool
    done: threading.Event = field(default_factory=threading.Event)


def look_again_soon() -> None:
    """Let Flower look for a reply's parts again after 20 ms, where it would wait 1, 2, 4 … seconds, for three minutes.

    A reply's head is there before its parts: with Flower's own pauses that costs each round over a second.
    """
    pull_objects.__kwdefaults__ = (pull_objects.__kwdefaults__ or {}) | {
        "max_concurrent_pulls": 1,  # a node sends part after part
        "initial_backoff": FIRST_RETRY_SECONDS,
        "backoff_cap": LONGEST_RETRY_SECONDS,
        "max_time": UPLOAD_SECONDS,
        "max_tries_per_object": None,
    }


class FleetGrid(CourierGrid):
    """A Grid over Flower's own: `grid` is the one that a SuperLink gives to its ServerApp."""

    poll_seconds = 0.0  # pull_messages waits by itself
    shares_bodies = True

    def __init__(
        self,
        grid: Grid,
        nodes: Iterable[int],
        spool: Path,
        *,
        report: Report = lambda node, state, code: None,
        clock: Callable[[], float] = time.monotonic,
        first_ask_seconds: float = FIRST_ASK_SECONDS,
    ) -> None:
        super().__init__(nodes)
        self._grid, self._spool, self._report, self._clock = grid, spool, report, clock
        self._first_ask_seconds = first_ask_seconds
        self._orders: dict[str, _Order] = {}
        # Short: a reader that holds a reply keeps its place until somebody takes it.
        self._arrived: queue.Queue[tuple[_Wire, Message]] = queue.Queue(maxsize=2)
        self._places = _Places(READERS, clock)
        self._usual_seconds: dict[int, float] = {}  # of each node's last answer
        spool.mkdir(parents=True, exist_ok=True)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Write each order to disk, then send it; its content name is the message's id."""
        accepted: list[str] = []
        for message in messages:
            content, parts = message.content, sealed_parts(message.content)
            if not parts:
                raise ValueError("the fleet grid carries sealed messages only")
            name = content_name(*parts)
            message.metadata.__dict__["_message_id"] = name
            message.content = RecordDict()  # the file holds it; memory need not
            order = _Order(name, message.metadata.dst_node_id, message)
            order.ask_after_seconds = sum(len(part) for part in parts) * SECONDS_PER_BYTE
            with self._file(name).open("wb") as file:
                file.writelines(parts)
            self._orders[name] = order
            self._send_order(order, content if len(parts) > 1 else wire_content(parts[0]))
            accepted.append(name)
        return accepted

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that are here, one by one; wait half a second for the first."""
        wanted = set(message_ids)
        self._forget(set(self._orders) - wanted)
        self._ask_the_silent()
        wait = WAIT_SECONDS
        while True:
            try:
                wire, reply = self._arrived.get(timeout=wait)
            except queue.Empty:
                return
            wait = 0.0001
            answer = self._take(wire, reply)
            if answer is not None:
                name, found = answer
                yield found
                self._forget({name})

    def holds_order(self, node: int, order: str) -> bool:
        """Tell whether the order still waits to be answered, also since before a restart."""
        return self._file(order).is_file()

    def take_up(self, message: Message, order: str) -> str:
        """Ask the node about an order that was sent earlier; return its message id."""
        message.metadata.__dict__["_message_id"] = order
        message.content = RecordDict()
        taken = _Order(order, message.metadata.dst_node_id, message)
        self._orders[order] = taken
        self._ask(taken)
        return order

    def withdraw(self, node: int, order: str) -> None:
        """Forget an order that nobody waits for any more, and remove its file."""
        self._forget({order})
        self._file(order).unlink(missing_ok=True)

    def _file(self, order: str) -> Path:
        """Return where an order lies until it is answered, by its name."""
        return self._spool / f"{order}.order"

    def _send_order(self, order: _Order, content: RecordDict) -> None:
        self._send(order, content, ORDER)
        self._ask_later(order)

    def _ask(self, order: _Order) -> None:
        content = RecordDict({RECORD: ConfigRecord({ORDER_NAME: order.name})})
        self._send(order, content, ASK)
        self._ask_later(order)

    def _ask_later(self, order: _Order) -> None:
        order.ask_after_seconds += self._first_ask_seconds if not order.asks_at else 0.0
        order.asks_at = self._clock() + order.ask_after_seconds
        order.ask_after_seconds = min(1.5 * order.ask_after_seconds, LONGEST_ASK_SECONDS)

    def _send(self, order: _Order, content: RecordDict, message_type: str) -> None:
        """Push one Flower message and start to read its reply; what Flower does not take is sent later."""
        group = order.message.metadata.group_id
        message = self.create_message(content, message_type, order.node, group)
        try:
            ids = [text for text in self._grid.push_messages([message]) if text]
        except httpx.HTTPError:
            ids = []  # the SuperLink is away: the node is asked later
        if not ids:
            self._report(order.node, "unknown to Flower", None)
            return
        wire = _Wire(order.name, order.node, ids[0], is_question=message_type == ASK)
        order.wires.append(wire)
        threading.Thread(target=self._read, args=(wire,), daemon=True).start()

    def _ask_the_silent(self) -> None:
        """Ask about every order whose time has come; a question that got no answer is given up."""
        now = self._clock()
        for order in list(self._orders.values()):
            if now >= order.asks_at:
                for wire in [w for w in order.wires if w.is_question]:
                    wire.done.set()
                    order.wires.remove(wire)
                self._ask(order)

    def _read(self, wire: _Wire) -> None:
        """Wait for one reply, in a thread of its own."""
        began = self._clock()
        while not wire.done.is_set():
            reply = None
            with self._places.one():
                try:
                    for found in self._grid.pull_messages([wire.message_id]):
                        reply = found
                except Exception:  # the SuperLink is away, or a node sent what Flower cannot read
                    wire.done.wait(1.0)  # the node is asked again when its time has come
                waited = self._clock() - began
                if reply is not None:
                    if not wire.is_question:
                        self._usual_seconds[wire.node] = waited
                    self._hand_over(wire, reply)
                    return
            wire.done.wait(self._pull_pause(wire, waited))

    def _pull_pause(self, wire: _Wire, waited: float) -> float:
        """Return how long to wait until Flower is asked for a reply again; each request costs all nodes time."""
        busy = len(self._orders) / PULLS_PER_SECOND
        pause = max(PULL_SECONDS, busy, min(2.0, waited / 50))
        usual = self._usual_seconds.get(wire.node, 0.0)
        early = min(EARLY_PULL_SECONDS, EARLY_PAUSE * usual, EARLY_UNTIL * usual - waited)
        return pause if wire.is_question else max(pause, early)

    def _hand_over(self, wire: _Wire, reply: Message) -> None:
        while not wire.done.is_set():
            try:
                self._arrived.put((wire, reply), timeout=1.0)
            except queue.Full:
                continue
            return

    def _take(self, wire: _Wire, reply: Message) -> tuple[str, Message] | None:
        """Return (order, reply) when it is an order's answer; act on what else a node may say."""
        order = self._orders.get(wire.order)
        if order is None:
            return None
        if wire in order.wires:
            order.wires.remove(wire)
        if reply.has_error():
            reason = str(reply.error.reason)
            code = reason if reason in CODES else None  # a node's own words are shown to nobody
            self._report(order.node, "in trouble" if code else "not reached", code)
            return None  # its time to be asked will come
        sealed = sealed_bytes(reply.content)
        if sealed is not None:
            self._report(order.node, "answered", None)
            return order.name, Message(sealed_content(sealed), reply_to=order.message)
        state = _state(reply)
        self._report(order.node, state or "not understood", None)
        if state == "unknown":
            self._send_order(order, wire_content(self._file(order.name).read_bytes()))
        return None

    def _forget(self, names: set[str]) -> None:
        for name in names & set(self._orders):
            order = self._orders.pop(name)
            for wire in order.wires:
                wire.done.set()
            self._file(name).unlink(missing_ok=True)


class _Places:
    """Lets a few threads read at once; one that is stuck does not count for ever."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self._count, self._clock = count, clock
        self._since: dict[int, float] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a place, hold it, and give it back."""
        me = threading.get_ident()
        with self._changed:
            while (
                sum(self._clock() - t < STUCK_SECONDS for t in self._since.values()) >= self._count
            ):
                self._changed.wait(1.0)
            self._since[me] = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._since.pop(me, None)
                self._changed.notify()


def _state(reply: Message) -> str:
    try:
        state = reply.content.config_records[RECORD][STATE]
    except KeyError:
        return ""
    return state if isinstance(state, str) and state in STATES else ""
