"""What every courier of Solblom shares: it is a Flower Grid, and its nodes have addresses."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


@runtime_checkable
class KeepsOrders(Protocol):
    """A courier whose orders outlive this process, such as files."""

    def holds_order(self, node: int, order: str) -> bool:
        """Tell whether the order still waits to be answered."""
        ...

    def take_up(self, message: Message, order: str) -> str:
        """Wait for the reply to it; return its message id."""
        ...

    def withdraw(self, node: int, order: str) -> None:
        """Take back an order that nobody waits for any more, and what may still answer it."""
        ...


class CourierGrid(Grid):
    """A Grid to the nodes given; how messages travel is its children's business.

    Attributes:
        most_waiting: how many orders may wait in it at a time; None: all that there are.
        shares_bodies: whether orders whose body is a record of its own may be given to it.
    """

    most_waiting: int | None = None
    shares_bodies = False

    def __init__(self, nodes: Iterable[int]) -> None:
        self._addresses = list(nodes)
        self._run = Run.create_empty(run_id=1)

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
        # Message's constructor takes run and source from Flower's process-wide task identity; a
        # ServerApp that Flower started has one, our own process has none.
        try:
            _ = TaskIdentity.run_id
        except RuntimeError:
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run.run_id, 1, 1
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the addresses of the nodes."""
        return list(self._addresses)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull what is there; `timeout` has no meaning for these couriers."""
        return list(self.pull_messages(self.push_messages(messages)))
