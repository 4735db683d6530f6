"""Whether the log of decisions is what was signed: every hash anew, against everything that was signed."""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_client.log.decision import Event
from solblom_client.log.decision_log import (
    LOCK_FILE,
    LOG_FILE,
    LogPlace,
    is_required,
    noted_of,
    read_head,
)
from solblom_client.log.log_file import first_of, pruned_to, reading, size_of
from solblom_client.log.memory import Noted, has_charges
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.merkle import leaf_hash, node_hash
from solblom_protocol.logs.transparency import (
    Head,
    completed,
    inclusion_path,
    root_from,
    subtrees,
    verify_inclusion,
)
from solblom_protocol.logs.tree_file import kept_hash, node_of, nothing


@dataclass(frozen=True)
class LogReport:
    """What `verify` found. `first`: number of the oldest entry that is kept; earlier ones were pruned."""

    size: int
    first: int
    root: str
    signed: int  # size of the newest checkpoint
    anchored: int | None  # size of the one beside the anchor
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Signed:
    """What was signed about a log: in the vault's state, and in each checkpoint that can be read."""

    noted: Noted | None
    heads: tuple[Head | None, ...]

    @property
    def size(self) -> int:
        """The largest size that was signed."""
        noted = self.noted.head.size if self.noted is not None else 0
        return max(noted, *(head.size if head is not None else 0 for head in self.heads))


def verify_log(place: LogPlace, public: Ed25519PublicKey) -> LogReport:
    """Recompute the whole tree and compare it with what was signed, while nobody writes.

    Finds changed, removed and added entries, a log that is shorter or longer than its checkpoint, the copy beside
    the anchor and the head in the vault's state, and oldest entries that are gone without `pruned`. Who holds the
    node's key and can write all of them can make another log.

    Raises:
        IntegrityError: SB-406, the log cannot be read.
    """
    problems: list[str] = []
    with _at_rest(place):
        signed = _signed(place, public, problems)
        if not (place.folder / LOG_FILE).is_file():
            problems += _absent(place, signed)
            empty = Head(0, root_from(0, nothing)).text
            return LogReport(0, 0, empty, signed.size, None, tuple(problems))
        with reading(place.folder / LOG_FILE) as database:
            first, size, said = first_of(database), size_of(database), pruned_to(database)
            nodes = _recomputed(database, first, problems)
            rows = database.execute("SELECT level, place, hash FROM nodes").fetchall()
    kept = {(row[0], row[1]): bytes(row[2]) for row in rows}
    if any(kept.get(name) != value for name, value in nodes.items()) or set(kept) - set(nodes):
        problems.append("The kept hashes are not those of the entries")
    if first > said:
        problems.append(f"The oldest {first} entries are gone; by the log, {said} were pruned")
    problems += _absent(place, signed) if not size else []
    problems += _all_compared(place, signed, size, nodes)
    root = root_from(size, lambda level, at: nodes.get((level, at), b""))
    sizes = [head.size if head is not None else None for head in signed.heads]
    anchored = sizes[1] if len(sizes) > 1 else None
    return LogReport(size, first, Head(size, root).text, sizes[0] or 0, anchored, tuple(problems))


@contextmanager
def _at_rest(place: LogPlace) -> Iterator[None]:
    """Hold the log's lock, shared, where there is one: an append touches state, log and checkpoints in turn."""
    try:
        lock = (place.folder / LOCK_FILE).open("r")
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _signed(place: LogPlace, public: Ed25519PublicKey, problems: list[str]) -> _Signed:
    noted, heads = None, []
    try:
        noted = noted_of(place, public)
    except IntegrityError as error:
        problems.append(error.message)
    for path in place.checkpoints:
        try:
            heads.append(read_head(path, place, public))
        except IntegrityError as error:
            heads.append(None)
            problems.append(f"{path.name}: {error.message}")
    return _Signed(noted, tuple(heads))


def _absent(place: LogPlace, signed: _Signed) -> list[str]:
    """Return what is wrong with an empty log."""
    if signed.size:
        return [f"There is no log; {signed.size} entries were signed"]
    if place.state is not None and has_charges(place.state):
        return ["There is no log, and the ledger has charges"]
    return []


def _all_compared(
    place: LogPlace, signed: _Signed, size: int, nodes: dict[tuple[int, int], bytes]
) -> list[str]:
    """Return what is wrong between everything that was signed and the entries."""
    noted, problems, oldest = signed.noted, [], size
    if noted is not None:
        oldest = min(noted.before, size)
        # A crash may have kept the newest entries out of the log; then the next append puts them in.
        if not noted.before <= size < noted.head.size:
            problems += _compared("the vault's state", noted.head, size, size, nodes)
    for path, head in zip(place.checkpoints, signed.heads, strict=True):
        if head is not None:
            problems += _compared(path.name, head, size, oldest, nodes)
        elif size and is_required(path, place, noted):
            problems.append(f"{path.name}: no checkpoint")
    return problems


def _recomputed(
    database: sqlite3.Connection, first: int, problems: list[str]
) -> dict[tuple[int, int], bytes]:
    """Return every subtree's hash, computed from the entries; of pruned ones, the hashes that were kept."""
    nodes = {}
    for level, at in subtrees(first):
        nodes[(level, at)] = kept_hash(database, level, at) or b""
    expected = first
    for seq, entry in database.execute("SELECT seq, entry FROM entries ORDER BY seq"):
        if seq != expected or f'"seq":{seq},' not in entry:
            problems.append(f"Entry {expected} is missing or out of place")
        expected = seq + 1
        nodes[(0, seq)] = leaf_hash(str(entry).encode())
        for level in completed(seq):
            at = seq >> level
            left, right = nodes.get((level - 1, 2 * at)), nodes.get((level - 1, 2 * at + 1))
            nodes[(level, at)] = node_hash(left or b"", right or b"")
    return nodes


def _compared(
    name: str, head: Head, size: int, oldest: int, nodes: dict[tuple[int, int], bytes]
) -> list[str]:
    """Return what is wrong between a signed head, which has at least `oldest` entries, and the entries."""
    if head.size > size:
        return [f"The log has {size} entries, {name} {head.size}: it was cut"]
    if head.size < oldest:
        return [f"{size - head.size} entries stand after the {head.size} that {name} signs"]
    try:
        root = root_from(head.size, lambda level, at: nodes[(level, at)])
    except KeyError:
        return [f"{name} is older than the oldest entry that is kept"]
    return [] if root == head.root else [f"The entries are not those that {name} signs"]


def is_logged(place: LogPlace, event: Event, work: str) -> bool:
    """Tell whether an entry says this of a work, and stands in the tree over all entries.

    The tree's root is compared with the signed one by the next append, and nothing leaves without one: an
    entry that was slipped in, or changed, lets nothing out.

    Raises:
        IntegrityError: SB-406, the log cannot be read.
    """
    if not (place.folder / LOG_FILE).is_file():
        return False
    with reading(place.folder / LOG_FILE) as database:
        size, node = size_of(database), node_of(database)
        head = Head(size, root_from(size, node))
        rows = database.execute(
            "SELECT seq, entry FROM entries WHERE instr(entry, ?) ORDER BY seq DESC", (work,)
        ).fetchall()
        for seq, entry in rows:
            members = json.loads(entry)
            if members.get("event") == event and members.get("work") == work:
                proof = inclusion_path(seq, size, node)
                return verify_inclusion(leaf_hash(str(entry).encode()), seq, head, proof)
    return False
