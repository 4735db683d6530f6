"""The link: carries sealed orders from the coordinator to the vault and sealed replies back. It reads neither.

One warm process, outbound HTTPS only. It holds no patient data and cannot read any: the vault is
another process behind a unix socket. It runs nothing that arrives.

Flower delivers at most once. So the coordinator asks about an order that stays unanswered, and the
link says whether it is at work, answers again, or does not know the order (docs/concepts/network.md).
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree

from solblom_client.link.errors import LinkError
from solblom_protocol.errors import SolblomError
from solblom_protocol.messages.flower import (
    ASK,
    BODY,
    FAB_HASH,
    ORDER,
    ORDER_NAME,
    RECORD,
    SEALED,
    SMALL_BYTES,
    STATE,
)
from solblom_protocol.messages.mailbox import content_name

HEARTBEAT_SECONDS = 20.0
QUICK_POLL_SECONDS, IDLE_POLL_SECONDS = 0.1, 3.0
POLL_SHARE = 0.1
"""Each pause is a tenth of the silence so far: a round waits a tenth longer at most, with few requests."""
WORKING_POLL_SECONDS = 1.0
"""While an order is at work no other comes, only a question about it. Each request costs all hospitals time."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0
SEND_FOR_SECONDS = 6 * 3600.0
"""How long a reply is tried to be sent: an outage of this length loses nothing."""
SHORT_WORD_SECONDS = 30.0
"""How long a state or a code is tried to be sent: it is old news by then, and is asked for again."""
VAULT_PATIENCE_SECONDS, VAULT_PAUSE_SECONDS = 60.0, 0.5
"""How long an order waits at the link for a vault that starts: the coordinator is told `working` meanwhile."""
KEPT_ANSWERS = 2


class Connection(Protocol):
    """What the link needs of the Fleet API; `fleet.FleetConnection` is the real one."""

    def connect(self, known_id: int = 0) -> int:
        """Return the node id."""
        ...

    def heartbeat(self) -> None:
        """Say that the node is there."""
        ...

    def leave(self) -> None:
        """Say that it goes."""
        ...

    def fab_hash(self, run_id: int) -> str:
        """Return the hash of a run's bundle."""
        ...

    def next_head(self) -> tuple[int, ObjectTree] | None:
        """Return the next message, unread."""
        ...

    def fetch(self, run_id: int, tree: ObjectTree) -> Message:
        """Return a message whole."""
        ...

    def confirm(self, run_id: int, message: Message) -> None:
        """Say that it arrived."""
        ...

    def send(self, reply: Message, *, seconds: float) -> bool:
        """Send a reply."""
        ...


class VaultDoor(Protocol):
    """What the link needs of the vault: sealed bytes in, sealed bytes out."""

    def process(self, sealed: bytes) -> bytes:
        """Answer an order."""
        ...


@dataclass(frozen=True)
class LinkStatus:
    """What `solblom node status` shows; nothing of it comes from an order or from patients."""

    state: str = "starting"  # starting | connected | unreachable | paused | stopped
    node_id: int = 0
    code: str | None = None  # of the trouble, if any
    trouble: str | None = None
    working_on: str | None = None  # content name of the order
    last_contact: float | None = None  # Unix time
    orders: int = 0
    replies: int = 0


