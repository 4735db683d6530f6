"""The coordinator's log: what it did, in the order in which it did it, in a tree that can only grow (RFC 6962).

    log/transparency.sqlite   entries, kept hashes, cosignatures, and which head a hospital was shown
    log/checkpoint.txt        newest head that was shown to anybody, signed

Entries are canonical JSON (`log/entries.py`) and on disk when `append` returns. Each has a key, so a run that is
resumed writes nothing twice. A hospital is shown one head at a time: until it has answered an order with it, every
order to it shows that head again. So there is always a proof from the head that it remembers, whatever was lost.
"""

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs import tree_file
from solblom_protocol.logs.cosignature import Cosignature, join_cosignatures
from solblom_protocol.logs.transparency import (
    Head,
    consistency_path,
    inclusion_path,
    log_origin,
    read_checkpoint,
    write_checkpoint,
)
from solblom_server.log.entries import LogEntry
from solblom_verify.envelope import key_id

FOLDER, LOG_FILE, CHECKPOINT_FILE, LOCK_FILE = (
    "log",
    "transparency.sqlite",
    "checkpoint.txt",
    "transparency.lock",
)
_MORE = """
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, seq INTEGER NOT NULL, artefact TEXT) STRICT;
CREATE INDEX IF NOT EXISTS keys_artefact ON keys (artefact, seq) WHERE artefact IS NOT NULL;
CREATE TABLE IF NOT EXISTS cosignatures (
  size INTEGER NOT NULL, name TEXT NOT NULL, time INTEGER NOT NULL, line TEXT NOT NULL,
  PRIMARY KEY (size, name)
) STRICT;
CREATE TABLE IF NOT EXISTS heads (site TEXT PRIMARY KEY, seen INTEGER, shown INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS asked (order_digest TEXT PRIMARY KEY, size INTEGER NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Shown:
    """What the next order shows a hospital: a signed head, and the proof from the head that it has seen."""

    size: int
    checkpoint: str
    consistency: tuple[bytes, ...]


class TransparencyLog:
    """The log of one coordinator; several processes may use it, one at a time writes."""

    def __init__(self, home: Path, key: Ed25519PrivateKey) -> None:
        self._folder, self._key = home / FOLDER, key
        self.public = key.public_key()
        self.origin = log_origin(key_id(self.public))
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give the open file.

        Raises:
            IntegrityError: SB-410.
        """
        try:
            if self._database is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._database = tree_file.connect(self._folder / LOG_FILE, more=_MORE)
            yield self._database
        except (sqlite3.Error, OSError):
            raise IntegrityError(
                "SB-410", f"{FOLDER}/{LOG_FILE} cannot be read or written"
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the log's lock and a transaction, once the log is what was signed; commit everything or nothing.

        Raises:
            IntegrityError: SB-410.
        """
        with self._reading() as database, (self._folder / LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._check(database)
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    def _check(self, database: sqlite3.Connection) -> None:
        """Refuse to go on with a log that is not the one that was shown to hospitals.

        Raises:
            IntegrityError: SB-410.
        """
        head, size = self.published(), _size(database)
        if head is None:
            return
        if size < head.size:
            raise IntegrityError(
                "SB-410", f"The log has {size} entries, and {head.size} were signed"
            )
        if tree_file.head_at(database, head.size) != head:
            raise IntegrityError("SB-410", "The log is not the one that was signed")

    def published(self) -> Head | None:
        """Return the newest head that was shown to anybody; None before the first.

        Raises:
            IntegrityError: SB-410, its file is not signed by this coordinator.
        """
        try:
            note = (self._folder / CHECKPOINT_FILE).read_text("utf-8")
            return read_checkpoint(note, self.origin, self.public)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, IntegrityError):
            raise IntegrityError("SB-410", f"{FOLDER}/{CHECKPOINT_FILE} does not hold") from None

    def append(self, *entries: LogEntry, seen: Mapping[str, int] | None = None) -> list[int]:
        """Put entries on disk and return their indices; one whose key stands in the log already keeps its index.

        `seen`: which head a hospital is now known to have seen, by site.

        Raises:
            IntegrityError: SB-410.
        """
        if not entries and not seen:
            return []
        with self._writing() as database:
            found = [_put(database, entry) for entry in entries]
            for site, size in (seen or {}).items():
                database.execute(
                    "UPDATE heads SET seen = max(coalesce(seen, 0), ?) WHERE site = ?", (size, site)
                )
        return found

    def show(self, sites: Iterable[str], *, at: int | None = None) -> dict[str, Shown]:
        """Return what the next order to each hospital shows, once that is on disk.

        It is the newest head, or the one `at` that size for those who have not been shown a later one; a hospital that
        has not answered yet is shown the same head again.

        Raises:
            IntegrityError: SB-410.
        """
        with self._writing() as database:
            newest = _size(database) if at is None else at
            chosen = {site: _next_head(database, site, newest) for site in sites}
            largest = max((size for _, size in chosen.values()), default=0)
            published = self.published()
            if published is None or published.size < largest:
                note = self._note(database, largest)
                write_whole(self._folder / CHECKPOINT_FILE, note.encode())
            return {
                site: Shown(
                    size,
                    self._note(database, size),
                    ()
                    if seen is None
                    else consistency_path(seen, size, tree_file.node_of(database)),
                )
                for site, (seen, size) in chosen.items()
            }

    def note_asked(self, order: str, size: int) -> None:
        """Remember which head an order to witness shows."""
        with self._writing() as database:
            database.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", (order, size))

    def asked(self, order: str) -> int | None:
        """Return which head an order to witness showed."""
        with self._reading() as database:
            row = database.execute(
                "SELECT size FROM asked WHERE order_digest = ?", (order,)
            ).fetchone()
        return None if row is None else int(row[0])

    def add_cosignature(self, size: int, cosignature: Cosignature) -> None:
        """Keep a checked cosignature of the head over `size` entries; its witness has seen that head."""
        with self._writing() as database:
            row = (size, cosignature.name, cosignature.time, cosignature.line)
            database.execute("INSERT OR IGNORE INTO cosignatures VALUES (?, ?, ?, ?)", row)
            database.execute(
                "UPDATE heads SET seen = max(coalesce(seen, 0), ?) WHERE site = ?",
                (size, cosignature.name),
            )

    def cosigners(self, size: int) -> dict[str, int]:
        """Return who cosigned the head over `size` entries, and when, in seconds since 1970."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT name, time FROM cosignatures WHERE size = ? ORDER BY name", (size,)
            ).fetchall()
        return {str(name): int(time) for name, time in rows}

    def cosigned_sizes(self) -> list[int]:
        """Return the sizes of the heads that somebody cosigned, the newest first."""
        with self._reading() as database:
            rows = database.execute("SELECT DISTINCT size FROM cosignatures ORDER BY size DESC")
            return [int(row[0]) for row in rows.fetchall()]

    def size(self) -> int:
        """Return how many entries the log has."""
        with self._reading() as database:
            return _size(database)

    def head(self, size: int | None = None) -> Head:
        """Return the head over the first `size` entries, or over all."""
        with self._reading() as database:
            return tree_file.head_at(database, _size(database) if size is None else size)

    def checkpoint(self, size: int | None = None) -> str:
        """Return the signed head over the first `size` entries, or over all, with every cosignature that it has."""
        with self._reading() as database:
            size = _size(database) if size is None else size
            rows = database.execute("SELECT line FROM cosignatures WHERE size = ?", (size,))
            return join_cosignatures(self._note(database, size), [row[0] for row in rows])

    def note(self, size: int) -> str:
        """Return the signed head over the first `size` entries, with the log's own signature alone."""
        with self._reading() as database:
            return self._note(database, size)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that an entry is among the first `size`."""
        with self._reading() as database:
            return inclusion_path(index, size, tree_file.node_of(database))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first `old` of `new` entries are the earlier log."""
        with self._reading() as database:
            return consistency_path(old, new, tree_file.node_of(database))

    def entries(self) -> list[str]:
        """Return all entries as they stand."""
        with self._reading() as database:
            rows = database.execute("SELECT entry FROM entries ORDER BY seq").fetchall()
        return [str(row[0]) for row in rows]

    def about(self, artefact: str) -> dict[int, str]:
        """Return the entries about an artefact by index, ascending."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT entries.seq, entry FROM keys JOIN entries ON entries.seq = keys.seq"
                " WHERE artefact = ? ORDER BY entries.seq",
                (artefact,),
            ).fetchall()
        return {int(seq): str(entry) for seq, entry in rows}

    def kept_hashes(self) -> dict[tuple[int, int], bytes]:
        """Return the kept hashes by (level, place), to be compared with computed ones."""
        with self._reading() as database:
            rows = database.execute("SELECT level, place, hash FROM nodes").fetchall()
        return {(int(level), int(place)): bytes(kept) for level, place, kept in rows}

    def lines(self, size: int) -> dict[str, str]:
        """Return the cosignatures of a head as they stand, by the witness's name."""
        with self._reading() as database:
            rows = database.execute("SELECT name, line FROM cosignatures WHERE size = ?", (size,))
            return {str(name): str(line) for name, line in rows.fetchall()}

    def _note(self, database: sqlite3.Connection, size: int) -> str:
        return write_checkpoint(self.origin, tree_file.head_at(database, size), self._key)


def _size(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT coalesce(max(seq) + 1, 0) FROM entries").fetchone()[0])


def _put(database: sqlite3.Connection, entry: LogEntry) -> int:
    row = database.execute("SELECT seq FROM keys WHERE key = ?", (entry.key,)).fetchone()
    if row is not None:
        return int(row[0])
    seq = _size(database)
    tree_file.put(database, seq, entry.text)
    database.execute("INSERT INTO keys VALUES (?, ?, ?)", (entry.key, seq, entry.artefact))
    return seq


def _next_head(database: sqlite3.Connection, site: str, newest: int) -> tuple[int | None, int]:
    """Return which head a hospital is known to have seen, and which it is shown next; notes the latter."""
    row = database.execute("SELECT seen, shown FROM heads WHERE site = ?", (site,)).fetchone()
    seen, shown = (None, None) if row is None else (row[0], int(row[1]))
    if shown is not None and (seen is None or shown > seen):
        return seen, shown  # it may have seen it, or not: from both there is a proof to it
    size = max(newest, seen or 0)
    database.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (site, seen, size))
    return seen, size
