"""The hospital's own log of every decision: append-only, a hash tree over it, its head signed by the node.

    log/decisions.sqlite   entries, and the hashes of the complete subtrees (RFC 6962)
    log/checkpoint.txt     size and root, signed (logs/transparency.py); a copy stands beside the anchor

An entry is canonical JSON with a sequence number, a time, an event, digests and codes. Whatever else
somebody tries to write is refused here: no patient id, file name or exception text can stand in it.
An entry is on disk before what it is about leaves. A log that is shorter or longer than what was signed stops the
node: its newest signed head stands in the vault's state before the log has it (`log/memory.py`). What a charge is
for is noted there in the charge's own transaction, so neither stands without the other.

Anybody on the way can send garbage, and replay what was sent before. So what repeats is written once
an hour and counted: the log grows with decisions and with hours, not with messages.
"""

import datetime as dt
import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from solblom_client.budget.ledger import STATE_FILE
from solblom_client.keys import NodeKeys
from solblom_client.log.decision import Decision
from solblom_client.log.log_file import (
    connect,
    file_identity,
    first_of,
    pruned_to,
    reading,
    size_of,
    time_of,
    touch,
)
from solblom_client.log.memory import (
    LogMemory,
    Noted,
    has_charges,
    note_in,
)
from solblom_client.log.repeats import is_new, repeats_before
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.transparency import (
    Head,
    read_checkpoint,
    subtrees,
    write_checkpoint,
)
from solblom_protocol.logs.tree_file import head_at, put
from solblom_protocol.messages.message import timestamp
from solblom_verify.canonical import canonical_json

FOLDER, LOG_FILE, CHECKPOINT_FILE = "log", "decisions.sqlite", "checkpoint.txt"
LOCK_FILE = "decisions.lock"


