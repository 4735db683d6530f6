"""A courier that loses, doubles, reorders, delays, cuts, changes and replays what it carries.

It stands before a real grid and does to messages what networks and people do to them. A fault
strikes once, at one site's message of one round, on the way out or on the way back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from solblom_server.transports.grids.files import FileGrid
from solblom_server.transports.grids.fleet import FleetGrid

Way = Literal["order", "reply"]
FAULTS = ("lose", "cut", "change", "double", "delay", "replay", "swap")


def sealed_of(message: Message) -> bytes:
    return bytes(message.content.array_records["solblom"]["sealed"].data)


def with_sealed(data: bytes) -> RecordDict:
    array = Array(dtype="uint8", shape=(len(data),), stype="solblom.sealed", data=data)
    return RecordDict({"solblom": ArrayRecord({"sealed": array})})


@dataclass
class FaultyGrid(Grid):
    """A grid with one fault: `fault` strikes message number `strikes_at` (from 0) on `way`."""

    inner: Grid
    fault: str
    way: Way
    strikes_at: int
    seen: int = 0
    struck: bool = False
    earlier: dict[tuple[Way, int], bytes] = field(default_factory=dict)  # newest by way and node
    held: list[Message] = field(default_factory=list)
    pushed: dict[str, Message] = field(default_factory=dict)

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self.inner.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return list(self.pull_messages(self.push_messages(messages)))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        accepted: list[str] = []
        for message in messages:
            strikes = self._strikes("order")
            sealed = sealed_of(message)
            if strikes and self.fault == "lose":
                message.metadata.__dict__["_message_id"] = f"lost-{self.seen}"
                self.pushed[f"lost-{self.seen}"] = message
                accepted.append(f"lost-{self.seen}")
                continue
            if strikes:
                harmed = self._harm(sealed, "order", message.metadata.dst_node_id)
                message.content = with_sealed(harmed)
            if strikes and self.fault == "double":
                # The copy's reply comes to nobody: its message id is not the one that is waited for.
                copy = self.inner.create_message(
                    with_sealed(sealed), "train", message.metadata.dst_node_id, "copy"
                )
                copies = list(self.inner.push_messages([copy]))
                if not isinstance(
                    self.inner, FileGrid | FleetGrid
                ):  # there, the same order has one name
                    list(self.inner.pull_messages(copies))
            self.earlier["order", message.metadata.dst_node_id] = sealed
            accepted.extend(self.inner.push_messages([message]))
        return accepted

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = list(message_ids)
        ready, self.held = self.held, []
        yield from ready
        for lost in [name for name in wanted if name in self.pushed]:
            message = self.pushed.pop(lost)
            yield Message(Error(code=0, reason="lost"), reply_to=message)
        replies = list(self.inner.pull_messages([w for w in wanted if not w.startswith("lost-")]))
        if self.fault == "reorder":
            replies.reverse()
        for reply in replies:
            yield from self._carry_back(reply)

    def _carry_back(self, reply: Message) -> Iterable[Message]:
        if reply.has_error() or not self._strikes("reply"):
            if not reply.has_error():
                self.earlier["reply", reply.metadata.src_node_id] = sealed_of(reply)
            yield reply
            return
        sealed = sealed_of(reply)
        if self.fault == "lose":
            reply.content = RecordDict()
        elif self.fault == "delay":
            self.held.append(reply)
            return
        else:
            reply.content = with_sealed(self._harm(sealed, "reply", reply.metadata.src_node_id))
        yield reply
        if self.fault == "double":
            yield reply

    def _strikes(self, way: Way) -> bool:
        if way != self.way or self.struck:
            return False
        self.seen += 1
        self.struck = self.seen == self.strikes_at + 1
        return self.struck

    def _harm(self, sealed: bytes, way: Way, node: int) -> bytes:
        if self.fault == "cut":
            return sealed[: len(sealed) // 2]
        if self.fault == "change":
            return sealed[:-1] + bytes([sealed[-1] ^ 1])
        if self.fault == "replay":
            return self.earlier.get((way, node), sealed)
        if self.fault == "swap":
            others = [data for (w, n), data in self.earlier.items() if w == way and n != node]
            return others[-1] if others else sealed
        return sealed
