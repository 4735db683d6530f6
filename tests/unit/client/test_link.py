"""The link: every order is answered or asked about again, whatever the line, the vault or the coordinator does."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from couriers.stand_in import FlowerStandIn, NodeDoor
from solblom_client.link import link as link_module
from solblom_client.link.errors import LinkError
from solblom_client.link.link import KEPT_ANSWERS, Link, LinkStatus
from solblom_client.link.vault_client import VaultUnavailableError
from solblom_protocol.messages.flower import ASK, BODY, ORDER, ORDER_NAME, RECORD, SEALED, STATE
from solblom_protocol.messages.mailbox import content_name

NODE = 7
SECONDS = 10.0


@dataclass
class FakeVault:
    """Answers an order with its bytes reversed, when `gate` lets it."""

    gate: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    seen: list[bytes] = field(default_factory=list)

    def process(self, sealed: bytes) -> bytes:
        self.seen.append(sealed)
        assert self.gate.wait(SECONDS)
        if self.error is not None:
            raise self.error
        return sealed[::-1]


class Bench:
    """A link between a stand-in for Flower and a fake vault."""

    def __init__(self) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.flower, self.vault = FlowerStandIn([NODE]), FakeVault()
        self.vault.gate.set()
        self.door = NodeDoor(self.flower, NODE)
        self.paused = False
        self.statuses: list[LinkStatus] = []
        self.link = Link(
            self.door,
            self.vault,
            vault_patience_seconds=1.0,
            paused=lambda: self.paused,
            report=self.statuses.append,
        )
        self.thread = threading.Thread(target=self.link.run, daemon=True)
        self.sent = 0

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.link.stop()
        self.vault.gate.set()
        if self.thread.is_alive():
            self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the link does not end"

    def push(self, content: RecordDict, kind: str = ORDER) -> str:
        """Send a message to the node; return its id. Each has its own group, as in Flower its own time."""
        self.sent += 1
        message = Message(content, NODE, kind, group_id=str(self.sent))
        return next(iter(self.flower.push_messages([message])))

    def order(self, sealed: bytes) -> str:
        return self.push(order_of(sealed))

    def ask(self, sealed: bytes) -> str:
        return self.push(question_of(content_name(sealed)), ASK)

    def reply(self, name: str) -> Message:
        """Return the reply to a message."""
        self.wait_for(lambda: name in self.flower.replies)
        return self.flower.replies.pop(name)

    def wait_for(self, holds: Callable[[], bool]) -> None:
        ends = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < ends, "it did not happen in time"
            time.sleep(0.005)


def order_of(sealed: bytes, body: bytes | None = None) -> RecordDict:
    content = RecordDict({RECORD: ConfigRecord({SEALED: sealed})})
    if body is not None:
        array = Array(dtype="uint8", shape=(len(body),), stype="solblom.sealed", data=body)
        content[BODY] = ArrayRecord({SEALED: array})
    return content


def question_of(name: Any) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({ORDER_NAME: name})})


def sealed_in(reply: Message) -> bytes:
    if RECORD in reply.content.array_records:
        return bytes(reply.content.array_records[RECORD][SEALED].data)
    value = reply.content.config_records[RECORD][SEALED]  # small ones may travel as a plain value
    assert isinstance(value, bytes)
    return value


def state_in(reply: Message) -> str:
    return str(reply.content.config_records[RECORD][STATE])


def code_in(reply: Message) -> str:
    assert reply.has_error()
    return str(reply.error.reason)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(link_module, "QUICK_POLL_SECONDS", 0.005)
    monkeypatch.setattr(link_module, "IDLE_POLL_SECONDS", 0.005)
    monkeypatch.setattr(link_module, "WORKING_POLL_SECONDS", 0.02)
    monkeypatch.setattr(link_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(link_module, "LONGEST_PAUSE_SECONDS", 0.02)
    made = Bench()
    yield made
    made.stop()


def test_an_order_is_answered_with_the_vaults_bytes(bench: Bench) -> None:
    bench.start()
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"
    bench.wait_for(lambda: bench.statuses[-1].replies == 1)
    assert bench.statuses[-1].orders == 1


def test_head_and_body_of_a_large_order_reach_the_vault_as_one(bench: Bench) -> None:
    bench.start()
    bench.reply(bench.push(order_of(b"head ", b"and body")))
    assert bench.vault.seen == [b"head and body"]


def test_a_lost_order_is_unknown_and_answered_once_it_is_sent_again(bench: Bench) -> None:
    bench.flower.way_out = lambda message: None  # lost on its way
    bench.order(b"abc")
    bench.flower.way_out = lambda message: message
    bench.start()
    assert state_in(bench.reply(bench.ask(b"abc"))) == "unknown"
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"
    assert bench.vault.seen == [b"abc"]


def test_a_question_about_the_order_at_work_says_so(bench: Bench) -> None:
    bench.vault.gate.clear()
    bench.start()
    order = bench.order(b"abc")
    bench.wait_for(lambda: bench.vault.seen == [b"abc"])
    assert state_in(bench.reply(bench.ask(b"abc"))) == "working"
    bench.vault.gate.set()
    assert sealed_in(bench.reply(order)) == b"cba"


def test_while_an_order_is_at_work_flower_is_asked_seldom_and_at_once_when_it_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request costs the coordinator as much as a megabyte; a pause that is not cut short costs a round."""
    monkeypatch.setattr(link_module, "WORKING_POLL_SECONDS", 3 * SECONDS)
    bench.vault.gate.clear()
    bench.start()
    first = bench.order(b"abc")
    bench.wait_for(lambda: bench.vault.seen == [b"abc"])
    asked = bench.door.calls.count("next_head")
    time.sleep(0.2)  # forty pauses of an idle link
    assert bench.door.calls.count("next_head") <= asked + 1
    second = bench.order(b"def")
    bench.vault.gate.set()
    assert sealed_in(bench.reply(first)) == b"cba"
    assert sealed_in(bench.reply(second)) == b"fed"