@dataclass(frozen=True)
class LogPlace:
    """Where a node's log stands, what it is called, and where its newest head is noted besides.

    `state` is the vault's state file. Without one, entries beyond the checkpoint are never taken, and nothing
    tells that a whole log was removed.
    """

    folder: Path
    site: str
    anchor: Path | None
    state: Path | None = None

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
    """The log, for those who write; several processes may, one at a time.

    `state` is the state file of `place`, where the caller has it open: for every order, opening it anew takes time.
    """

    def __init__(
        self, place: LogPlace, key: Ed25519PrivateKey, state: VaultState | None = None
    ) -> None:
        self._place, self._key, self._memory = place, key, LogMemory(place.state, state)
        self._database: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None  # which file that is

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @contextmanager
    def _writing(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        """Hold the log's lock and a transaction; whoever leaves without COMMIT has written nothing.

        Where it is not `synced`, a power failure may take the newest entries, which the vault's state must have.
        """
        folder = self._place.folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / LOCK_FILE).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._check_same(folder / LOG_FILE)
                if self._database is None:
                    self._database = connect(folder / LOG_FILE)
                    self._opened = file_identity(folder / LOG_FILE)
                self._database.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
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

    def _check_same(self, path: Path) -> None:
        """Refuse to write where nobody reads: into a file that was replaced while it was open.

        Raises:
            IntegrityError: SB-406.
        """
        found = file_identity(path)
        if found is None:
            self.close()  # it is gone: whether there may be a new one is asked of what was signed
        elif self._database is not None and found != self._opened:
            raise IntegrityError("SB-406", "The log of decisions was replaced while it was open")

    def append(self, *decisions: Decision, now: dt.datetime, often: bool = False) -> None:
        """Put decisions on disk and sign the new head; with `often`, the same again within an hour is counted.

        Raises:
            IntegrityError: SB-406, the log was cut or cannot be written.
        """
        with self._writing() as database:
            published = self._settle(database)
            before = size_of(database)
            for event, code, times in repeats_before(database, now) if often else ():
                _add(database, Decision("counted", what=event, code=code, times=times), now=now)
            for decision in decisions:
                if not often or _is_new(database, decision, now):
                    _add(database, decision, now=now)
            self._finish(database, before, published)

    @contextmanager
    def with_charge(
        self, *decisions: Decision, now: dt.datetime
    ) -> Iterator[Callable[[VaultState], None]]:
        """Put decisions on disk together with the charge that they are about: both, or neither.

        Gives what has to be called inside the transaction that makes the charge. When that transaction did not
        come about, nothing is logged. The new head is published by the next append: a charge waits for few syncs.

        Raises:
            IntegrityError: SB-406, the log was cut or cannot be written; there is no charge then, unless the disk
                failed after it, and then the state has the entries, and the next append puts them in.
        """
        if not all(path.exists() for path in self._place.checkpoints):
            # Signs what there is, even nothing: entries without a checkpoint stop the node.
            self.append(now=now)
        # Synced with the charge, and once is enough: after a power failure the state has what the log lacks.
        with self._writing(synced=False) as database:
            published = self._settle(database)
            _add(database, *decisions, now=now)
            note, batch = self._signed(database), self._unpublished(database, published)
            noted = False

            def note_beside(state: VaultState) -> None:
                nonlocal noted
                note_in(state, note, batch, self._copied())
                noted = True

            yield note_beside
            if not noted:
                raise IntegrityError("SB-406", "A charge was made without its entries in the log")
            database.execute("COMMIT")

    def accept(self, *, by: str, now: dt.datetime) -> None:
        """Go on from the log as it stands, whatever was signed before: a person has found out why, and says so.

        Raises:
            IntegrityError: SB-406, the log cannot be written.
        """
        with self._writing() as database:
            before = size_of(database)
            _add(database, Decision("log-accepted", by=by, first=first_of(database)), now=now)
            self._finish(database, before, before)

    def prune(self, before: dt.datetime, *, now: dt.datetime) -> int:
        """Forget entries older than a moment, keep the hashes over them; return how many went.

        Raises:
            IntegrityError: SB-406.
        """
        with self._writing() as database:
            published = self._settle(database)
            before_size = size_of(database)
            first = keep = first_of(database)
            for seq, entry in database.execute("SELECT seq, entry FROM entries ORDER BY seq"):
                if f'"time":"{timestamp(before)}"' <= time_of(entry):
                    break
                keep = seq + 1
            if keep == first:
                self._finish(database, before_size, published)
                return 0
            database.execute("DELETE FROM entries WHERE seq < ?", (keep,))
            kept = set(subtrees(keep))
            for level, place in database.execute("SELECT level, place FROM nodes").fetchall():
                if (place + 1) << level <= keep and (level, place) not in kept:
                    database.execute(
                        "DELETE FROM nodes WHERE level = ? AND place = ?", (level, place)
                    )
            database.execute("INSERT OR REPLACE INTO facts VALUES ('first', ?)", (keep,))
            _add(database, Decision("pruned", times=keep - first, first=keep), now=now)
            self._finish(database, before_size, published)
        return keep - first

    def _settle(self, database: sqlite3.Connection) -> int | None:
        """Check the log against everything that was signed, and finish what a crash left half done.

        Returns the size up to which every checkpoint is published; None where one has to be made first.

        Raises:
            IntegrityError: SB-406.
        """
        public, place = self._key.public_key(), self._place
        noted = self._memory.read(place.origin, public)
        heads = [read_head(path, place, public) for path in place.checkpoints]
        published = max((head.size for head in heads if head is not None), default=0)
        size, missing = size_of(database), tuple[str, ...]()
        if noted is not None and max(published, noted.before) <= size < noted.head.size:
            # What was published had been committed: a log that is shorter than that was cut instead.
            missing = noted.batch[size - noted.before :]
        for entry in missing:
            put(database, size_of(database), entry)
        _check_not_cut(database, place, noted, heads)
        if missing:
            database.execute("COMMIT")
            database.execute("BEGIN IMMEDIATE")
        sizes = [head.size for head in heads if head is not None]
        # An empty log is signed too: from then on the absence of its checkpoint means something.
        return min(sizes) if len(sizes) == len(heads) else None

    def _finish(self, database: sqlite3.Connection, before: int, published: int | None) -> None:
        """Note the new head in the vault's state, commit the entries, publish the head: in this order."""
        size = size_of(database)
        if size == published == before:
            database.execute("COMMIT")
            return
        note = self._signed(database)
        if size == before:
            touch(database)
        else:
            self._memory.write(note, self._unpublished(database, published), self._copied())
        database.execute("COMMIT")
        self._publish(note)

    def _unpublished(self, database: sqlite3.Connection, published: int | None) -> list[str]:
        """Return the entries that no checkpoint signs: a crash may keep them out of the log, or those before them."""
        after = 0 if published is None else published
        rows = database.execute("SELECT entry FROM entries WHERE seq >= ? ORDER BY seq", (after,))
        return [str(row[0]) for row in rows]

    def _copied(self) -> str | None:
        """Return the copy beside the anchor, where it exists: from then on its absence means something."""
        there = [str(path) for path in self._place.checkpoints[1:] if path.exists()]
        return there[0] if there else None

    def _signed(self, database: sqlite3.Connection) -> str:
        head = head_at(database, size_of(database))
        return write_checkpoint(self._place.origin, head, self._key)

    def _publish(self, note: str) -> None:
        for path in self._place.checkpoints:
            write_whole(path, note.encode())


