"""The coordinator's log as it lies in the folder, opened read-only; its root is computed anew from every entry.

This shows whether the log is the one that was signed last. Whether hospitals saw the same log, `solblom audit log`
and the hospitals themselves can say.
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from solblom_protocol.errors import SolblomError
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.logs.merkle import leaf_hash
from solblom_protocol.logs.transparency import Head, head_of, log_origin, read_checkpoint
from solblom_verify.artefact import Verdict
from solblom_verify.canonical import parse_canonical
from solblom_verify.history import ModelName, Status, read_history
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust

LOG_FILE, CHECKPOINT_FILE = "log/transparency.sqlite", "log/checkpoint.txt"
NEWEST = 60
ABOUT = ("run", "site", "round", "asked", "code", "name", "version", "status", "artefact")


@dataclass(frozen=True)
class LogEntryView:
    """One entry of the log in a line."""

    index: int
    kind: str
    time: str
    about: str


@dataclass(frozen=True)
class LogState:
    """What the log says of itself; `problem` says what does not hold, empty where all does."""

    origin: str
    size: int
    root: str
    signed: int  # entries under the newest signed checkpoint
    witnesses: tuple[str, ...]
    newest: tuple[LogEntryView, ...]
    problem: str


def read_log(home: Path) -> LogState | None:
    """Return the state of the coordinator's log; None where the folder has none."""
    path = home / LOG_FILE
    if not path.is_file():
        return None
    try:
        with closing(_open(path)) as database:
            rows = database.execute("SELECT seq, entry FROM entries ORDER BY seq").fetchall()
            entries = [str(entry) for _, entry in rows]
            kept = database.execute(
                "SELECT hash FROM nodes WHERE level = 0 ORDER BY place"
            ).fetchall()
            witnesses = tuple(
                str(row[0])
                for row in database.execute(
                    "SELECT name FROM cosignatures"
                    " WHERE size = (SELECT max(size) FROM cosignatures) ORDER BY name"
                )
            )
    except sqlite3.Error as error:
        return LogState("", 0, "", 0, (), (), f"{LOG_FILE} cannot be read: {error}")
    whole = head_of([entry.encode() for entry in entries])
    origin, signed, problem = _compare(home, entries)
    if [seq for seq, _ in rows] != list(range(len(rows))):
        problem = "entries are missing in between"
    # Entries that no checkpoint covers yet are held against the hashes that were kept when they were written.
    if not problem and [leaf_hash(entry.encode()) for entry in entries] != [row[0] for row in kept]:
        problem = "an entry is not the one whose hash was kept when it was written"
    newest = tuple(_view(index, entries[index]) for index in _last(len(entries)))
    return LogState(origin, whole.size, whole.text, signed, witnesses, newest, problem)


def _compare(home: Path, entries: list[str]) -> tuple[str, int, str]:
    """Return the log's name, how much of it was signed, and what is wrong with that."""
    try:
        key = PublicKeys.read(home / "coordinator.pub")
        origin = log_origin(key.key_id)
        note = (home / CHECKPOINT_FILE).read_text("utf-8")
        head: Head = read_checkpoint(note, origin, key.signing)
    except FileNotFoundError:
        return "", 0, "no checkpoint was signed yet" if entries else ""
    except (OSError, UnicodeDecodeError, SolblomError):
        return "", 0, f"{CHECKPOINT_FILE} is not signed by this coordinator"
    if len(entries) < head.size:
        return origin, head.size, f"the log has {len(entries)} entries, and {head.size} were signed"
    if head_of([entry.encode() for entry in entries[: head.size]]) != head:
        return origin, head.size, "the entries are not those that were signed"
    return origin, head.size, ""


def _last(size: int) -> range:
    return range(size - 1, max(size - 1 - NEWEST, -1), -1)


def _view(index: int, entry: str) -> LogEntryView:
    members = _members(entry)
    about = [f"{name} {_short(members[name])}" for name in ABOUT if name in members]
    return LogEntryView(
        index, str(members.get("kind", "")), str(members.get("time", "")), " · ".join(about)
    )


def _members(entry: str) -> dict[str, Any]:
    try:
        value = json.loads(entry)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    text = str(value)
    return text[:19] + "…" if text.startswith("sha256:") else text[:80]


def later_decisions(home: Path, verdict: Verdict, trust: Trust) -> list[Status]:
    """Return what the coordinator's log says about a model beyond what the model's own copy holds.

    Only what the verifier would accept is said: signed by a key that may say so, at the time that was logged. A remark
    that a withdrawn consent affects a model stands in the log alone; a decision may be newer than a copy.
    """
    path = home / LOG_FILE
    if verdict.artefact is None or verdict.name is None or verdict.version is None:
        return []
    if not path.is_file():
        return []
    try:
        with closing(_open(path)) as database:
            rows = database.execute(
                "SELECT entry FROM keys JOIN entries ON entries.seq = keys.seq"
                " WHERE artefact = ? ORDER BY entries.seq",
                (verdict.artefact,),
            ).fetchall()
    except sqlite3.Error:
        return []  # the view of the log says so
    model = ModelName(verdict.artefact, verdict.name, verdict.version)
    entries = [str(row[0]) for row in rows]
    registered = [entry for entry in entries if _members(entry).get("kind") == "model"]
    decided = [entry for entry in entries if _members(entry).get("kind") == "status"]
    # Each by itself: one entry that does not hold hides no withdrawal.
    found = [one for entry in decided for one in _accepted([*registered[:1], entry], model, trust)]
    known = {(one.status, one.time) for one in verdict.statuses}
    return [one for one in found if (one.status, one.time) not in known]


def _accepted(entries: list[str], model: ModelName, trust: Trust) -> tuple[Status, ...]:
    """Return the decisions among entries of the log; none where the verifier refuses one of them."""
    try:
        read = [JsonObject.of(parse_canonical(entry.encode()), "entry") for entry in entries]
        return read_history(read, model, trust).statuses
    except ValueError:  # of the verifier, all are ValueErrors
        return ()


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=5)
