"""What must not grow with nodes or rounds: orders that wait in memory, folders of orders and replies."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from solblom_protocol.errors import RunError
from solblom_protocol.messages.mailbox import list_mail, read_mail, write_mail
from solblom_server.rounds.rounds import run_rounds
from solblom_server.transports.grids.courier import KeepsOrders
from solblom_server.transports.grids.files import FileGrid
from solblom_server.transports.grids.fleet import FleetGrid
from solblom_server.transports.grids.local import LocalGrid, LocalNode
from solblom_server.transports.grids.mixed import MixedGrid
from solblom_server.transports.grids.sealed import sealed_bytes, sealed_content
from unit.server.house import SITES, House, explode

SHORT = 0.01  # minutes
CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


class Folders:
    """Hospitals behind folders: `silent` ones never answer; `late` holds what came after a round had closed."""

    def __init__(self, house: House, folder: Path, *, silent: set[str]) -> None:
        self.house, self.silent = house, silent
        self.folders = {n: folder / site for n, site in enumerate(house.hospitals)}
        self.grid = FileGrid(self.folders, before_pull=self.answer)
        self.grid.poll_seconds = 0.01
        self.answered: list[tuple[Path, bytes, str]] = []  # outbox, reply, order
        self.missed: list[tuple[Path, str]] = []

    def answer(self) -> None:
        """Play every hospital's pass over its inbox."""
        for number, hospital in enumerate(self.house.hospitals.values()):
            folder = self.folders[number]
            for file in list_mail(folder / "orders").mail:
                if hospital.site in self.silent:
                    self.missed.append((folder / "replies", file.digest))
                    continue
                order = sealed_content(read_mail(file) or b"")
                message = self.grid.create_message(order, "train", number, "1")
                data = sealed_bytes(hospital(message, CONTEXT).content) or b""
                write_mail(folder / "replies", data, answers=file.digest)
                self.answered.append((folder / "replies", data, file.digest))

    def left(self) -> list[str]:
        """Return what lies in the folders."""
        found = (path for folder in self.folders.values() for path in folder.rglob("*.*"))
        return sorted(path.suffix for path in found)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "home", {}, deadline_minutes=SHORT)


def test_one_order_at_a_time_waits_in_the_local_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    push: Callable[..., Any] = LocalGrid.push_messages

    def counting(grid: LocalGrid, messages: Any) -> Any:
        accepted = push(grid, messages)
        waiting.append(len(grid._waiting))
        return accepted

    monkeypatch.setattr(LocalGrid, "push_messages", counting)
    House(tmp_path / "home", {"north": explode}).run()
    assert waiting == [1] * 2 * (len(SITES) + 2)  # two rounds; north is asked three times


def test_orders_that_nobody_answered_are_taken_back_when_their_round_closes(
    house: House, tmp_path: Path
) -> None:
    folders = Folders(house, tmp_path / "exchange", silent={"north"})
    run_rounds(house.begin(folders.grid))
    assert len(set(folders.missed)) == 2
    assert folders.left() == []


def test_orders_stay_where_they_are_when_the_quorum_is_missed(house: House, tmp_path: Path) -> None:
    folders = Folders(house, tmp_path / "exchange", silent={"north", "west"})
    with pytest.raises(RunError):
        run_rounds(house.begin(folders.grid))
    assert folders.left() == [".order", ".order"]


def test_an_expired_order_is_taken_back_when_the_run_goes_on(house: House, tmp_path: Path) -> None:
    folders = Folders(house, tmp_path / "exchange", silent={"north", "west"})
    run = house.begin(folders.grid)
    with pytest.raises(RunError):
        run_rounds(run)
    first = set(folders.missed)
    with pytest.raises(RunError):
        run_rounds(run)  # long after their deadline
    assert len(set(folders.missed) - first) == 2
    assert folders.left() == [".order", ".order"]


def test_a_reply_that_is_carried_twice_or_comes_late_is_removed(
    house: House, tmp_path: Path
) -> None:
    folders = Folders(house, tmp_path / "exchange", silent={"north"})
    run_rounds(house.begin(folders.grid))
    for replies, data, order in folders.answered:
        write_mail(replies, data, answers=order)
    for replies, order in set(folders.missed):
        write_mail(replies, b"late", answers=order)
    assert len(folders.left()) == 6
    assert list(folders.grid.pull_messages(["unknown"])) == []
    assert folders.left() == []


def test_a_reply_to_an_order_of_somebody_else_is_left_alone(house: House, tmp_path: Path) -> None:
    folders = Folders(house, tmp_path / "exchange", silent=set())
    write_mail(folders.folders[0] / "replies", b"of another run", answers="0" * 64)
    run_rounds(house.begin(folders.grid))
    assert folders.left() == [".reply"]


def test_every_courier_that_keeps_orders_takes_them_back(tmp_path: Path) -> None:
    files = FileGrid({1: tmp_path / "north"})
    fleet = FleetGrid(LocalGrid({}), [2], tmp_path / "spool")
    mixed = MixedGrid({1: files, 2: fleet})
    written = [tmp_path / "north" / "orders" / "a.order", tmp_path / "spool" / "b.order"]
    for path in written:
        path.touch()
    assert all(isinstance(grid, KeepsOrders) for grid in (files, fleet, mixed))
    assert mixed.holds_order(1, "a")
    assert mixed.holds_order(2, "b")
    mixed.withdraw(1, "a")
    mixed.withdraw(2, "b")
    assert [path.exists() for path in written] == [False, False]


def test_the_roster_is_made_once_a_run(house: House, tmp_path: Path) -> None:
    run = house.begin(Folders(house, tmp_path / "exchange", silent=set()).grid)
    assert run.roster is run.roster
    assert [entry.site for entry in run.roster] == sorted(SITES)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch Python's cyclic collector off: it hardly ever comes by for a few large objects."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_what_a_message_carries_is_freed_when_it_was_read() -> None:
    content = sealed_content(b"a model")
    array = weakref.ref(content["solblom"])
    assert sealed_bytes(content) == b"a model"
    del content
    assert array() is None


@pytest.mark.usefixtures("no_collector")
def test_the_local_grid_holds_neither_order_nor_reply_once_they_were_taken() -> None:
    held: list[weakref.ref[Any]] = []

    def app(message: Message, context: Context) -> Message:
        held.append(weakref.ref(message.content["solblom"]))
        return Message(sealed_content(sealed_bytes(message.content) or b""), reply_to=message)

    grid = LocalGrid({1: LocalNode(app, {})})
    for _ in range(2):
        order = grid.create_message(sealed_content(b"a model"), "train", 1, "1")
        for reply in grid.pull_messages(grid.push_messages([order])):
            held.append(weakref.ref(reply.content["solblom"]))
        del order, reply
    assert [what() for what in held] == [None] * 4


@pytest.mark.parametrize("record", [None, {"sealed": "text"}, {"another": b"x"}])
def test_a_message_without_sealed_bytes_has_none(record: dict[str, Any] | None) -> None:
    content = RecordDict() if record is None else RecordDict({"solblom": ConfigRecord(record)})
    assert sealed_bytes(content) is None
