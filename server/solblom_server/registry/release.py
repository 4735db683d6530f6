"""From a run that ended to a registered, signed artefact."""

import contextlib
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from solblom_models.artefact import ArtefactContents, RoundRecord, SiteRecord, write_artefact
from solblom_models.statement import Charge
from solblom_protocol.errors import RunError
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.logs.transparency import log_origin
from solblom_protocol.messages.layout import pack
from solblom_protocol.messages.message import parse_message
from solblom_protocol.messages.result import RECEIPT_PAYLOAD_TYPE, Receipt
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database, ReplyRow, RunRow
from solblom_server.log.files import register_model, write_log_files
from solblom_server.log.run_log import end_run
from solblom_server.registry.registry import place
from solblom_server.registry.release_history import with_history
from solblom_server.rounds.checkpoints import read_checkpoint
from solblom_server.rounds.kept_updates import files_of_run, remove_kept
from solblom_server.rounds.releases import released_report
from solblom_server.rounds.runs import FinishedRun
from solblom_verify.canonical import parse_canonical
from solblom_verify.envelope import open_envelope

Evaluate = Callable[[StudyDocument, bytes, Collection[str], dict[str, str]], dict[str, Any] | None]


def release_model(
    coordinator: Coordinator,
    row: RunRow,
    document: StudyDocument,
    evaluate: Evaluate,
    *,
    clock: Callable[[], dt.datetime],
    witness: Callable[[], object],
) -> FinishedRun:
    """Evaluate (in a simulation), write, sign, log and register the model of a run whose rounds are closed.

    `clock` gives the time of each step; `witness` asks the hospitals to cosign the log, once the model stands in it.

    Raises:
        RunError: SB-504, rounds are missing.
        IntegrityError: SB-410, the log does not hold.
    """
    database = coordinator.database()
    try:
        contents = _contents(coordinator, database, row, document)
        evaluation = _evaluation_report(
            evaluate(document, contents.weights, *took_part(contents)),
            released_report(database, document, row.id),
        )
        now = clock()  # after the evaluation, which takes its time: the model is signed now
        version = database.reserve_version(row.name, row.id, now=now)
        path, artefact = place(
            coordinator.home / "models",
            row.name,
            version,
            lambda folder: write_artefact(
                folder,
                with_history(coordinator.home, contents, version=version),
                version=f"v{version}",
                evaluation=evaluation,
                key=coordinator.signing,
                now=now,
            ),
        )
        database.set_model_digest(row.id, artefact)
        with contextlib.closing(coordinator.log()) as log:
            register_model(path, log, now=now)
            witness()
            write_log_files(path, log, artefact)
        end_run(coordinator, database, row.id, "completed", None, now=clock())
        remove_kept(coordinator.home / "runs" / row.id)
    finally:
        database.close()
    return FinishedRun(row.id, f"{row.name}@v{version}", artefact, path, evaluation)


