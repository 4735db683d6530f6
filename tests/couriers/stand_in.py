"""A stand-in for Flower between FleetGrid and Link, with Flower's real semantics (measured with flwr 1.41).

A message is given to its node once and a reply to its reader once: whoever loses one never sees it
again. A node that is offline answers with errors. A pull may block, and ends in an error. Messages
are copied through Flower's own wire form, so that nothing is shared by accident.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Error, Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run

from solblom_client.link.errors import LinkError
from solblom_protocol.messages.flower import FAB_HASH

Change = Callable[[Message], Message | None]
"""What happens to a message on one way: another one, or none at all."""


def unchanged(message: Message) -> Message:
    return message


def copied(message: Message) -> Message:
    """Return a message as it looks on the other side of the wire."""
    name = message.object_id
    contents = {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
    copy = inflate_object_from_contents(name, contents)
    assert isinstance(copy, Message)
    copy.metadata.__dict__["_message_id"] = message.metadata.message_id or name
    return copy


@dataclass
class FlowerStandIn(Grid):
    """The SuperLink with one run: a Grid on one side, a `NodeDoor` for each node on the other."""

    nodes: Iterable[int]
    fab_hash: str = FAB_HASH
    way_out: Change = unchanged
    way_back: Change = unchanged
    online: set[int] = field(default_factory=set)
    waiting: dict[int, deque[Message]] = field(default_factory=dict)
    given: dict[str, Message] = field(default_factory=dict)  # pulled, not confirmed
    asked: dict[str, Message] = field(default_factory=dict)  # every message, by id
    replies: dict[str, Message] = field(default_factory=dict)
    blocking: dict[str, float] = field(default_factory=dict)  # message id → seconds a pull takes
    ended: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.waiting = {node: deque() for node in self.nodes}
        self._run = Run.create_empty(run_id=1)

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return Message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.online)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise AssertionError("couriers push and pull")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names: list[Any] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            name, node = message.metadata.message_id, message.metadata.dst_node_id
            with self.lock:
                if node not in self.waiting or self.ended:
                    names.append(None)  # as Flower does for a node that it does not know
                    continue
                self.asked[name] = copied(message)
                carried = self.way_out(copied(message))
                if carried is not None:
                    carried.metadata.__dict__["_message_id"] = name
                    self.waiting[node].append(carried)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found: list[Message] = []
        for name in message_ids:
            with self.lock:
                seconds = self.blocking.pop(name, None)
                reply = None if seconds is not None else self.replies.pop(name, None)
                asked = self.asked.get(name)
            if seconds is not None and asked is not None:
                time.sleep(seconds)
                found.append(Message(Error(code=6, reason="objects unavailable"), reply_to=asked))
            elif reply is not None:
                found.append(reply)
            elif asked is not None and asked.metadata.dst_node_id not in self.online:
                found.append(Message(Error(code=3, reason="Node unavailable"), reply_to=asked))
        return found

    def reply_arrives(self, reply: Message) -> bool:
        """Take a node's reply in; False when it is of no use."""
        name = reply.metadata.reply_to_message_id
        with self.lock:
            if name not in self.asked or name in self.replies:
                return False
            carried = self.way_back(copied(reply))
            if carried is not None:
                self.replies[name] = carried
        return True


@dataclass
class NodeDoor:
    """Flower as one node sees it: what `fleet.FleetConnection` offers, trouble included."""

    flower: FlowerStandIn
    node_id: int
    trouble: Callable[[str], None] = lambda call: None
    calls: list[str] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)

    def connect(self, known_id: int = 0) -> int:
        self._call("connect")
        self.flower.online.add(self.node_id)
        return self.node_id

    def heartbeat(self) -> None:
        self._call("heartbeat")

    def leave(self) -> None:
        self._call("leave")
        self.flower.online.discard(self.node_id)

    def fab_hash(self, run_id: int) -> str:
        self._call("fab_hash")
        return self.flower.fab_hash

    def next_head(self) -> tuple[int, ObjectTree] | None:
        self._call("next_head")
        with self.flower.lock:
            queue = self.flower.waiting[self.node_id]
            if not queue:
                return None
            message = queue.popleft()
            name = message.metadata.message_id
            self.flower.given[name] = message
        self._call("next_head answered")  # the answer itself may be lost
        return message.metadata.run_id, ObjectTree(object_id=name)

    def fetch(self, run_id: int, tree: ObjectTree) -> Message:
        self._call("fetch")
        if tree.object_id not in self.flower.given:
            raise LinkError("SB-629", "A part of the message is gone")
        return self.flower.given[tree.object_id]

    def confirm(self, run_id: int, message: Message) -> None:
        self._call("confirm")
        self.flower.given.pop(message.metadata.message_id, None)

    def send(self, reply: Message, *, seconds: float) -> bool:
        self._call("send")
        if self.flower.ended:
            raise LinkError("SB-629", "the run has ended")
        taken = self.flower.reply_arrives(reply)
        self.sent.append(copied(reply))
        self._call("send answered")
        return taken

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.trouble(name)
