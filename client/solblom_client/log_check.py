"""Whether the log of decisions is what was signed: every hash anew, against both checkpoints."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_client.decision_log import (
    LOG_FILE,
    LogPlace,
    first_of,
    kept_hash,
    nothing,
    read_head,
    reading,
    size_of,
)
from solblom_protocol.errors import IntegrityError
from solblom_protocol.merkle import leaf_hash, node_hash
from solblom_protocol.transparency import Head, completed, root_from, subtrees


@dataclass(frozen=True)
class LogReport:
    """What `verify` found. `first`: number of the oldest entry that is kept; earlier ones were pruned."""

    size: int
    first: int
    root: str
    signed: int  # size of the newest checkpoint
    anchored: int | None  # size of the one beside the anchor
    problems: tuple[str, ...]


def verify_log(place: LogPlace, public: Ed25519PublicKey) -> LogReport:
    """Recompute the whole tree and compare it with what was signed.

    Finds changed, removed and added entries, and a log that is shorter than its checkpoint or than the
    copy beside the anchor. Who holds the node's key and can write both can make another log.

    Raises:
        IntegrityError: SB-406, the log cannot be read.
    """
    heads, problems = [], []
    for path in place.checkpoints:
        try:
            heads.append(read_head(path, place, public))
        except IntegrityError as error:
            heads.append(None)
            problems.append(f"{path.name}: {error.message}")
    if not (place.folder / LOG_FILE).is_file():
        signed = max((head.size for head in heads if head is not None), default=0)
        missing = [f"There is no log; {signed} entries were signed"] if signed else []
        return LogReport(
            0, 0, Head(0, root_from(0, nothing)).text, signed, None, (*problems, *missing)
        )
    with reading(place) as database:
        first, size = first_of(database), size_of(database)
        nodes = _recomputed(database, first, problems)
        kept = {(row[0], row[1]): bytes(row[2]) for row in database.execute("SELECT * FROM nodes")}
    if any(kept.get(name) != value for name, value in nodes.items()) or set(kept) - set(nodes):
        problems.append("The kept hashes are not those of the entries")
    for path, head in zip(place.checkpoints, heads, strict=True):
        problems += _compared(path, head, size, nodes)
    root = root_from(size, lambda level, at: nodes.get((level, at), b""))
    signed = heads[0].size if heads[0] is not None else 0
    anchored = heads[1].size if len(heads) > 1 and heads[1] is not None else None
    return LogReport(size, first, Head(size, root).text, signed, anchored, tuple(problems))


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
    path: Path, head: Head | None, size: int, nodes: dict[tuple[int, int], bytes]
) -> list[str]:
    """Return what is wrong between a signed head and the entries."""
    if head is None:
        return [f"{path.name}: no checkpoint"] if size else []
    if head.size > size:
        return [f"The log has {size} entries, {path.name} {head.size}: it was cut"]
    try:
        root = root_from(head.size, lambda level, at: nodes[(level, at)])
    except KeyError:
        return [f"{path.name} is older than the oldest entry that is kept"]
    return [] if root == head.root else [f"The entries are not those that {path.name} signs"]
