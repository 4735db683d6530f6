"""What the vault's state remembers of the log of decisions: its newest signed head, noted before the log has it.

The log lies in a folder of its own, which can be emptied, set back or added to. So the signed head that an append
leads to is put into `meta` of the vault's state first, with the entries that lead to it: the log can then be neither
shorter nor longer than what is noted, but for that one batch after a crash, and the next append puts it in.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from solblom_client.state import VaultState, make_durable
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.transparency import Head, read_checkpoint
from solblom_protocol.messages.message import Message, parse_message

KEY = "decision_log"
WAIT_SECONDS = 30.0  # for another process that reads or writes the state
_GET = "SELECT value FROM meta WHERE key = ?"
_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class _Note(Message):
    """The row in `meta`: a signed checkpoint, the entries that are new in it, and the copy that exists for sure."""

    schema_: Literal["solblom.log-note/1"] = Field(alias="schema")
    checkpoint: str
    batch: list[str]
    copied: str | None


@dataclass(frozen=True)
class Noted:
    """The newest head, and what a crash may have kept out of the log.

    Attributes:
        batch: the entries that no checkpoint signs yet; the log may lack the last of them.
        copied: where a copy of the checkpoint must be.
    """

    head: Head
    batch: tuple[str, ...]
    copied: str | None

    @property
    def before(self) -> int:
        """The size of the log up to which checkpoints were published."""
        return self.head.size - len(self.batch)


@dataclass(frozen=True)
class LogMemory:
    """Where a log's newest head is noted: the vault's state, by its path and open; neither for a log that stands alone.

    An order reads and writes it several times, and opening a file anew takes longer than that.
    """

    path: Path | None
    state: VaultState | None = None

    def read(self, origin: str, public: Ed25519PublicKey) -> Noted | None:
        """Return what is noted of the log `origin`; None where nothing was logged yet.

        Raises:
            IntegrityError: SB-402 or SB-406, the state cannot be read; SB-406, this key did not sign what is noted.
        """
        if self.state is not None:
            rows = self.state.query(_GET, (KEY,))
        elif self.path is not None:
            with _opened(self.path) as database:
                rows = database.execute(_GET, (KEY,)).fetchall()
        else:
            return None
        return _noted(str(rows[0][0]), origin, public) if rows else None

    def write(self, checkpoint: str, batch: list[str], copied: str | None) -> None:
        """Note a signed head, on disk, before the log has it.

        Raises:
            IntegrityError: SB-402 or SB-406, the disk does not take it.
        """
        if self.state is not None:
            with self.state.transaction():
                note_in(self.state, checkpoint, batch, copied)
        elif self.path is not None:
            with _opened(self.path) as database:
                database.execute(_PUT, _row(checkpoint, batch, copied))


def _noted(text: str, origin: str, public: Ed25519PublicKey) -> Noted:
    try:
        note = parse_message(_Note, text.encode())
        head = read_checkpoint(note.checkpoint, origin, public)
    except IntegrityError as error:
        raise IntegrityError(
            "SB-406", f"What the vault's state notes of the log does not hold: {error.message}"
        ) from None
    if len(note.batch) > head.size:
        raise IntegrityError("SB-406", "The vault's state notes more entries than were signed")
    return Noted(head, tuple(note.batch), note.copied)


def note_in(state: VaultState, checkpoint: str, batch: list[str], copied: str | None) -> None:
    """Note it inside a transaction that is open, together with what it makes.

    Raises:
        IntegrityError: SB-406, the disk does not take it.
    """
    try:
        state.execute(_PUT, _row(checkpoint, batch, copied))
    except sqlite3.Error:
        raise IntegrityError(
            "SB-406", "The vault's state cannot note how long the log of decisions is"
        ) from None


def _row(checkpoint: str, batch: list[str], copied: str | None) -> tuple[str, str]:
    note = _Note(
        schema="solblom.log-note/1", checkpoint=checkpoint, batch=list(batch), copied=copied
    )
    return KEY, note.payload().decode()


def has_charges(state: Path) -> bool:
    """Tell whether the ledger has a charge: then there was a log.

    Raises:
        IntegrityError: SB-406, the state cannot be read.
    """
    with _opened(state) as database:
        return database.execute("SELECT 1 FROM events LIMIT 1").fetchone() is not None


@contextmanager
def _opened(state: Path) -> Iterator[sqlite3.Connection]:
    """Open the state through a connection of its own; it is never made here.

    Raises:
        IntegrityError: SB-406.
    """
    try:
        address = f"{state.absolute().as_uri()}?mode=rw"
        with closing(
            sqlite3.connect(address, uri=True, isolation_level=None, timeout=WAIT_SECONDS)
        ) as database:
            make_durable(database)
            yield database
    except sqlite3.Error:
        raise IntegrityError(
            "SB-406", "The vault's state cannot tell, or note, how long the log of decisions is"
        ) from None