@dataclass
class _Desk:
    """Orders by content name: which is at work, whom to answer, what was answered."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    working: dict[str, Message] = field(default_factory=dict)  # the newest message of each order
    answers: dict[str, bytes] = field(default_factory=dict)


class Link:
    """Moves messages until it is told to stop."""

    def __init__(
        self,
        connection: Connection,
        vault: VaultDoor,
        *,
        known_id: int = 0,
        vault_patience_seconds: float = VAULT_PATIENCE_SECONDS,
        paused: Callable[[], bool] = lambda: False,
        report: Callable[[LinkStatus], None] = lambda status: None,
    ) -> None:
        self._connection, self._vault = connection, vault
        self._known_id, self._paused, self._report = known_id, paused, report
        self._vault_patience_seconds = vault_patience_seconds
        self._desk, self._status = _Desk(), LinkStatus()
        self._orders: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self._stop = threading.Event()
        self._allowed_runs: set[int] = set()
        self._last_message = float("-inf")
        self._free = threading.Event()  # nothing is at work
        self._free.set()
        self._noting = threading.Lock()

    def stop(self) -> None:
        """Let `run` end after what it is doing now."""
        self._stop.set()
        self._free.set()

    def run(self) -> None:
        """Connect and move messages; come back by itself after every trouble, until `stop`."""
        threads = [
            threading.Thread(target=self._work, name="orders", daemon=True),
            threading.Thread(target=self._beat, name="heartbeat", daemon=True),
        ]
        for thread in threads:
            thread.start()
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            try:
                self._connect()
                pause = FIRST_PAUSE_SECONDS
                self._move_messages()
            except LinkError as error:
                self._note(state="unreachable", code=error.code, trouble=error.message)
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        self._orders.put(None)
        with contextlib.suppress(LinkError):  # it goes anyway; it is noticed within two minutes
            self._connection.leave()
        self._note(state="stopped")

    def _connect(self) -> None:
        self._known_id = self._connection.connect(self._known_id)
        self._note(state="connected", node_id=self._known_id, code=None, trouble=None)

    def _move_messages(self) -> None:
        """Take messages one after another.

        Raises:
            LinkError: the connection is in trouble.
        """
        while not self._stop.is_set():
            paused = self._paused()
            self._note(state="paused" if paused else "connected")
            head = self._connection.next_head()
            self._note(last_contact=time.time())
            if head is None:
                self._wait_to_poll()
                continue
            self._last_message = time.monotonic()
            message = self._fetch(*head)
            if message is not None:
                self._take_if_wanted(message, paused=paused)

    def _wait_to_poll(self) -> None:
        """Wait: long while an order is at work, else short after a message and longer the longer it is silent."""
        if not self._free.is_set():
            self._free.wait(WORKING_POLL_SECONDS)
            return
        silent = time.monotonic() - self._last_message
        self._stop.wait(min(IDLE_POLL_SECONDS, max(QUICK_POLL_SECONDS, POLL_SHARE * silent)))

    def _fetch(self, run_id: int, tree: ObjectTree) -> Message | None:
        """Return a message whole, whatever happens to the line meanwhile; None when it is gone."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            try:
                message = self._connection.fetch(run_id, tree)
                self._connection.confirm(run_id, message)
            except LinkError as error:
                self._note(code=error.code, trouble=error.message)
                if error.code in ("SB-627", "SB-629", "SB-625"):
                    return None  # the coordinator asks again
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                return message
        return None

    def _take_if_wanted(self, message: Message, *, paused: bool) -> None:
        """Take a message unless its run has ended meanwhile.

        Raises:
            LinkError: the connection is in trouble; the coordinator asks again.
        """
        try:
            self._take(message, paused=paused)
        except LinkError as error:
            if error.code != "SB-629":
                raise

    def _take(self, message: Message, *, paused: bool) -> None:
        """Put an order on the desk, or answer a question about one."""
        if not self._is_allowed(message.metadata.run_id):
            self._answer(message, error="SB-626")
            return
        if not message.has_content():  # an error is nothing that a coordinator sends
            self._answer(message, error="SB-202")
            return
        kind = message.metadata.message_type
        if kind == ASK:
            self._answer_question(message, paused=paused)
        elif kind == ORDER and not paused:
            self._take_order(message)
        elif kind == ORDER:
            self._answer(message, state="paused")
        else:
            self._answer(message, error="SB-202")

    def _is_allowed(self, run_id: int) -> bool:
        """Tell whether a run names the one bundle without code; asked once for each run.

        Raises:
            LinkError.
        """
        if run_id not in self._allowed_runs and self._connection.fab_hash(run_id) == FAB_HASH:
            self._allowed_runs.add(run_id)
        return run_id in self._allowed_runs

    def _answer_question(self, message: Message, *, paused: bool) -> None:
        try:
            name = str(message.content.config_records[RECORD][ORDER_NAME])
        except KeyError:
            self._answer(message, error="SB-202")
            return
        with self._desk.lock:
            answer = self._desk.answers.get(name)
            working = name in self._desk.working
        state = "working" if working else "paused" if paused else "unknown"
        if answer is not None and state == "unknown":
            self._answer(message, sealed=answer)
        else:
            self._answer(message, state=state)

    def _take_order(self, message: Message) -> None:
        sealed = _sealed_in(message)
        if sealed is None:
            self._answer(message, error="SB-202")
            return
        name = content_name(sealed)
        with self._desk.lock:
            known = name in self._desk.working
            answer = None if known else self._desk.answers.get(name)
            self._desk.working[name] = message  # the newest asks for us all
            self._free.clear()
        message.content = RecordDict()
        if answer is not None:
            self._finish(name, sealed=answer)
        elif not known:
            self._note(orders=self._status.orders + 1)
            self._orders.put((name, sealed))

    def _work(self) -> None:
        """Hand orders to the vault, one at a time; a failure is a code and never a word more."""
        while True:
            item = self._orders.get()
            if item is None:
                return
            name, sealed = item
            self._note(working_on=name)
            reply = self._ask_vault(sealed)
            if isinstance(reply, str):
                self._finish(name, error=reply)
            else:
                self._keep(name, reply)
                self._finish(name, sealed=reply)
            self._note(working_on=None)

    def _ask_vault(self, sealed: bytes) -> bytes | str:
        """Return the vault's sealed reply, or a code; a vault that starts again is waited for."""
        ends = time.monotonic() + self._vault_patience_seconds
        while True:
            try:
                return self._vault.process(sealed)
            except SolblomError as error:
                self._note(code=error.code, trouble=error.message)
                if time.monotonic() >= ends or self._stop.wait(VAULT_PAUSE_SECONDS):
                    return error.code
            except Exception as error:  # a thread that died would leave the node deaf, and silent
                kind = type(error).__name__
                self._note(code="SB-214", trouble=f"The vault's answer cannot be used: {kind}")
                return "SB-214"

    def _keep(self, name: str, reply: bytes) -> None:
        """Keep the newest answers: a question about them costs the vault nothing."""
        with self._desk.lock:
            self._desk.answers[name] = reply
            while len(self._desk.answers) > KEPT_ANSWERS:
                del self._desk.answers[next(iter(self._desk.answers))]

    def _finish(self, name: str, *, sealed: bytes | None = None, error: str | None = None) -> None:
        """Answer the newest message of an order; it counts as at work until its answer is sent."""
        while not self._stop.is_set():
            with self._desk.lock:
                message = self._desk.working[name]
            self._answer(message, sealed=sealed, error=error)
            with self._desk.lock:
                if self._desk.working[name] is message:
                    del self._desk.working[name]
                    if not self._desk.working:
                        self._free.set()
                    return

    def _answer(
        self,
        message: Message,
        *,
        sealed: bytes | None = None,
        state: str | None = None,
        error: str | None = None,
    ) -> None:
        """Send one answer until it is taken, the run has ended, or hours have passed."""
        reply = _reply_to(message, sealed=sealed, state=state, error=error)
        ends = time.monotonic() + (SHORT_WORD_SECONDS if sealed is None else SEND_FOR_SECONDS)
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set() and time.monotonic() < ends:
            try:
                self._connection.send(reply, seconds=0.0)
            except LinkError as trouble:
                if trouble.code in ("SB-629", "SB-625"):
                    return  # the run has ended, or Flower has forgotten: the coordinator asks again
                self._note(code=trouble.code, trouble=trouble.message)
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._last_message = time.monotonic()
                if sealed is not None:
                    self._note(replies=self._status.replies + 1, code=None, trouble=None)
                return

    def _beat(self) -> None:
        """Say that we are there, also while the vault works."""
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self._status.state in ("connected", "paused"):
                try:
                    self._connection.heartbeat()
                except LinkError:
                    continue  # the main thread meets the same trouble and reports it

    def _note(self, **changes: str | int | float | None) -> None:
        """Report a status that has changed."""
        with self._noting:
            status = replace(self._status, **changes)  # type: ignore[arg-type]
            if status != self._status:
                self._status = status
                self._report(status)


def _sealed_in(message: Message) -> bytes | None:
    """Return the sealed bytes of an order; None where there are none.

    Not through `array_records`: that view is a cycle, and would hold the order's bytes on.
    """
    record, body = message.content.get(RECORD), message.content.get(BODY)
    head = record.get(SEALED) if isinstance(record, ConfigRecord) else None
    if not isinstance(head, bytes):
        return None
    if body is None:
        return head
    if not isinstance(body, ArrayRecord) or SEALED not in body:
        return None
    return head + body[SEALED].data


def _reply_to(
    message: Message, *, sealed: bytes | None, state: str | None, error: str | None
) -> Message:
    if error is not None:
        return Message(Error(code=0, reason=error), reply_to=message)
    if sealed is not None and len(sealed) > SMALL_BYTES:
        array = Array(dtype="uint8", shape=(len(sealed),), stype="solblom.sealed", data=sealed)
        return Message(RecordDict({RECORD: ArrayRecord({SEALED: array})}), reply_to=message)
    if sealed is not None:
        return Message(RecordDict({RECORD: ConfigRecord({SEALED: sealed})}), reply_to=message)
    return Message(RecordDict({RECORD: ConfigRecord({STATE: state or ""})}), reply_to=message)
