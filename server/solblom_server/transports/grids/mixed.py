"""The mixed grid: each node has its own courier, so that one run reaches hospitals by network and by file."""

from collections.abc import Iterable, Mapping

from flwr.app import Message

from solblom_server.transports.grids.courier import CourierGrid, KeepsOrders


class MixedGrid(CourierGrid):
    """A Grid over other grids: `couriers` has each node's by Flower node id."""

    def __init__(self, couriers: Mapping[int, CourierGrid]) -> None:
        super().__init__(couriers)
        self._couriers = dict(couriers)
        self._grids = list(dict.fromkeys(self._couriers.values()))
        self._carried_by: dict[str, CourierGrid] = {}
        self.shares_bodies = any(grid.shares_bodies for grid in self._grids)
        self.poll_seconds = min(getattr(grid, "poll_seconds", 0.2) for grid in self._grids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to its node's courier."""
        accepted: list[str] = []
        for message in messages:
            grid = self._couriers[message.metadata.dst_node_id]
            for message_id in grid.push_messages([message]):
                self._carried_by[message_id] = grid
                accepted.append(message_id)
        return accepted

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield what has arrived by any courier."""
        wanted = set(message_ids)
        self._carried_by = {m: g for m, g in self._carried_by.items() if m in wanted}
        for grid in self._grids:
            yield from grid.pull_messages([m for m, g in self._carried_by.items() if g is grid])

    def holds_order(self, node: int, order: str) -> bool:
        """Tell whether the node's courier still waits for an answer to the order."""
        grid = self._couriers[node]
        return isinstance(grid, KeepsOrders) and grid.holds_order(node, order)

    def take_up(self, message: Message, order: str) -> str:
        """Let the node's courier wait for the answer to an order of before a restart."""
        grid = self._couriers[message.metadata.dst_node_id]
        if not isinstance(grid, KeepsOrders):
            raise TypeError("This courier keeps no orders")
        taken = grid.take_up(message, order)
        self._carried_by[taken] = grid
        return taken

    def withdraw(self, node: int, order: str) -> None:
        """Let the node's courier take back an order that nobody waits for any more."""
        self._carried_by.pop(order, None)
        grid = self._couriers[node]
        if isinstance(grid, KeepsOrders):
            grid.withdraw(node, order)