def _evaluation_report(
    exact: dict[str, Any] | None, released: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return evaluation/report.json: what left hospitals, and in a simulation the exact figures beside it."""
    report = {"schema": "solblom.evaluation/1"} if exact is None else exact
    note = {} if released or exact else {"note": "No metric left a hospital in this run"}
    return {**report, **note, "released": released}


def _contents(
    coordinator: Coordinator, database: Database, row: RunRow, document: StudyDocument
) -> ArtefactContents:
    rounds = database.rounds(row.id)
    last = document.study.training.rounds
    if len(rounds) != last or any(r.status != "closed" for r in rounds):
        raise RunError("SB-504", f"The run {row.id} has {len(rounds)} of {last} rounds")
    folder = coordinator.home / "runs" / row.id
    state = read_checkpoint(folder / "checkpoints", last)
    replies = replies_by_round(database, row.id)
    nodes = {node.name: node for node in coordinator.nodes()}
    roster = row.roster.split(",")
    records = [
        RoundRecord(
            round=r.round,
            base=r.base,
            result=r.result or "",
            opened=r.opened,
            closed=r.closed or "",
            receipts=checked_receipts(nodes, replies[r.round]),
            refusals=refusal_codes(replies[r.round], r.round),
            missing=silent_sites(replies[r.round], r.round, roster),
        )
        for r in rounds
    ]
    return ArtefactContents(
        document=document,
        study_envelope=row.envelope,
        run=row.id,
        simulation=row.simulation,
        weights=pack([state.final_model()]),
        sites={
            site: SiteRecord(public_pem(nodes[site].signing), nodes[site].key_id) for site in roster
        },
        charges=charges_of(database, row.id),
        release_receipts=release_receipts(database, row.id),
        rounds=records,
        replay=files_of_run(folder, document, database, row.id, records),
        log=log_origin(coordinator.public.key_id),
    )


def took_part(contents: ArtefactContents) -> tuple[list[str], dict[str, str]]:
    """Return the sites that gave an update in the run, and why each of the others gave none."""
    gave = sorted({site for record in contents.rounds for site in record.receipts})
    codes = {site: code for record in contents.rounds for site, code in record.refusals.items()}
    others = {
        site: f"refused ({codes[site]})" if site in codes else "gave no update"
        for site in sorted(contents.sites)
        if site not in gave
    }
    return gave, others


def charges_of(database: Database, run: str) -> list[Charge]:
    """Return what every site reported to have done to its patients in a run."""
    return [
        Charge(number, site, PrivacyEvent.from_json(parse_canonical(event.encode())), kind)
        for number, site, event, kind in database.charges(run)
    ]


def release_receipts(database: Database, run: str) -> dict[str, bytes]:
    """Return the signed receipts of a run's releases, as they arrived, by `<kind>-<number>-<site>`."""
    return {
        f"{reply.asked}-{reply.round:03d}-{reply.site}": reply.envelope
        for asked in ("evaluate", "describe")
        for reply in database.replies(run, asked=asked)
        if reply.kind == "result" and reply.envelope is not None
    }


def replies_by_round(database: Database, run: str) -> dict[int, list[ReplyRow]]:
    """Return the answers to a run's training orders by round; a round without any has an empty list."""
    found: dict[int, list[ReplyRow]] = defaultdict(list)
    for reply in database.replies(run):
        found[reply.round].append(reply)
    return found


def checked_receipts(
    nodes: dict[str, PublicKeys], replies: list[ReplyRow]
) -> dict[str, tuple[bytes, Receipt]]:
    """Return each site's signed receipt among a round's replies, its signature checked again."""
    found: dict[str, tuple[bytes, Receipt]] = {}
    for reply in replies:
        if reply.kind == "result" and reply.envelope:
            node = nodes[reply.site]
            opened = open_envelope(
                reply.envelope,
                payload_type=RECEIPT_PAYLOAD_TYPE,
                keys={node.key_id: node.signing},
            )
            found[reply.site] = (reply.envelope, parse_message(Receipt, opened.payload))
    return found


def refusal_codes(replies: list[ReplyRow], number: int) -> dict[str, str]:
    """Return the code of each site that refused and gave no update in the round."""
    return _codes(replies, number, "refusal", besides={"result"})


def invalid_codes(replies: list[ReplyRow], number: int) -> dict[str, str]:
    """Return the code of the last reply of each site from which nothing valid came in the round."""
    return _codes(replies, number, "invalid", besides={"result", "refusal"})


def _codes(replies: list[ReplyRow], number: int, kind: str, *, besides: set[str]) -> dict[str, str]:
    answered = {r.site for r in replies if r.round == number and r.kind in besides}
    return {
        r.site: r.code
        for r in replies
        if r.round == number and r.kind == kind and r.code and r.site not in answered
    }


def silent_sites(replies: list[ReplyRow], number: int, roster: list[str]) -> list[str]:
    """Return the sites from which neither an update nor a refusal came in the round."""
    answers = ("result", "refusal")
    answered = {r.site for r in replies if r.round == number and r.kind in answers}
    return sorted(set(roster) - answered)