def log_place(config: NodeConfig) -> LogPlace:
    """Return where a node's log of decisions stands."""
    anchor = config.path(config.node.anchor) if config.node.anchor else None
    return LogPlace(config.state / FOLDER, config.node.site, anchor, config.state / STATE_FILE)


def open_decisions(
    config: NodeConfig, keys: NodeKeys, state: VaultState | None = None
) -> DecisionLog:
    """Return a node's log of decisions, to write into; `state` is the node's, where it is open."""
    return DecisionLog(log_place(config), keys.signing, state)


def read_entries(place: LogPlace, *, after: int = -1, last: int | None = None) -> list[str]:
    """Return entries as they stand: those after a number, or the newest few; none where there is no log.

    Raises:
        IntegrityError: SB-406.
    """
    if not (place.folder / LOG_FILE).is_file():
        return []
    with reading(place.folder / LOG_FILE) as database:
        if last is not None:
            rows = database.execute(
                "SELECT entry FROM entries ORDER BY seq DESC LIMIT ?", (last,)
            ).fetchall()
            return [str(row[0]) for row in reversed(rows)]
        found = database.execute(
            "SELECT entry FROM entries WHERE seq > ? ORDER BY seq", (after,)
        ).fetchall()
        return [str(row[0]) for row in found]


def noted_of(place: LogPlace, public: Ed25519PublicKey) -> Noted | None:
    """Return what the vault's state notes of a log; None for nothing, or where a log has no state beside it.

    Raises:
        IntegrityError: SB-406.
    """
    return LogMemory(place.state).read(place.origin, public)


def _check_not_cut(
    database: sqlite3.Connection, place: LogPlace, noted: Noted | None, heads: list[Head | None]
) -> None:
    """Refuse to go on with a log that lost, changed or got more than what was signed.

    Raises:
        IntegrityError: SB-406.
    """
    size, at = size_of(database), cache(partial(head_at, database))  # most often all heads are one
    if not size and noted is None and place.state is not None and has_charges(place.state):
        raise IntegrityError("SB-406", "The log of decisions is empty, and the ledger has charges")
    if noted is not None:
        _check_head(at, noted.head, size=size, oldest=size)
    for path, head in zip(place.checkpoints, heads, strict=True):
        if size and head is None and is_required(path, place, noted):
            raise IntegrityError(
                "SB-406", f"{path.name}: the checkpoint of the log of decisions is gone"
            )
        if head is not None:
            oldest = size if noted is None else noted.before
            _check_head(at, head, size=size, oldest=oldest)
    if first_of(database) > pruned_to(database):
        raise IntegrityError(
            "SB-406", "The log of decisions does not say why its oldest entries are gone"
        )


def _check_head(at: Callable[[int], Head], head: Head, *, size: int, oldest: int) -> None:
    """Compare a signed head with a log of `size` entries; it must be at least `oldest` entries long."""
    if not oldest <= head.size <= size:
        raise IntegrityError(
            "SB-406", f"The log of decisions has {size} entries; {head.size} were signed"
        )
    if at(head.size) != head:
        raise IntegrityError("SB-406", "The log of decisions is not the one that was signed")


def is_required(path: Path, place: LogPlace, noted: Noted | None) -> bool:
    """Tell whether a log with entries must have a checkpoint here: an anchor that was named later has no copy yet."""
    known = noted is not None and noted.copied == str(path)
    return path == place.checkpoints[0] or known or path.exists()


def read_head(path: Path, place: LogPlace, public: Ed25519PublicKey) -> Head | None:
    """Return the head that a checkpoint signs; None where there is none, or it is empty.

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
        return None  # as good as none: it is synced before it takes its name
    try:
        return read_checkpoint(note, place.origin, public)
    except IntegrityError as error:
        raise IntegrityError("SB-406", f"{path.name}: {error.message}") from None


def _add(database: sqlite3.Connection, *decisions: Decision, now: dt.datetime) -> None:
    for seq, decision in enumerate(decisions, start=size_of(database)):
        members = {"seq": seq, "time": timestamp(now), **decision.to_json()}
        put(database, seq, canonical_json(members).decode())


def _is_new(database: sqlite3.Connection, decision: Decision, now: dt.datetime) -> bool:
    """Tell whether a decision is the first of its kind in this hour; count it otherwise.

    That bytes left again stands by itself, whatever flood came before: once an hour for each answer, of which
    there are as many as charges.
    """
    left = decision.event == "again"
    about = decision.request if left else decision.order
    return is_new(database, decision.event, decision.code, about, always=left, now=now)
