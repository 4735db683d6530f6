"""What Flower and the line below FleetGrid may do to messages: no bit of the model and no charge changes.

Flower delivers at most once. Each fault strikes an order on its way out and a reply on its way back,
once each, in one run; the hospitals' links and vaults are real, and so is FleetGrid.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from couriers.carried_fleet import CarriedFleet
from couriers.faulty import sealed_of, with_sealed
from couriers.stand_in import FlowerStandIn, copied
from couriers.test_conformance import last_model, no_evaluation, run_over, undisturbed
from integration.federation import SITES, Federation
from solblom_client.link import link as link_module
from solblom_client.link.errors import LinkError
from solblom_protocol.messages.flower import ORDER
from solblom_server.transports.grids import fleet as fleet_module
from solblom_server.transports.grids.fleet import FleetGrid

__all__ = ["no_evaluation", "undisturbed"]  # fixtures
pytestmark = pytest.mark.usefixtures("no_evaluation")
CHARGED = {site: [(number, "spent") for number in (1, 2, 3)] for site in SITES}
FAULTS = ("lose", "cut", "change", "empty", "double", "delay", "replay", "swap")
LATE_SECONDS = 1.0


@dataclass
class Fault:
    """Strikes the n-th message with sealed bytes on each way."""

    name: str
    strikes_at: int
    flower: FlowerStandIn
    seen: dict[str, int] = field(default_factory=dict)
    struck: list[str] = field(default_factory=list)
    earlier: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def out(self, message: Message) -> Message | None:
        return self._carry("out", message, message.metadata.dst_node_id)

    def back(self, message: Message) -> Message | None:
        return self._carry("back", message, message.metadata.src_node_id)

    def _carry(self, way: str, message: Message, node: int) -> Message | None:
        sealed = sealed_if_any(message)
        if sealed is None:
            return message
        self.seen[way] = self.seen.get(way, -1) + 1
        if self.seen[way] == self.strikes_at:
            self.struck.append(way)
            return self._strike(way, message, node, sealed)
        self.earlier[way, node] = sealed
        return message

    def _strike(self, way: str, message: Message, node: int, sealed: bytes) -> Message | None:
        if self.name == "lose":
            return None
        if self.name == "delay":
            threading.Timer(LATE_SECONDS, self._arrive_late, (way, message, node)).start()
            return None
        if self.name == "double" and way == "out":
            twin = copied(message)
            twin.metadata.__dict__["_message_id"] = message.metadata.message_id
            self.flower.waiting[node].append(twin)
        if self.name == "empty":
            message.content = RecordDict()
        if self.name in ("cut", "change", "replay", "swap"):
            message.content = with_sealed(self._harmed(way, node, sealed))
        return message

    def _harmed(self, way: str, node: int, sealed: bytes) -> bytes:
        if self.name == "cut":
            return sealed[: len(sealed) // 2]
        if self.name == "change":
            return sealed[:-1] + bytes([sealed[-1] ^ 1])
        if self.name == "replay":
            return self.earlier[way, node]
        return next(data for (w, n), data in self.earlier.items() if w == way and n != node)

    def _arrive_late(self, way: str, message: Message, node: int) -> None:
        with self.flower.lock:
            if way == "out":
                self.flower.waiting[node].append(message)
            else:
                self.flower.replies[message.metadata.reply_to_message_id] = message


def sealed_if_any(message: Message) -> bytes | None:
    """Return the sealed bytes of a message below FleetGrid, where small ones may be a plain value."""
    if message.has_error():
        return None
    if "solblom" in message.content.array_records:
        return sealed_of(message)
    value = message.content.config_records.get("solblom", ConfigRecord()).get("sealed")
    return value if isinstance(value, bytes) else None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[CarriedFleet]:
    """Let every run of the test travel over the fleet courier; gives the transports that were opened."""
    found: list[CarriedFleet] = []

    def open_transport(name: str, home: Path) -> CarriedFleet:
        found.append(CarriedFleet(home))
        return found[-1]

    monkeypatch.setattr("solblom_server.rounds.runs.open_transport", open_transport)
    return found


def prepare(
    opened: list[CarriedFleet], monkeypatch: pytest.MonkeyPatch, act: Callable[[CarriedFleet], None]
) -> None:
    """Do something to the transport of the next run before its hospitals begin."""
    start = CarriedFleet.start_node

    def start_node(transport: CarriedFleet, site: str) -> None:
        if site == next(iter(transport.threads)):
            act(transport)
        start(transport, site)

    monkeypatch.setattr(CarriedFleet, "start_node", start_node)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_flower_changes_no_bit_and_no_charge(
    name: str,
    undisturbed: str,
    tmp_path: Path,
    opened: list[CarriedFleet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation, faults = Federation(tmp_path / "home"), []

    def act(transport: CarriedFleet) -> None:
        # The second round's second message: something came before it, from this node and from others.
        fault = Fault(name, len(SITES) + 1, transport.flower)
        transport.flower.way_out, transport.flower.way_back = fault.out, fault.back
        faults.append(fault)

    prepare(opened, monkeypatch, act)
    run = run_over(federation)
    assert sorted(faults[0].struck) == ["back", "out"]
    assert last_model(federation, run) == undisturbed
    assert federation.charges() == CHARGED


def test_a_node_that_is_offline_is_asked_until_it_is_there(
    undisturbed: str,
    tmp_path: Path,
    opened: list[CarriedFleet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation, start = Federation(tmp_path / "home"), CarriedFleet.start_node

    def start_late(transport: CarriedFleet, site: str) -> None:
        if site == SITES[1]:
            threading.Timer(3.0, start, (transport, site)).start()
        else:
            start(transport, site)

    monkeypatch.setattr(CarriedFleet, "start_node", start_late)
    run = run_over(federation)
    assert last_model(federation, run) == undisturbed
    assert federation.charges() == CHARGED
    late = opened[0].addresses[SITES[1]]
    assert (late, "not reached", None) in opened[0].heard


def test_a_reply_that_blocks_its_reader_holds_nobody_up(
    undisturbed: str,
    tmp_path: Path,
    opened: list[CarriedFleet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reply cut off half-way blocks a pull for three minutes; here for as long as the test may take."""
    monkeypatch.setattr(fleet_module, "STUCK_SECONDS", 0.5)
    monkeypatch.setattr(fleet_module, "READERS", 1)
    federation, blocked = Federation(tmp_path / "home"), []

    def act(transport: CarriedFleet) -> None:
        def out(message: Message) -> Message:
            if message.metadata.message_type == ORDER and not blocked:
                blocked.append(message.metadata.message_id)
                transport.flower.blocking[message.metadata.message_id] = 20.0
            return message

        transport.flower.way_out = out

    prepare(opened, monkeypatch, act)
    run = run_over(federation)
    assert blocked
    assert last_model(federation, run) == undisturbed
    assert federation.charges() == CHARGED


