"""The file of the log of decisions: its tables, its sizes and its hashes as they were kept; nothing here is checked."""

import json
import os
import sqlite3
from pathlib import Path

from solblom_protocol.transparency import Subtree

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nodes (
  level INTEGER NOT NULL, place INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeats (
  name TEXT PRIMARY KEY, hour TEXT NOT NULL, event TEXT NOT NULL, code TEXT, count INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""


def size_of(database: sqlite3.Connection) -> int:
    """Return how many entries the log has had, pruned ones included."""
    newest = database.execute("SELECT max(seq) FROM entries").fetchone()[0]
    return first_of(database) if newest is None else int(newest) + 1


def first_of(database: sqlite3.Connection) -> int:
    """Return the number of the oldest entry that is kept."""
    row = database.execute("SELECT value FROM facts WHERE name = 'first'").fetchone()
    return 0 if row is None else int(row[0])


def kept_hash(database: sqlite3.Connection, level: int, place: int) -> bytes | None:
    """Return the hash over 2^level entries, as it was kept."""
    row = database.execute(
        "SELECT hash FROM nodes WHERE level = ? AND place = ?", (level, place)
    ).fetchone()
    return None if row is None else bytes(row[0])


def node_of(database: sqlite3.Connection) -> Subtree:
    """Return what gives the kept hashes of a log's subtrees; of those that are not there, nothing."""
    return lambda level, place: kept_hash(database, level, place) or b""


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


def nothing(level: int, place: int) -> bytes:
    """Stand for the subtrees of an empty log: it has none."""
    return b""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file: a commit returns once its entries are on disk, at the cost of one sync (WAL)."""
    if not path.exists():
        path.touch(mode=0o600)
    database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.executescript(_SCHEMA)  # each time: a crash may have come between file and tables
    return database


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, and synced, file and folder, before it takes its name."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
