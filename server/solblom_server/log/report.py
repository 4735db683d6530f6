"""Whether the coordinator's log holds: every hash anew, every proof, every signature. And the whole log as one file."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.cosignature import read_cosignature
from solblom_protocol.logs.merkle import leaf_hash
from solblom_protocol.logs.transparency import (
    Head,
    Subtree,
    consistency_path,
    inclusion_path,
    root_from,
    verify_consistency,
    verify_inclusion,
)
from solblom_protocol.logs.tree_file import recomputed
from solblom_protocol.messages.message import timestamp
from solblom_server.log.entries import ENTRY_SCHEMA, KINDS
from solblom_server.log.transparency_log import TransparencyLog
from solblom_verify.canonical import canonical_json, parse_canonical

EXPORT_SCHEMA = "solblom.log-export/1"


@dataclass(frozen=True)
class CosignedHead:
    """A head that hospitals cosigned: when each looked, by name."""

    size: int
    root: str
    cosigned: dict[str, str]


@dataclass(frozen=True)
class LogReport:
    """What a check of the whole log found. `shown`: size of the newest head that was shown to a hospital."""

    origin: str
    size: int
    root: str
    shown: int
    proofs: int  # of inclusion and of consistency, each made and verified
    heads: tuple[CosignedHead, ...]
    problems: tuple[str, ...]
    not_checked: tuple[str, ...]


def check_log(log: TransparencyLog, witnesses: Mapping[str, Ed25519PublicKey]) -> LogReport:
    """Compute every hash of the log anew, and check entries, kept hashes, proofs, heads and cosignatures.

    `witnesses`: keys of enrolled hospitals by name; cosignatures of others are named as not checked.

    Raises:
        IntegrityError: SB-410, the log cannot be read.
    """
    problems: list[str] = []
    entries = log.entries()
    for index, entry in enumerate(entries):
        _check_entry(index, entry, problems)
    nodes = recomputed(entries)
    size = log.size()
    if size != len(entries):
        problems.append(f"The log has {len(entries)} entries, numbered up to {size}")
    if log.kept_hashes() != nodes:
        problems.append("The kept hashes are not those of the entries")
    heads = _Heads(len(entries), lambda level, place: nodes[level, place])
    shown = _shown(log, heads, problems)
    cosigned, strangers = _cosigned(log, heads, witnesses, problems)
    sizes = sorted({0, shown, *(head.size for head in cosigned)} - {len(entries)})
    proofs = heads.check_inclusions(entries, problems) + heads.check_consistency(sizes, problems)
    not_checked = ["whether the coordinator logged everything: hospitals' own logs tell"]
    if strangers:
        not_checked.append(f"cosignatures of hospitals that are not enrolled: {strangers}")
    return LogReport(
        log.origin,
        len(entries),
        heads.head(len(entries)).text,
        shown,
        proofs,
        tuple(cosigned),
        tuple(problems),
        tuple(not_checked),
    )


@dataclass(frozen=True)
class _Heads:
    """The heads of a log whose hashes were all computed anew."""

    size: int
    subtree: Subtree

    def head(self, size: int) -> Head:
        return Head(size, root_from(size, self.subtree))

    def check_inclusions(self, entries: list[str], problems: list[str]) -> int:
        head = self.head(self.size)
        for index, entry in enumerate(entries):
            proof = inclusion_path(index, self.size, self.subtree)
            if not verify_inclusion(leaf_hash(entry.encode()), index, head, proof):
                problems.append(f"Entry {index} cannot be proven to stand in the log")
        return len(entries)

    def check_consistency(self, sizes: list[int], problems: list[str]) -> int:
        head, known = self.head(self.size), [size for size in sizes if size <= self.size]
        for size in known:
            proof = consistency_path(size, self.size, self.subtree)
            if not verify_consistency(self.head(size), head, proof):
                problems.append(
                    f"The head over {size} entries cannot be proven to be an earlier one"
                )
        return len(known)


def _check_entry(index: int, entry: str, problems: list[str]) -> None:
    try:
        value = parse_canonical(entry.encode())
    except ValueError:
        value = None
    if not isinstance(value, dict) or value.get("schema") != ENTRY_SCHEMA:
        problems.append(f"Entry {index} is not one that this log has")
    elif value.get("kind") not in KINDS:
        problems.append(f"Entry {index} is of a kind that this version does not know")


def _shown(log: TransparencyLog, heads: _Heads, problems: list[str]) -> int:
    """Return the size of the newest head that was shown, compared with the entries."""
    try:
        head = log.published()
    except IntegrityError as error:
        problems.append(error.message)
        return 0
    if head is None:
        return 0
    if head.size > heads.size:
        problems.append(f"The log has {heads.size} entries, and hospitals were shown {head.size}")
    elif heads.head(head.size) != head:
        problems.append("The log is not the one that hospitals were shown")
    return head.size


def _cosigned(
    log: TransparencyLog,
    heads: _Heads,
    witnesses: Mapping[str, Ed25519PublicKey],
    problems: list[str],
) -> tuple[list[CosignedHead], str]:
    """Return the cosigned heads, the newest first, and who is no enrolled hospital."""
    found, strangers = [], set[str]()
    for size in log.cosigned_sizes():
        if size > heads.size:
            problems.append(f"The log has {heads.size} entries, and {size} were cosigned")
            continue
        note, head, times = log.note(size), heads.head(size), {}
        for name, line in log.lines(size).items():
            if name not in witnesses:
                strangers.add(name)
                continue
            try:
                time = read_cosignature(note, line, name, witnesses[name]).time
                times[name] = timestamp(dt.datetime.fromtimestamp(time, dt.UTC))
            except IntegrityError as error:
                problems.append(f"Head over {size} entries: {error.message}")
        found.append(CosignedHead(size, head.text, times))
    return found, ", ".join(sorted(strangers))


def export_log(log: TransparencyLog) -> bytes:
    """Return the whole log with its newest head, and the cosignatures that it has, as canonical JSON.

    Raises:
        IntegrityError: SB-410, the log cannot be read.
    """
    entries = log.entries()
    body: Any = {
        "schema": EXPORT_SCHEMA,
        "origin": log.origin,
        "checkpoint": log.checkpoint(len(entries)),
        "entries": [parse_canonical(entry.encode()) for entry in entries],
    }
    return canonical_json(body)
