"""The file of a log: entries, and the hashes of its complete subtrees, in SQLite (RFC 6962 §2.1).

The hospital's log of decisions and the coordinator's log both stand in such a file. Kept hashes make an append
and every proof logarithmic. Nothing here is checked: whoever reads compares with what was signed.
"""

import sqlite3
from pathlib import Path

from solblom_protocol.logs.merkle import leaf_hash, node_hash
from solblom_protocol.logs.transparency import Head, Subtree, completed, root_from

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS nodes (
  level INTEGER NOT NULL, place INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, place)
) STRICT, WITHOUT ROWID;
"""


def connect(path: Path, *, more: str = "") -> sqlite3.Connection:
    """Open the file: a commit returns once its entries are on disk, at the cost of one sync (WAL).

    `more` makes the tables that one kind of log has besides; it must bear to be run again.
    """
    if not path.exists():
        path.touch(mode=0o600)
    database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.executescript(
        _SCHEMA + more
    )  # each time: a crash may have come between file and tables
    return database


def put(database: sqlite3.Connection, seq: int, entry: str) -> None:
    """Put an entry at the log's end, which is `seq`, and the hashes of the subtrees that it completes."""
    database.execute("INSERT INTO entries VALUES (?, ?)", (seq, entry))
    found = leaf_hash(entry.encode())
    database.execute("INSERT INTO nodes VALUES (0, ?, ?)", (seq, found))
    for level in completed(seq):
        found = node_hash(kept_hash(database, level - 1, (seq >> level - 1) - 1) or b"", found)
        database.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, seq >> level, found))


def kept_hash(database: sqlite3.Connection, level: int, place: int) -> bytes | None:
    """Return the hash over 2^level entries, as it was kept."""
    row = database.execute(
        "SELECT hash FROM nodes WHERE level = ? AND place = ?", (level, place)
    ).fetchone()
    return None if row is None else bytes(row[0])


def node_of(database: sqlite3.Connection) -> Subtree:
    """Return what gives the kept hashes of a log's subtrees; of those that are not there, nothing."""
    return lambda level, place: kept_hash(database, level, place) or b""


def head_at(database: sqlite3.Connection, size: int) -> Head:
    """Return the head over the first `size` entries, from the kept hashes."""
    return Head(size, root_from(size, node_of(database)))


def recomputed(entries: list[str]) -> dict[tuple[int, int], bytes]:
    """Return the hashes of all complete subtrees over a whole log's entries, by (level, place)."""
    nodes: dict[tuple[int, int], bytes] = {}
    for seq, entry in enumerate(entries):
        found = nodes[0, seq] = leaf_hash(entry.encode())
        for level in completed(seq):
            found = node_hash(nodes[level - 1, (seq >> level - 1) - 1], found)
            nodes[level, seq >> level] = found
    return nodes


def nothing(level: int, place: int) -> bytes:
    """Stand for the subtrees of an empty log: it has none."""
    return b""
