"""The hospital's own log of every decision: append-only, a hash tree over it, its head signed by the node.

    log/decisions.sqlite   entries, and the hashes of the complete subtrees (RFC 6962)
    log/checkpoint.txt     size and root, signed (protocol/transparency.py); a copy stands beside the anchor

An entry is canonical JSON with a sequence number, a time, an event, digests and codes. Whatever else
somebody tries to write is refused here: no patient id, file name or exception text can stand in it.
An entry is on disk before what it is about leaves. A log that is shorter than its checkpoint stops the node.

Anybody on the way can send garbage, and replay what was sent before. So what repeats is written once
an hour and counted: the log grows with decisions and with hours, not with messages.
"""

import datetime as dt
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from solblom_client.keys import NodeKeys
from solblom_client.policy import NodeConfig
from solblom_protocol.errors import IntegrityError
from solblom_protocol.merkle import leaf_hash, node_hash
from solblom_protocol.messages import timestamp
from solblom_protocol.transparency import (
    Head,
    completed,
    read_checkpoint,
    root_from,
    subtrees,
    write_checkpoint,
)
from solblom_verify.canonical import canonical_json

FOLDER, LOG_FILE, CHECKPOINT_FILE = "log", "decisions.sqlite", "checkpoint.txt"
MOST_KINDS = 200  # of repeating decisions in an hour; what comes after them is counted together
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

Event = Literal[
    "received",  # an order of the pinned coordinator arrived
    "accepted",  # it passed the gate
    "reserved",  # its charge is on disk
    "held",  # its answer waits for a person
    "released",  # its answer left the vault
    "again",  # the same bytes left again
    "refused",
    "manual-release",
    "manual-reject",
    "approved",
    "revoked",
    "ended",  # a permit's date came: the study's noise root is wiped
    "clock-accepted",  # a person put right a clock that had run ahead
    "paused",
    "resumed",
    "pruned",
    "counted",  # how often a decision repeated within an hour
]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHAPES: dict[str, re.Pattern[str]] = {
    "study": _DIGEST,
    "order": _DIGEST,
    "request": _DIGEST,
    "work": _DIGEST,
    "receipt": _DIGEST,
    "run": re.compile(r"[a-z0-9][a-z0-9-]{0,94}"),
    "kind": re.compile(r"[a-z]{1,16}"),
    "what": re.compile(r"[a-z-]{1,16}"),
    "code": re.compile(r"SB-[0-9]{3}"),
    "outside": re.compile(r"SB-[0-9]{3}"),
    "to": re.compile(r"[0-9a-f]{64}"),
    "by": re.compile(r"[^\W\d_][\w .,'@-]{0,79}"),  # a person of the hospital
}


@dataclass(frozen=True)
class Decision:
    """One decision. `code` is the inside code, `outside` the one that left; `by` names a person."""

    event: Event
    study: str | None = None
    run: str | None = None
    kind: str | None = None
    round: int | None = None
    order: str | None = None
    request: str | None = None
    work: str | None = None
    receipt: str | None = None
    code: str | None = None
    outside: str | None = None
    by: str | None = None
    what: str | None = None
    times: int | None = None
    size: int | None = None  # bytes of an answer
    values: int | None = None  # numbers in it
    to: str | None = None  # the coordinator's key

    def to_json(self) -> dict[str, Any]:
        """Return the members that are set.

        Raises:
            IntegrityError: SB-406, a text is neither a digest, a code nor a name.
        """
        members = {name: value for name, value in asdict(self).items() if value is not None}
        for name, shape in _SHAPES.items():
            if name in members and not shape.fullmatch(str(members[name])):
                raise IntegrityError("SB-406", f"{name} cannot stand in the log of decisions")
        return members