def test_a_link_asks_less_often_the_longer_it_is_silent() -> None:
    link, pauses = Bench().link, []
    link._stop.wait = lambda seconds=None: pauses.append(seconds) or False  # type: ignore[method-assign, assignment]
    for silent in (0.0, 0.5, 4.0, 600.0):
        link._last_message = time.monotonic() - silent
        link._wait_to_poll()
    assert pauses == pytest.approx([0.1, 0.1, 0.4, 3.0], abs=0.02)


def test_a_lost_answer_is_given_again_without_the_vault(bench: Bench) -> None:
    bench.start()
    bench.flower.way_back = lambda message: None  # lost on its way
    bench.order(b"abc")
    bench.wait_for(lambda: bench.door.calls.count("send answered") == 1)
    bench.flower.way_back = lambda message: message
    assert sealed_in(bench.reply(bench.ask(b"abc"))) == b"cba"
    assert bench.vault.seen == [b"abc"]


def test_an_order_that_is_known_is_answered_twice_and_worked_on_once(bench: Bench) -> None:
    bench.start()
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"
    assert bench.vault.seen == [b"abc"]


def test_two_messages_for_one_order_at_work_are_worked_on_once_and_the_newest_is_answered(
    bench: Bench,
) -> None:
    bench.vault.gate.clear()
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bench.vault.seen == [b"abc"])
    second = bench.order(b"abc")
    bench.wait_for(lambda: bench.link._desk.working[content_name(b"abc")].metadata.group_id == "2")
    bench.vault.gate.set()
    assert sealed_in(bench.reply(second)) == b"cba"
    assert bench.vault.seen == [b"abc"]


def test_only_the_newest_answers_are_kept(bench: Bench) -> None:
    bench.start()
    orders = [bytes([65 + number]) * 3 for number in range(KEPT_ANSWERS + 1)]
    for sealed in orders:
        bench.reply(bench.order(sealed))
    assert state_in(bench.reply(bench.ask(orders[0]))) == "unknown"
    assert sealed_in(bench.reply(bench.ask(orders[-1]))) == orders[-1][::-1]


def test_a_paused_node_takes_no_order_and_says_paused(bench: Bench) -> None:
    bench.paused = True
    bench.start()
    assert state_in(bench.reply(bench.order(b"abc"))) == "paused"
    assert state_in(bench.reply(bench.ask(b"abc"))) == "paused"
    assert bench.vault.seen == []
    assert bench.statuses[-1].state == "paused"
    bench.paused = False
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"


def test_a_vault_that_is_down_is_a_code_and_the_next_order_is_tried(bench: Bench) -> None:
    bench.vault.error = VaultUnavailableError("SB-611", "There is no socket at /secret/place")
    bench.start()
    reply = bench.reply(bench.order(b"abc"))
    assert code_in(reply) == "SB-611"
    assert b"secret" not in reply.deflate()
    bench.vault.error = None
    assert state_in(bench.reply(bench.ask(b"abc"))) == "unknown"
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"


