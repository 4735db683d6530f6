"""Entries of the coordinator's log: what each says, and the key that keeps it from being written twice.

docs/reference/log.md has the members. Nothing in an entry is about a patient: names of hospitals, digests, codes.
"""

from dataclasses import dataclass
from typing import Any

from solblom_server.database import Database, ReplyRow, RunRow
from solblom_verify.canonical import canonical_json, digest

ENTRY_SCHEMA = "solblom.log-entry/1"
KINDS = frozenset(
    ("run-opened", "receipt", "refusal", "round-closed", "run-ended", "model", "status")
)
NOT_YET = "SB-219"  # neither yes nor no: no answer yet
_ASKED_FOR_RECEIPTS = ("train", "evaluate", "describe")


@dataclass(frozen=True)
class LogEntry:
    """One entry. `key` names what it is about; `artefact` is set where it is about a model."""

    key: str
    text: str  # canonical JSON
    artefact: str | None = None


def _entry(key: str, kind: str, time: str, members: dict[str, Any]) -> LogEntry:
    body = {"schema": ENTRY_SCHEMA, "kind": kind, "time": time, **members}
    return LogEntry(f"{kind}/{key}", canonical_json(body).decode(), members.get("artefact"))


def run_opened(row: RunRow, nodes: dict[str, str]) -> LogEntry:
    """Return that a run was opened; `nodes` are its hospitals' signing keys' ids by site."""
    roster = [{"site": site, "node": nodes[site]} for site in sorted(nodes)]
    members = {"run": row.id, "study": row.study, "roster": roster}
    return _entry(row.id, "run-opened", row.started, members)


def answer(run: str, reply: ReplyRow) -> LogEntry | None:
    """Return that a receipt or a refusal arrived; None for what is neither."""
    about = {"run": run, "asked": reply.asked, "round": reply.round, "site": reply.site}
    key = f"{run}/{reply.asked}/{reply.round}/{reply.site}"
    if reply.receipt is not None:
        members = about | {"receipt": reply.receipt}
        return _entry(f"{key}/{reply.receipt}", "receipt", reply.arrived, members)
    if reply.kind == "refusal" and reply.code not in (None, NOT_YET):
        members = about | {"code": reply.code}
        return _entry(f"{key}/{reply.code}", "refusal", reply.arrived, members)
    return None


def round_closed(run: str, number: int, *, base: str, result: str, time: str) -> LogEntry:
    """Return that a round was closed: the model before it, and the model that it led to."""
    members = {"run": run, "round": number, "base": base, "result": result}
    return _entry(f"{run}/{number}", "round-closed", time, members)


def run_ended(row: RunRow) -> LogEntry:
    """Return that a run ended; one that goes on afterwards ends again."""
    members = {"run": row.id, "status": row.status}
    return _entry(f"{row.id}/{row.status}/{row.ended}", "run-ended", row.ended or "", members)


def model_registered(
    *, artefact: str, name: str, version: str, run: str, envelope: bytes, time: str
) -> LogEntry:
    """Return that a model was registered, or signed again: `envelope` is its attestation as it stands."""
    members = {
        "artefact": artefact,
        "name": name,
        "version": version,
        "run": run,
        "envelope": digest(envelope),
    }
    return _entry(f"{artefact}/{members['envelope']}", "model", time, members)


def status_given(*, artefact: str, envelope: dict[str, Any], time: str) -> LogEntry:
    """Return that a model was given a status: the signed envelope that says so, as it is."""
    key = f"{artefact}/{digest(canonical_json(envelope))}"
    return _entry(key, "status", time, {"artefact": artefact, "envelope": envelope})


def entries_of_run(database: Database, row: RunRow, nodes: dict[str, str]) -> list[LogEntry]:
    """Return all that the database says of a run: a crash may have kept some of it out of the log."""
    found = [run_opened(row, nodes)]
    for asked in _ASKED_FOR_RECEIPTS:
        found += [
            entry
            for reply in database.replies(row.id, asked=asked)
            if (entry := answer(row.id, reply)) is not None
        ]
    found += [
        round_closed(row.id, r.round, base=r.base, result=r.result, time=r.closed)
        for r in database.rounds(row.id)
        if r.status == "closed" and r.result is not None and r.closed is not None
    ]
    if row.ended is not None:
        found.append(run_ended(row))
    return found