@dataclass(frozen=True)
class LogPlace:
    """Where a node's log stands, what it is called, and whose key signs it."""

    folder: Path
    site: str
    anchor: Path | None

    @property
    def origin(self) -> str:
        """The log's name in its checkpoints."""
        return f"solblom/{self.site}/decisions"

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoint's file, and its copy beside the ledger's anchor."""
        copy = [] if self.anchor is None else [self.anchor.with_name(f"{self.anchor.name}.log")]
        return [self.folder / CHECKPOINT_FILE, *copy]


class DecisionLog:
    """The log, for those who write; several processes may, one at a time."""

    def __init__(self, place: LogPlace, key: Ed25519PrivateKey) -> None:
        self._place, self._key = place, key
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the log's lock and a transaction; whoever leaves without COMMIT has written nothing."""
        folder = self._place.folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / "decisions.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (folder / LOG_FILE).exists():
                    self.close()  # what is open is not what stands there any more
                if self._database is None:
                    self._database = _connect(folder / LOG_FILE)
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                finally:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
        except sqlite3.Error:
            raise IntegrityError(
                "SB-406", "The log of decisions cannot be read or written"
            ) from None
        except OSError as error:
            raise IntegrityError(
                "SB-406", f"The log of decisions cannot be written: {error.strerror}"
            ) from None

    def append(self, *decisions: Decision, now: dt.datetime, often: bool = False) -> None:
        """Put decisions on disk and sign the new head; with `often`, the same again within an hour is counted.

        Raises:
            IntegrityError: SB-406, the log was cut or cannot be written.
        """
        with self._writing() as database:
            _check_not_cut(database, self._place, self._key.public_key())
            before = size_of(database)
            if not before and not self._place.checkpoints[0].exists():
                self._sign(
                    Head(0, root_from(0, nothing))
                )  # from now on its absence means something
            if often:
                _write_counts(database, now)
            for decision in decisions:
                if not often or _is_new(database, decision, now):
                    _add(database, decision, now)
            size = size_of(database)
            head = None if size == before else Head(size, root_from(size, _node_of(database)))
            database.execute("COMMIT")
            if head is not None:
                self._sign(head)

    def prune(self, before: dt.datetime, *, now: dt.datetime) -> int:
        """Forget entries older than a moment, keep the hashes over them; return how many went.

        Raises:
            IntegrityError: SB-406.
        """
        with self._writing() as database:
            _check_not_cut(database, self._place, self._key.public_key())
            first, keep = first_of(database), first_of(database)
            for seq, entry in database.execute("SELECT seq, entry FROM entries ORDER BY seq"):
                if f'"time":"{timestamp(before)}"' <= _time_of(entry):
                    break
                keep = seq + 1
            if keep == first:
                database.execute("COMMIT")
                return 0
            database.execute("DELETE FROM entries WHERE seq < ?", (keep,))
            kept = set(subtrees(keep))
            for level, place in database.execute("SELECT level, place FROM nodes").fetchall():
                if (place + 1) << level <= keep and (level, place) not in kept:
                    database.execute(
                        "DELETE FROM nodes WHERE level = ? AND place = ?", (level, place)
                    )
            database.execute("INSERT OR REPLACE INTO facts VALUES ('first', ?)", (keep,))
            _add(database, Decision("pruned", times=keep - first), now)
            size = size_of(database)
            head = Head(size, root_from(size, _node_of(database)))
            database.execute("COMMIT")
            self._sign(head)
        return keep - first

    def _sign(self, head: Head) -> None:
        note = write_checkpoint(self._place.origin, head, self._key)
        for path in self._place.checkpoints:
            write_whole(path, note)


def log_place(config: NodeConfig) -> LogPlace:
    """Return where a node's log of decisions stands."""
    anchor = config.path(config.node.anchor) if config.node.anchor else None
    return LogPlace(config.state / FOLDER, config.node.site, anchor)


def open_decisions(config: NodeConfig, keys: NodeKeys) -> DecisionLog:
    """Return a node's log of decisions, to write into."""
    return DecisionLog(log_place(config), keys.signing)


def read_entries(place: LogPlace, *, after: int = -1, last: int | None = None) -> list[str]:
    """Return entries as they stand: those after a number, or the newest few; none where there is no log.

    Raises:
        IntegrityError: SB-406.
    """
    if not (place.folder / LOG_FILE).is_file():
        return []
    with reading(place) as database:
        if last is not None:
            rows = database.execute(
                "SELECT entry FROM entries ORDER BY seq DESC LIMIT ?", (last,)
            ).fetchall()
            return [str(row[0]) for row in reversed(rows)]
        found = database.execute(
            "SELECT entry FROM entries WHERE seq > ? ORDER BY seq", (after,)
        ).fetchall()
        return [str(row[0]) for row in found]


