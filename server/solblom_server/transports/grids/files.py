"""The file grid: orders leave and replies arrive as files, whoever carries them, for as long as it takes.

exchange/<site>/orders/   written here, to be carried to the hospital
exchange/<site>/replies/  brought back from the hospital

An order that was written stays until it is answered or its round has closed, so a coordinator that
starts anew waits for the replies that are on their way instead of asking again. Replies that come
again, or too late, are removed: the folders do not grow with rounds.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import Message, RecordDict

from solblom_protocol.messages.mailbox import list_mail, read_mail, write_mail
from solblom_server.transports.grids.courier import CourierGrid
from solblom_server.transports.grids.sealed import sealed_bytes, sealed_content

REMEMBERED = 10_000  # newest orders that are settled, over all nodes; one is about 150 bytes


class FileGrid(CourierGrid):
    """A Grid over folders: `folders` has each node's by Flower node id.

    `before_pull` is called before replies are looked for: a carrier's turn, or a check that raises.
    """

    poll_seconds = 0.5

    def __init__(
        self, folders: dict[int, Path], *, before_pull: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(folders)
        self._folders = folders
        self._before_pull = before_pull
        self._waiting: dict[str, Message] = {}  # order file's digest → the message it carries
        self._settled: dict[str, None] = {}  # answered or withdrawn, oldest first
        for folder in folders.values():
            (folder / "orders").mkdir(parents=True, exist_ok=True)
            (folder / "replies").mkdir(parents=True, exist_ok=True)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Write each order as a file; its digest is the message's id."""
        accepted: list[str] = []
        for message in messages:
            sealed = sealed_bytes(message.content)
            if sealed is None:
                raise ValueError("the file grid carries sealed messages only")
            folder = self._folders[message.metadata.dst_node_id] / "orders"
            file = write_mail(folder, sealed)
            message.metadata.__dict__["_message_id"] = file.digest
            message.content = RecordDict()  # the file holds it; memory need not
            self._waiting[file.digest] = message
            accepted.append(file.digest)
        return accepted

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that have arrived whole, one by one; removes an answered order's file."""
        self._before_pull()
        wanted = set(message_ids)
        for folder in self._folders.values():
            for file in list_mail(folder / "replies").mail:
                if file.answers in wanted and file.answers in self._waiting:
                    sealed = read_mail(file)
                    if sealed is not None:
                        yield self._reply(file.answers, sealed)
                        # Only now that it was taken in: a crash before leaves both files.
                        self._settle(folder, file.answers)
                        file.path.unlink(missing_ok=True)
                elif file.answers in self._settled:  # carried twice, or late
                    file.path.unlink(missing_ok=True)

    def holds_order(self, node: int, order: str) -> bool:
        """Tell whether the order's file still waits to be answered, also since before a restart."""
        return (self._folders[node] / "orders" / f"{order}.order").is_file()

    def take_up(self, message: Message, order: str) -> str:
        """Wait for the reply to an order that was written earlier; return its message id."""
        message.metadata.__dict__["_message_id"] = order
        message.content = RecordDict()
        self._waiting[order] = message
        return order

    def withdraw(self, node: int, order: str) -> None:
        """Remove an order that nobody waits for any more; a reply that still comes is removed too."""
        self._waiting.pop(order, None)
        self._settle(self._folders[node], order)

    def _settle(self, folder: Path, order: str) -> None:
        (folder / "orders" / f"{order}.order").unlink(missing_ok=True)
        self._settled[order] = None
        if len(self._settled) > REMEMBERED:
            del self._settled[next(iter(self._settled))]

    def _reply(self, order: str, sealed: bytes) -> Message:
        message = self._waiting.pop(order)
        return Message(sealed_content(sealed), reply_to=message)