def test_a_line_that_breaks_again_and_again_only_costs_time(
    undisturbed: str,
    tmp_path: Path,
    opened: list[CarriedFleet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every seventh call of every node fails, answers on their way included."""
    monkeypatch.setattr(link_module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(link_module, "LONGEST_PAUSE_SECONDS", 0.05)
    federation, calls = Federation(tmp_path / "home"), {"n": 0, "failed": 0}

    def fail(call: str) -> None:
        calls["n"] += 1
        if calls["n"] % 7 == 0 and call != "leave":
            calls["failed"] += 1
            raise LinkError("SB-620", "cannot be reached")

    def act(transport: CarriedFleet) -> None:
        for link in transport.links.values():
            link._connection.trouble = fail  # type: ignore[attr-defined]

    prepare(opened, monkeypatch, act)
    run = run_over(federation)
    assert calls["failed"] > 10
    assert last_model(federation, run) == undisturbed
    assert federation.charges() == CHARGED


class Desk:
    """A FleetGrid over a stand-in, without nodes: the test answers itself."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.flower = FlowerStandIn([1], online={1})
        self.heard: list[tuple[int, str, str | None]] = []
        self.grid = FleetGrid(
            self.flower,
            [1],
            folder,
            report=lambda node, state, code: self.heard.append((node, state, code)),
            first_ask_seconds=1.0,
            **settings,
        )

    def order(self, sealed: bytes) -> str:
        message = self.grid.create_message(with_sealed(sealed), "train", 1, "1")
        return next(iter(self.grid.push_messages([message])))

    def say(self, content: Any) -> None:
        """Answer the newest message that the node has: older questions are given up."""
        asked = self.flower.waiting[1].pop()
        assert self.flower.reply_arrives(Message(content, reply_to=asked))

    def pull(self, name: str, times: int = 4) -> list[Message]:
        found: list[Message] = []
        for _ in range(times):
            found += list(self.grid.pull_messages([name]))
        return found


def test_a_nodes_own_words_are_neither_kept_nor_shown(tmp_path: Path) -> None:
    """A node may say one of Flower's states or a known code; anything else could be a patient or an escape."""
    desk = Desk(tmp_path)
    name = desk.order(b"sealed")
    planted = ["SB-\x1b[2", "SB-999", "patient-0042"]
    answers = [Error(code=0, reason=words) for words in planted]
    answers.append(RecordDict({"solblom": ConfigRecord({"state": planted[-1]})}))
    for answer in answers:
        while not desk.flower.waiting[1]:
            assert desk.pull(name, 1) == []
        desk.say(answer)
        assert desk.pull(name, 1) == []
    assert len(desk.heard) == len(answers)
    told = {word for _, state, code in desk.heard for word in (state, code)}
    assert told <= {"not reached", "not understood", "in trouble", None}


def test_a_reply_that_flower_cannot_read_costs_the_node_a_question_and_not_the_run(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    real, broken = desk.flower.pull_messages, []

    def pull(message_ids: Any) -> Any:
        ids = list(message_ids)
        if desk.flower.replies.keys() & set(ids) and not broken:
            broken.append([desk.flower.replies.pop(n) for n in ids])
            raise ValueError("Mismatch in children object IDs")
        return real(ids)

    desk.flower.pull_messages = pull  # type: ignore[method-assign]
    name = desk.order(b"sealed")
    desk.say(with_sealed(b"first"))
    while not desk.flower.waiting[1]:
        assert desk.pull(name, 1) == []
    desk.say(with_sealed(b"second"))
    assert broken
    assert [sealed_of(reply) for reply in desk.pull(name)] == [b"second"]


def test_an_order_leaves_nothing_on_disk_once_it_is_answered(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    name = desk.order(b"sealed")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.order"]
    assert desk.grid.holds_order(1, name)
    desk.say(with_sealed(b"reply"))
    assert [sealed_of(reply) for reply in desk.pull(name)] == [b"reply"]
    assert list(tmp_path.iterdir()) == []


def test_an_order_of_before_a_restart_is_asked_about_and_sent_again_where_it_is_unknown(
    tmp_path: Path,
) -> None:
    name = Desk(tmp_path).order(b"sealed")
    desk = Desk(tmp_path)
    assert desk.grid.holds_order(1, name)
    message = desk.grid.create_message(RecordDict(), "train", 1, "1")
    assert desk.grid.take_up(message, name) == name
    desk.say(RecordDict({"solblom": ConfigRecord({"state": "unknown"})}))
    desk.pull(name, 1)
    assert sealed_if_any(desk.flower.waiting[1][0]) == b"sealed"
    desk.say(with_sealed(b"reply"))
    assert [sealed_of(reply) for reply in desk.pull(name)] == [b"reply"]


def test_a_node_that_flower_does_not_know_is_said_and_asked_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    queue = desk.flower.waiting.pop(1)
    name = desk.order(b"sealed")
    assert desk.heard == [(1, "unknown to Flower", None)]
    desk.flower.waiting[1] = queue  # the service has registered it meanwhile
    while not queue:
        assert desk.pull(name, 1) == []
    assert queue[0].metadata.message_type == "query"