def _check_not_cut(database: sqlite3.Connection, place: LogPlace, public: Ed25519PublicKey) -> None:
    """Refuse to go on with a log that lost or changed what was signed.

    Raises:
        IntegrityError: SB-406.
    """
    size = size_of(database)
    for path in place.checkpoints:
        head = read_head(path, place, public)
        if size and path == place.checkpoints[0] and not path.exists():
            raise IntegrityError("SB-406", "The checkpoint of the log of decisions is gone")
        if head is None:
            continue
        if head.size > size:
            raise IntegrityError(
                "SB-406", f"The log of decisions has {size} entries; {head.size} were signed"
            )
        if root_from(head.size, _node_of(database)) != head.root:
            raise IntegrityError("SB-406", "The log of decisions is not the one that was signed")


def read_head(path: Path, place: LogPlace, public: Ed25519PublicKey) -> Head | None:
    """Return the head that a checkpoint signs; None where there is none, or a power cut left it empty.

    Raises:
        IntegrityError: SB-406, it is not signed by this key, or cannot be read.
    """
    try:
        note = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise IntegrityError("SB-406", f"{path.name} cannot be read") from None
    if not note:
        return None  # a power cut may leave it empty; `verify` says so
    try:
        return read_checkpoint(note, place.origin, public)
    except IntegrityError as error:
        raise IntegrityError("SB-406", f"{path.name}: {error.message}") from None


def _add(database: sqlite3.Connection, decision: Decision, now: dt.datetime) -> None:
    seq = size_of(database)
    members = {"seq": seq, "time": timestamp(now), **decision.to_json()}
    entry = canonical_json(members).decode()
    database.execute("INSERT INTO entries VALUES (?, ?)", (seq, entry))
    found = leaf_hash(entry.encode())
    database.execute("INSERT INTO nodes VALUES (0, ?, ?)", (seq, found))
    for level in completed(seq):
        found = node_hash(kept_hash(database, level - 1, (seq >> level - 1) - 1) or b"", found)
        database.execute("INSERT INTO nodes VALUES (?, ?, ?)", (level, seq >> level, found))


def _is_new(database: sqlite3.Connection, decision: Decision, now: dt.datetime) -> bool:
    """Tell whether a decision is the first of its kind in this hour; count it otherwise."""
    name = f"{decision.event}/{decision.code}/{decision.order}"
    count = database.execute("SELECT count FROM repeats WHERE name = ?", (name,)).fetchone()
    kinds = database.execute("SELECT count(*) FROM repeats").fetchone()[0]
    if count is None and kinds >= MOST_KINDS:
        name = "others"
        count = database.execute("SELECT count FROM repeats WHERE name = 'others'").fetchone()
    event, code = ("others", None) if name == "others" else (decision.event, decision.code)
    row = (name, timestamp(now)[:13], event, code, 1 + (count[0] if count else 0))
    database.execute("INSERT OR REPLACE INTO repeats VALUES (?, ?, ?, ?, ?)", row)
    return count is None and name != "others"


def _write_counts(database: sqlite3.Connection, now: dt.datetime) -> None:
    """At the first decision of another hour, say how often decisions repeated in the one before."""
    hour = timestamp(now)[:13]
    rows = database.execute(
        "SELECT event, code, sum(count - (name <> 'others')) FROM repeats WHERE hour <> ?"
        " GROUP BY event, code ORDER BY event, code",
        (hour,),
    ).fetchall()
    for event, code, times in rows:
        if times:
            _add(database, Decision("counted", what=event, code=code, times=times), now)
    database.execute("DELETE FROM repeats WHERE hour <> ?", (hour,))


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


def _node_of(database: sqlite3.Connection) -> Any:
    return lambda level, place: kept_hash(database, level, place) or b""


def nothing(level: int, place: int) -> bytes:
    """Stand for the subtrees of an empty log: it has none."""
    return b""


def _time_of(entry: str) -> str:
    start = entry.index('"time":"')
    return entry[start : entry.index('"', start + 8) + 1]


@contextmanager
def reading(place: LogPlace) -> Iterator[sqlite3.Connection]:
    """Open the file to read.

    Raises:
        IntegrityError: SB-406.
    """
    try:
        with closing(_connect(place.folder / LOG_FILE)) as database:
            yield database
    except (sqlite3.Error, OverflowError):
        raise IntegrityError("SB-406", "The log of decisions cannot be read") from None


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file: a commit returns once its entries are on disk, at the cost of one sync (WAL)."""
    is_new = not path.exists()
    if is_new:
        path.touch(mode=0o600)
    database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    if is_new or not path.stat().st_size:
        database.executescript(_SCHEMA)
    return database


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all. What it says can be made anew, so it is not synced."""
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    partial.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