def test_a_vault_that_starts_again_is_waited_for_and_the_order_counts_as_at_work(
    bench: Bench,
) -> None:
    bench.vault.error = VaultUnavailableError("SB-611", "It is starting")
    bench.start()
    order = bench.order(b"abc")
    assert state_in(bench.reply(bench.ask(b"abc"))) == "working"
    bench.vault.error = None
    assert sealed_in(bench.reply(order)) == b"cba"


@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError, OSError])
def test_a_vaults_door_that_breaks_does_not_leave_the_node_deaf(
    bench: Bench, error: type[Exception]
) -> None:
    """The thread that works must live: its words stay here, and the next order is answered."""
    bench.vault.error = error("patient-0042")
    bench.start()
    reply = bench.reply(bench.order(b"abc"))
    assert code_in(reply) == "SB-214"
    assert b"patient-0042" not in reply.deflate()
    assert not any("patient-0042" in str(status) for status in bench.statuses)
    bench.vault.error = None
    assert sealed_in(bench.reply(bench.order(b"def"))) == b"fed"


def test_a_run_with_another_bundle_is_refused_and_the_vault_never_asked(bench: Bench) -> None:
    bench.flower.fab_hash = "0" * 64
    bench.start()
    for message in (bench.order(b"abc"), bench.ask(b"abc")):
        assert code_in(bench.reply(message)) == "SB-626"
    assert bench.vault.seen == []


def test_the_bundle_of_a_run_is_asked_for_once(bench: Bench) -> None:
    bench.start()
    for sealed in (b"abc", b"def"):
        bench.reply(bench.order(sealed))
    assert bench.door.calls.count("fab_hash") == 1


GARBAGE = [
    pytest.param(RecordDict(), ORDER, id="nothing"),
    pytest.param(question_of("0" * 64), ORDER, id="a question as an order"),
    pytest.param(order_of(b"abc"), ASK, id="an order as a question"),
    pytest.param(
        RecordDict({BODY: ConfigRecord({SEALED: b"abc"})}), ORDER, id="a body without a head"
    ),
    pytest.param(
        RecordDict({RECORD: ConfigRecord({SEALED: b"abc"}), BODY: ConfigRecord({SEALED: b"abc"})}),
        ORDER,
        id="a body that is no array",
    ),
    pytest.param(RecordDict({RECORD: ConfigRecord({})}), ASK, id="a question without a name"),
    pytest.param(RecordDict({RECORD: ArrayRecord({})}), ORDER, id="an order without an array"),
    pytest.param(RecordDict({"other": ConfigRecord({"x": 1})}), ORDER, id="another record"),
    pytest.param(order_of(b"abc"), "evaluate", id="another kind of message"),
    pytest.param(order_of(b"abc"), "train.other", id="another name of train"),
]


@pytest.mark.parametrize(("content", "kind"), GARBAGE)
def test_garbage_is_refused_and_the_next_order_answered(
    bench: Bench, content: RecordDict, kind: str
) -> None:
    bench.start()
    assert code_in(bench.reply(bench.push(content, kind))) == "SB-202"
    assert bench.vault.seen == []
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"


@pytest.mark.parametrize("kind", [ORDER, ASK])
def test_an_error_in_place_of_an_order_does_not_end_the_link(bench: Bench, kind: str) -> None:
    """Flower's messages hold content or an error; a coordinator that sends an error gets a refusal."""

    def as_error(message: Message) -> Message:
        message.__dict__.update(_content=None, _error=Error(code=0, reason="boo"))
        return message

    bench.start()
    bench.flower.way_out = as_error
    assert code_in(bench.reply(bench.push(order_of(b"abc"), kind))) == "SB-202"
    bench.flower.way_out = lambda message: message
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"


@pytest.mark.parametrize("name", ["", "x", 12, 1.5, b"\xff", [1, 2, 3], "0" * 100_000])
def test_a_question_about_anything_else_is_unknown(bench: Bench, name: Any) -> None:
    bench.start()
    assert state_in(bench.reply(bench.push(question_of(name), ASK))) == "unknown"


def test_a_reply_is_sent_again_until_the_outage_is_over(bench: Bench) -> None:
    outages = iter([True] * 5 + [False] * 1000)

    def cut(call: str) -> None:
        if call == "send" and next(outages):
            raise LinkError("SB-620", "cannot be reached")

    bench.door.trouble = cut
    bench.start()
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"
    assert bench.vault.seen == [b"abc"]
    bench.wait_for(lambda: bench.statuses[-1].code is None)
    assert any(status.code == "SB-620" for status in bench.statuses)


