"""The vault's durable state: one SQLite file, every commit synced to disk, one writer at a time.

`synchronous=EXTRA` makes a commit return only after file and folder are synced: a reservation is on
disk before a row is read (privacy.md rule 5). The file is made once, by `create_state`; a missing or
damaged one stops the node, because a fresh ledger would forget what was spent.
"""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from solblom_protocol.errors import ConfigurationError, IntegrityError

SCHEMA_VERSION = 4  # 1 to 3: development before 0.1.0; 2 had replies inside, 3 had no masks
MASK_SCHEMA = """
CREATE TABLE mask_runs (
  run TEXT PRIMARY KEY, study TEXT NOT NULL, roster TEXT NOT NULL, share_key BLOB
) STRICT;
CREATE TABLE mask_setups (
  run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
  roster TEXT NOT NULL, setup BLOB NOT NULL, mask_key BLOB, self_seed BLOB,
  participants TEXT, base_model TEXT, sites TEXT, vector TEXT,
  PRIMARY KEY (run, kind, round, attempt)
) STRICT;
CREATE TABLE mask_shares (
  run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
  owner TEXT NOT NULL, key_share BLOB, seed_share BLOB,
  PRIMARY KEY (run, kind, round, attempt, owner)
) STRICT;
CREATE TABLE mask_survivors (
  run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL,
  survivors BLOB NOT NULL, released INTEGER NOT NULL CHECK (released IN (0, 1)),
  PRIMARY KEY (run, kind, round)
) STRICT;
CREATE TABLE mask_closed (
  run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL, PRIMARY KEY (run, kind)
) STRICT;
"""
"""What `masks/record.py` keeps; new in layout 4."""
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE events (
  id INTEGER PRIMARY KEY, study TEXT NOT NULL, run TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('train', 'evaluate', 'describe')), round INTEGER NOT NULL,
  request TEXT NOT NULL, work TEXT, status TEXT NOT NULL CHECK (status IN ('reserved', 'spent')),
  event TEXT NOT NULL, reserved_at TEXT NOT NULL
) STRICT;
CREATE TABLE journal (id INTEGER PRIMARY KEY, entry TEXT NOT NULL, head TEXT NOT NULL) STRICT;
CREATE INDEX events_request ON events (request);
CREATE INDEX events_round ON events (study, run, kind, round);
CREATE TABLE orders (
  digest TEXT PRIMARY KEY, run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL,
  attempt INTEGER NOT NULL, seen_at TEXT NOT NULL
) STRICT;
CREATE INDEX orders_round ON orders (run, kind, round);
CREATE TABLE receipts (digest TEXT PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL) STRICT;
CREATE TABLE results (
  request TEXT PRIMARY KEY, work TEXT NOT NULL, reply TEXT NOT NULL,
  run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL
) STRICT;
CREATE TABLE local_parameters (
  run TEXT NOT NULL, round INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE strikes (study TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
"""


def create_state(path: Path, meta: dict[str, str]) -> None:
    """Make the state file of a new node.

    Raises:
        ConfigurationError: SB-113, it exists.
    """
    if path.exists():
        raise ConfigurationError("SB-113", f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)  # ledger, replies and traces are the node's alone
    path.touch(mode=0o600)
    connection = _connect(path)
    with connection:
        connection.executescript(
            "BEGIN;" + _SCHEMA + MASK_SCHEMA + f"PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
        )
        connection.executemany("INSERT INTO meta VALUES (?, ?)", sorted(meta.items()))
    connection.close()


class VaultState:
    """An open state file. Use `transaction` for everything that must happen together."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise IntegrityError("SB-402", "The node's ledger is missing")
        self._path = path
        try:
            found = path.stat()
            self._opened = (found.st_dev, found.st_ino)
            self._connection = _connect(path)
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            damage = self._connection.execute("PRAGMA quick_check").fetchone()[0]
            self._check_whole()
        except (sqlite3.Error, OSError):
            raise IntegrityError("SB-402", "The node's ledger cannot be read") from None
        if version not in (0, SCHEMA_VERSION):
            raise _other_version(path, version)
        if version == 0 or damage != "ok":
            raise IntegrityError("SB-402", "The node's ledger is damaged")
        self._lock_path = path.with_suffix(".lock")

    @property
    def folder(self) -> Path:
        """The folder of the state file."""
        return self._path.parent

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def query(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """Return all rows of a SELECT.

        Raises:
            IntegrityError: SB-402.
        """
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error:
            raise IntegrityError("SB-402", "The node's ledger cannot be read") from None

    def others_version(self) -> int:
        """Return a number that changes when another connection, of whatever process, writes into the file.

        Raises:
            IntegrityError: SB-402.
        """
        return int(str(self.query("PRAGMA data_version")[0][0]))

    def execute(self, sql: str, values: tuple[object, ...]) -> int:
        """Run one statement inside a `transaction`; return the id of an inserted row."""
        return self._connection.execute(sql, values).lastrowid or 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside, synced to disk, or nothing. Inside another one, that one commits.

        Raises:
            IntegrityError: SB-402, the disk is full or the file cannot be written.
        """
        outer = bool(self._connection.in_transaction)
        if outer:
            yield
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_whole()
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends some failed ones by itself
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error:
            raise IntegrityError("SB-402", "The node's ledger cannot be written") from None

    def _check_whole(self) -> None:
        """Refuse a file that was cut off or removed: SQLite reads a page that is cut short as zeros.

        Raises:
            IntegrityError: SB-402.
        """
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        page_bytes = self._connection.execute("PRAGMA page_size").fetchone()[0]
        try:
            found = self._path.stat()
        except OSError:
            raise IntegrityError("SB-402", "The node's ledger is gone") from None
        if (found.st_dev, found.st_ino) != self._opened:  # what is open is not what stands there
            raise IntegrityError("SB-402", "The node's ledger was replaced while it was open")
        size = found.st_size
        if size < pages * page_bytes:
            raise IntegrityError(
                "SB-402", f"The node's ledger has {size} bytes; {pages * page_bytes} are needed"
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the node's lock: one order at a time, over all processes."""
        with self._lock_path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def hold_writes(path: Path, *, seconds: float) -> None:
    """Wait until nothing is being written to a state file, and let nothing begin, until this process ends.

    For a process that is about to end in the middle of an order. When it takes longer than `seconds`,
    SQLite undoes the half-written transaction at the next start.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=seconds)
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error:
        return
    _HELD.append(connection)  # open until the end


_HELD: list[sqlite3.Connection] = []


def _other_version(path: Path, version: int) -> IntegrityError:
    message = (
        f"{path.name} has layout {version}; this version of Solblom reads layout {SCHEMA_VERSION}"
    )
    if version > SCHEMA_VERSION:
        return IntegrityError("SB-402", message, "Install the newer Solblom that wrote it")
    return IntegrityError(
        "SB-402",
        f"{message}, and converts none",
        "Keep the file, it says what was spent. Go on with the Solblom that wrote it, or set up the node "
        "anew in another folder with policy.epsilon_budget lowered by what was spent",
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    make_durable(connection)
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def make_durable(connection: sqlite3.Connection) -> None:
    """Let a commit return once it is on disk.

    The journal is emptied, not removed: that takes fewer syncs, and nothing of it is left to read.
    """
    connection.execute("PRAGMA synchronous=EXTRA")
    connection.execute("PRAGMA journal_mode=TRUNCATE")
