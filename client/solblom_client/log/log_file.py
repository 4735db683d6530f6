"""What the log of decisions has in its file besides entries and hashes: counted repeats, and what was pruned."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs import tree_file

_MORE = """
CREATE TABLE IF NOT EXISTS repeats (
  name TEXT PRIMARY KEY, hour TEXT NOT NULL, event TEXT NOT NULL, code TEXT, count INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file."""
    return tree_file.connect(path, more=_MORE)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name, device and inode; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def size_of(database: sqlite3.Connection) -> int:
    """Return how many entries the log has had, pruned ones included."""
    newest = database.execute("SELECT max(seq) FROM entries").fetchone()[0]
    return first_of(database) if newest is None else int(newest) + 1


def first_of(database: sqlite3.Connection) -> int:
    """Return the number of the oldest entry that is kept."""
    row = database.execute("SELECT value FROM facts WHERE name = 'first'").fetchone()
    return 0 if row is None else int(row[0])


def pruned_to(database: sqlite3.Connection) -> int:
    """Return up to which number the log itself says that entries were forgotten."""
    if not first_of(database):
        return 0
    row = database.execute(
        'SELECT entry FROM entries WHERE instr(entry, \'"event":"pruned"\')'
        ' OR instr(entry, \'"event":"log-accepted"\') ORDER BY seq DESC LIMIT 1'
    ).fetchone()
    try:
        found = json.loads(row[0]).get("first") if row is not None else 0
    except (ValueError, AttributeError):  # an entry that somebody wrote into the file
        return 0
    return found if isinstance(found, int) else 0


def touch(database: sqlite3.Connection) -> None:
    """Write something, so that the commit is synced: one that writes nothing syncs nothing of what came before it."""
    database.execute(
        "INSERT INTO facts VALUES ('touched', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
    )


def time_of(entry: str) -> str:
    """Return the time of an entry as it stands there, with its name."""
    start = entry.index('"time":"')
    return entry[start : entry.index('"', start + 8) + 1]


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file to read.

    Raises:
        IntegrityError: SB-406.
    """
    try:
        with closing(connect(path)) as database:
            yield database
    except (sqlite3.Error, ValueError, OverflowError):
        raise IntegrityError("SB-406", "The log of decisions cannot be read") from None
