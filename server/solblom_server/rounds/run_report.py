"""What happened in a run, for `solblom run show` and everybody who reads its JSON."""

from pathlib import Path
from typing import Any

from solblom_models.accountant import format_epsilon, pld_epsilon
from solblom_models.statement import Charge
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_server.coordinator import Coordinator
from solblom_server.database import ReplyRow, RoundRow, RunRow
from solblom_server.registry.release import (
    charges_of,
    invalid_codes,
    refusal_codes,
    replies_by_round,
    silent_sites,
)
from solblom_server.rounds.releases import released_report
from solblom_server.rounds.runs import read_signed_study


def run_report(home: Path, run: str) -> dict[str, Any]:
    """Return a run's rounds with participation, refusals by code, digests and seconds."""
    coordinator = Coordinator.open(home)
    database = coordinator.database()
    try:
        row, rounds = database.run(run), database.rounds(run)
        replies, charges = replies_by_round(database, run), charges_of(database, run)
        releases = released_report(database, read_signed_study(row.envelope), run)
        models = [m for m in database.models() if m[2] == run and m[3]]
    finally:
        database.close()
    return {
        "run": row.id,
        "study": row.study,
        "status": row.status,
        "reason": row.reason,
        "transport": row.transport,
        "simulation": row.simulation,
        "started": row.started,
        "ended": row.ended,
        "sites": row.roster.split(","),
        "model": {"ref": f"{models[0][0]}@v{models[0][1]}", "digest": models[0][3]}
        if models
        else None,
        "epsilon": _epsilon_by_site(row, charges),
        "releases": releases,
        "rounds": [_round_json(r, replies[r.round], row.roster.split(",")) for r in rounds],
    }


def _round_json(row: RoundRow, replies: list[ReplyRow], roster: list[str]) -> dict[str, Any]:
    results = [r for r in replies if r.kind == "result"]
    invalid = invalid_codes(replies, row.round)
    return {
        "round": row.round,
        "status": row.status,
        "base": row.base,
        "result": row.result,
        "results": {r.site: {"receipt": r.receipt, "seconds": r.seconds} for r in results},
        "refusals": refusal_codes(replies, row.round),
        "invalid": invalid,
        "missing": [s for s in silent_sites(replies, row.round, roster) if s not in invalid],
        "seconds": max((r.seconds for r in results), default=0.0),
    }


def _epsilon_by_site(row: RunRow, charges: list[Charge]) -> dict[str, str]:
    privacy = read_signed_study(row.envelope).study.privacy
    events: dict[str, list[PrivacyEvent]] = {site: [] for site in row.roster.split(",")}
    for charge in charges:
        events[charge.site].append(charge.event)
    return {
        site: format_epsilon(pld_epsilon(found, privacy.delta)) for site, found in events.items()
    }
