"""The local grid: calls the nodes' ClientApps in this process, one after another. For research, tests and the demo."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

ClientApp = Callable[[Message, Context], Message]


@dataclass(frozen=True)
class LocalNode:
    """A node in this process: its ClientApp and where it finds its node.toml."""

    app: ClientApp
    node_config: dict[str, str]


class LocalGrid(Grid):
    """A Grid without a network. Messages are copied as Flower's wire format would copy them."""

    def __init__(self, nodes: dict[int, LocalNode]) -> None:
        self._nodes = nodes
        self._run = Run.create_empty(run_id=1)
        self._waiting: dict[str, Message] = {}
        self._ids = itertools.count(1)

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node of this grid."""
        # Message's constructor takes run and source from Flower's process-wide task identity.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run.run_id, 1, 1
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of this process."""
        return list(self._nodes)

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

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push and pull; `timeout` has no meaning in one process."""
        return list(self.pull_messages(self.push_messages(messages)))

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
