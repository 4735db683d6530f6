"""The local grid: calls the nodes' ClientApps in this process, one after another. For research, tests and the demo."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto

from solblom_server.transports.grids.courier import CourierGrid

ClientApp = Callable[[Message, Context], Message]


@dataclass(frozen=True)
class LocalNode:
    """A node in this process: its ClientApp and where it finds its node.toml."""

    app: ClientApp
    node_config: dict[str, str]


class LocalGrid(CourierGrid):
    """A Grid without a network. Messages are copied as Flower's wire format would copy them."""

    # Nodes work one after another: orders that waited would hold a copy of the model each.
    most_waiting = 1

    def __init__(self, nodes: dict[int, LocalNode]) -> None:
        super().__init__(nodes)
        self._nodes = nodes
        self._waiting: dict[str, Message] = {}
        self._ids = itertools.count(1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Accept messages; a node starts to work when its reply is pulled."""
        accepted: list[str] = []
        for message in messages:
            message_id = f"local-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message_from_proto(message_to_proto(message))
            accepted.append(message_id)
        return accepted

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield replies one by one, so that only one update is in memory at a time."""
        for message_id in message_ids:
            message = self._waiting.pop(message_id, None)
            if message is not None:
                yield self._call(message)

    def _call(self, message: Message) -> Message:
        node = self._nodes[message.metadata.dst_node_id]
        context = Context(
            run_id=self._run.run_id,
            node_id=message.metadata.dst_node_id,
            node_config=dict(node.node_config),
            state=RecordDict(),
            run_config={},
        )
        try:
            reply = node.app(message, context)
        except Exception:
            # What a node's process would do when it dies: an error without a word about why.
            return Message(Error(code=0, reason="The node did not answer"), reply_to=message)
        return message_from_proto(message_to_proto(reply))