def test_a_message_is_fetched_again_until_the_outage_is_over(bench: Bench) -> None:
    outages = iter([True] * 5 + [False] * 1000)

    def cut(call: str) -> None:
        if call in ("fetch", "confirm") and next(outages):
            raise LinkError("SB-620", "cannot be reached")

    bench.door.trouble = cut
    bench.start()
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"
    assert any(status.code == "SB-620" for status in bench.statuses)


@pytest.mark.parametrize("code", ["SB-627", "SB-629", "SB-625"])
def test_a_message_that_cannot_be_fetched_is_given_up_and_asked_for_again(
    bench: Bench, code: str
) -> None:
    struck: list[str] = []

    def harm(call: str) -> None:
        if call == "fetch" and not struck:
            struck.append(call)
            raise LinkError(code, "a part is not what its digest says")

    bench.door.trouble = harm
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bool(struck))
    assert state_in(bench.reply(bench.ask(b"abc"))) == "unknown"
    assert sealed_in(bench.reply(bench.order(b"abc"))) == b"cba"


def test_a_head_that_is_lost_on_its_way_is_gone_and_the_next_order_answered(bench: Bench) -> None:
    struck: list[str] = []

    def lose(call: str) -> None:
        if call == "next_head answered" and not struck:
            struck.append(call)
            raise LinkError("SB-620", "cut off in the middle of an answer")

    bench.door.trouble = lose
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bool(struck))
    assert state_in(bench.reply(bench.ask(b"abc"))) == "unknown"
    assert bench.door.calls.count("connect") == 2


def test_a_reply_to_a_run_that_has_ended_is_given_up(bench: Bench) -> None:
    bench.vault.gate.clear()
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bench.vault.seen == [b"abc"])
    bench.flower.ended = True
    bench.vault.gate.set()
    bench.wait_for(lambda: not bench.link._desk.working)
    assert bench.statuses[-1].replies == 0
    bench.flower.ended = False
    assert sealed_in(bench.reply(bench.order(b"def"))) == b"fed"


def test_a_run_that_ends_before_its_bundle_is_asked_for_is_no_trouble(bench: Bench) -> None:
    struck: list[str] = []

    def ended(call: str) -> None:
        if call == "fab_hash" and not struck:
            struck.append(call)
            raise LinkError("SB-629", "the run has ended")

    bench.door.trouble = ended
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bool(struck))
    assert sealed_in(bench.reply(bench.order(b"def"))) == b"fed"
    assert all(status.state != "unreachable" for status in bench.statuses)


def test_an_unreachable_coordinator_is_named_and_tried_again(bench: Bench) -> None:
    troubles = iter(["SB-620", "SB-621", "SB-625", "SB-624", *[""] * 1000])

    def refuse(call: str) -> None:
        if call == "connect" and (code := next(troubles)):
            raise LinkError(code, f"trouble {code}")

    bench.door.trouble = refuse
    bench.start()
    bench.wait_for(lambda: bool(bench.statuses) and bench.statuses[-1].state == "connected")
    named = [status.code for status in bench.statuses if status.state == "unreachable"]
    assert named == ["SB-620", "SB-621", "SB-625", "SB-624"]
    assert bench.statuses[-1].code is None


def test_stop_in_the_middle_of_an_order_ends_the_link_and_leaves(bench: Bench) -> None:
    bench.vault.gate.clear()
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bench.vault.seen == [b"abc"])
    bench.link.stop()
    bench.thread.join(SECONDS)
    assert not bench.thread.is_alive()
    assert bench.door.calls[-1] == "leave"
    assert bench.statuses[-1].state == "stopped"


def test_stop_in_the_middle_of_an_outage_ends_the_link(bench: Bench) -> None:
    def cut(call: str) -> None:
        if call in ("send", "fetch", "leave"):
            raise LinkError("SB-620", "cannot be reached")

    bench.door.trouble = cut
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bench.door.calls.count("fetch") > 2)
    bench.link.stop()
    bench.thread.join(SECONDS)
    assert not bench.thread.is_alive()


def test_the_heartbeat_goes_on_while_the_vault_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "HEARTBEAT_SECONDS", 0.01)
    bench.vault.gate.clear()
    bench.start()
    bench.order(b"abc")
    bench.wait_for(lambda: bench.vault.seen == [b"abc"])
    before = bench.door.calls.count("heartbeat")
    bench.wait_for(lambda: bench.door.calls.count("heartbeat") > before + 3)
