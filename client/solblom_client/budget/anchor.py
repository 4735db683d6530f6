"""The ledger's anchor: its length and head, kept outside the state folder (privacy.md rule 6).

A state folder that was restored from a backup has forgotten charges. The anchor is written after
every charge; a ledger that is shorter than its anchor, or another one of the same length, stops the
node.
"""

import fcntl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import ConfigDict, Field

from solblom_protocol.durable_file import PUBLIC, exchange, rewrite, write_whole
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.message import Digest, Message, parse_message

EMPTY_HEAD = "sha256:" + "0" * 64


class _AnchorFile(Message):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: str = Field(alias="schema", pattern=r"^solblom\.ledger-anchor/1$")
    count: int = Field(ge=0)
    head: Digest


@dataclass(frozen=True)
class LedgerHead:
    """How many charges a ledger has, and the hash chain over them."""

    count: int
    head: str


@lru_cache(maxsize=4)  # read before every charge, and again before it is replaced
def _head_in(data: bytes) -> LedgerHead:
    value = parse_message(_AnchorFile, data)
    return LedgerHead(value.count, value.head)


class Anchor:
    """The anchor's file. `None` as path: no anchor, and rollbacks are seen through receipts only."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def exists_for_sure(self) -> bool:
        """Whether node.toml names an anchor, so that its absence means something."""
        return self._path is not None

    def read(self) -> LedgerHead | None:
        """Return the anchored head; None where there is no anchor or it was never written.

        Raises:
            IntegrityError: SB-402, the file is unreadable.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            return _head_in(self._path.read_bytes())
        except (OSError, IntegrityError):
            raise IntegrityError("SB-402", "The ledger's anchor cannot be read") from None

    def write(self, head: LedgerHead) -> None:
        """Replace the anchor, synced to disk, whole or not at all; one writer at a time, and never by an older head.

        Raises:
            IntegrityError: SB-402, it cannot be written, or what stands there cannot be read.
        """
        if self._path is None:
            return
        data = _AnchorFile(schema="solblom.ledger-anchor/1", count=head.count, head=head.head)
        partial = self._path.with_suffix(".partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                there = self.read()
                if there is not None and there.count > head.count:
                    return  # another writer came first, with a later charge
                if there is None:
                    # Its name must outlast a power failure, too: its absence stops the node.
                    write_whole(self._path, data.payload(), mode=PUBLIC)
                    return
                rewrite(partial, data.payload(), mode=PUBLIC)
                exchange(partial, self._path)  # the older anchor's place on disk is the next one's
        except OSError:
            raise IntegrityError("SB-402", "The ledger's anchor cannot be written") from None
