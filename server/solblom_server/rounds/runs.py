"""Start and resume runs: check the signed study, record the run, hand it to the ServerApp, register the model."""

import datetime as dt
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_models.study_document import check_task
from solblom_protocol.errors import CODES, ConfigurationError, RunError, SolblomError
from solblom_protocol.studies.study import StudyDocument, check_dates, parse_document
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database, RunRow
from solblom_server.log.run_log import end_run, log_run
from solblom_server.rounds.secure_sum import check_roster
from solblom_server.transports.network import TRANSPORTS, NetworkTransport
from solblom_server.transports.transports import Transport, open_transport
from solblom_verify.canonical import parse_canonical
from solblom_verify.wording import counted


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended with a registered model."""

    run: str
    ref: str
    digest: str
    path: Path
    evaluation: dict[str, Any] | None


def stored_payload(envelope: bytes) -> bytes:
    """Return the payload of a study envelope without checking its signature.

    The coordinator runs a study for whoever may use its folder; the hospitals check the
    researcher's signature.

    Raises:
        ConfigurationError: SB-101, not a signed study.
    """
    try:
        value = parse_canonical(envelope)
        if isinstance(value, dict) and isinstance(value.get("payload"), str):
            return b64decode(str(value["payload"]), validate=True)
    except ValueError:
        pass
    raise ConfigurationError("SB-101", "The file is not a signed study", "Run `solblom study sign`")


def read_signed_study(envelope: bytes) -> StudyDocument:
    """Return the study in an envelope.

    Raises:
        ConfigurationError: not a study that this version can run.
    """
    return parse_document(stored_payload(envelope))


def start_run(home: Path, envelope: bytes, *, transport_name: str, now: dt.datetime) -> FinishedRun:
    """Run a signed study to its end.

    Raises:
        SolblomError: the study cannot run, or too few hospitals gave updates.
    """
    document = read_signed_study(envelope)
    check_dates(document.study, today=now.date())
    check_task(document)
    coordinator = Coordinator.open(home)
    transport = open_transport(transport_name, home)
    try:
        row = _create_run(coordinator, document, envelope, transport, transport_name, now=now)
        return _run_to_end(coordinator, row, document, transport, now=now)
    finally:
        transport.close()


def resume_run(home: Path, run: str, *, now: dt.datetime) -> FinishedRun:
    """Go on with a run at its open round.

    Raises:
        RunError: SB-502 or SB-504.
    """
    coordinator = Coordinator.open(home)
    database = coordinator.database()
    row = database.run(run)
    database.close()
    if row.status == "completed":
        raise RunError("SB-504", f"The run {run} is completed")
    document = read_signed_study(row.envelope)
    transport = open_transport(row.transport, home)
    database = coordinator.database()
    log_run(coordinator, database, row)
    database.reopen_run(run)
    database.close()
    try:
        return _run_to_end(coordinator, row, document, transport, now=now)
    finally:
        transport.close()


def _create_run(
    coordinator: Coordinator,
    document: StudyDocument,
    envelope: bytes,
    transport: Transport,
    transport_name: str,
    *,
    now: dt.datetime,
) -> RunRow:
    reached = {n.name: n.key_id for n in coordinator.nodes() if n.name in transport.addresses}
    check_roster(document, reached)
    sites = sorted(reached)
    if document.secure_sum is not None:  # others that are enrolled have no part in it
        sites = sorted(document.secure_sum.roster.keys)
    batch = document.study.training.expected_batch_size
    if isinstance(batch, dict):  # who is not named has no divisor, and would refuse
        sites = [site for site in sites if site in batch]
    needed = document.study.cohort.min_nodes
    if len(sites) < needed:
        raise RunError(
            "SB-501", f"{counted(len(sites), 'hospital')} can be reached; the study needs {needed}"
        )
    database = coordinator.database()
    try:
        row = database.create_run(
            study=document.digest,
            name=document.study.study.name,
            envelope=envelope,
            roster=",".join(sites),
            transport=transport_name,
            simulation=transport.simulation,
            now=now,
        )
        log_run(coordinator, database, row)
        return row
    finally:
        database.close()


def evaluate_run(home: Path, run: str) -> list[dict[str, Any]]:
    """Ask the hospitals again for releases that a completed run lacks; return all its releases.

    A registered model is never changed: what comes later stands in the database and in `run show`.

    Raises:
        RunError: SB-502 no such run; SB-504 its rounds are not closed.
    """
    from solblom_server.rounds.releases import released_report

    coordinator = Coordinator.open(home)
    database = coordinator.database()
    try:
        row = database.run(run)
        if row.status != "completed":
            raise RunError("SB-504", f"The run {run} has no final model yet; it is {row.status}")
        _ask_again(coordinator, database, row, "evaluating", _call_server_app)
        return released_report(database, read_signed_study(row.envelope), run)
    finally:
        database.close()


def _run_to_end(
    coordinator: Coordinator,
    row: RunRow,
    document: StudyDocument,
    transport: Transport,
    *,
    now: dt.datetime,
) -> FinishedRun:
    from solblom_server.registry.release import release_model

    if isinstance(transport, NetworkTransport):
        return _follow(coordinator, row, document, transport)
    clock = _clock_not_before(now)
    try:
        _call_server_app(coordinator, row, transport)
        return release_model(
            coordinator,
            row,
            document,
            transport.evaluate,
            clock=clock,
            witness=lambda: _ask_witnesses(coordinator, row, transport),
        )
    except SolblomError as error:
        _note_end(coordinator, row, "stopped", error.message, now=clock())
        raise
    except KeyboardInterrupt as stop:
        _note_end(coordinator, row, "interrupted", "Interrupted at the keyboard", now=clock())
        stop.add_note(f"Interrupted. To go on: solblom run resume {row.id}")
        raise


def watch_run(home: Path, run: str) -> FinishedRun:
    """Follow a run that the service conducts until it ends.

    Raises:
        RunError: SB-504, it is conducted by the command that started it; or why it stopped.
    """
    coordinator = Coordinator.open(home)
    database = coordinator.database()
    row = database.run(run)
    database.close()
    if row.transport not in TRANSPORTS:
        raise RunError(
            "SB-504", f"The run {run} over {row.transport} is shown where it was started", ""
        )
    document = read_signed_study(row.envelope)
    return _follow(coordinator, row, document, NetworkTransport(home))


def request_stop(database: Database, run: str) -> None:
    """Ask for a run to stop.

    Raises:
        RunError: SB-502 no such run; SB-504 it has ended.
    """
    row = database.run(run)
    if row.status not in ("open", "evaluating", "stopping"):
        raise RunError("SB-504", f"The run {run} is {row.status}")
    database.set_status(run, "stopping")


def _follow(
    coordinator: Coordinator, row: RunRow, document: StudyDocument, transport: NetworkTransport
) -> FinishedRun:
    """Wait for the service to bring a run to its model.

    Raises:
        RunError: with the code and the reason that stand in the database.
    """
    database = coordinator.database()
    try:
        if transport.follow(database, row.id, document.study.training.rounds) != "completed":
            raise _stopped(database.run(row.id))
        name, version, digest = next(
            (m[0], m[1], m[3]) for m in database.models() if m[2] == row.id
        )
    except KeyboardInterrupt as stop:
        stop.add_note(f"The run goes on at the coordinator. To see it: solblom run watch {row.id}")
        stop.add_note(f"To stop it: solblom run stop {row.id}")
        raise
    finally:
        database.close()
    path = coordinator.home / "models" / f"{name}-v{version}"
    report = json.loads((path / "evaluation" / "report.json").read_text(encoding="utf-8"))
    return FinishedRun(row.id, f"{name}@v{version}", digest or "", path, report)


def _stopped(row: RunRow) -> RunError:
    """Return why a run stopped, as the process that conducted it wrote it down."""
    code, _, reason = (row.reason or "").partition(": ")
    if code not in CODES:
        code, reason = "SB-504", row.reason or f"The run {row.id} is {row.status}"
    return RunError(code, reason, f"{CODES[code].hint}. To go on: solblom run resume {row.id}")


def _clock_not_before(now: dt.datetime) -> Callable[[], dt.datetime]:
    """Return the clock that rounds are dated by; it is never before the moment at which the run was asked for."""
    return lambda: max(now, dt.datetime.now(dt.UTC))


def _call_server_app(coordinator: Coordinator, row: RunRow, transport: Transport) -> None:
    """Run what is left of a run: open rounds, then releases that have not been made."""
    from flwr.app import Context, RecordDict

    from solblom_server.app import ADDRESS_PREFIX, app

    config: dict[str, bool | float | int | str] = {"home": str(coordinator.home), "run": row.id}
    config |= {f"{ADDRESS_PREFIX}{site}": node for site, node in transport.addresses.items()}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    app(transport.grid, context)


def _ask_again(
    coordinator: Coordinator,
    database: Database,
    row: RunRow,
    status: str,
    ask: Callable[[Coordinator, RunRow, Transport], None],
) -> None:
    """Ask the hospitals of a completed run for something more.

    Over a network the service does it, which sees it by the run's `status`; otherwise `ask` does it here.

    Raises:
        RunError: it did not come to its end.
    """
    transport = open_transport(row.transport, coordinator.home)
    try:
        if isinstance(transport, NetworkTransport):
            database.set_status(row.id, status)
            rounds = read_signed_study(row.envelope).study.training.rounds
            if transport.follow(database, row.id, rounds) != "completed":
                raise _stopped(database.run(row.id))
        else:
            ask(coordinator, row, transport)
    finally:
        transport.close()


def _ask_witnesses(coordinator: Coordinator, row: RunRow, transport: Transport) -> None:
    from solblom_server.rounds.conduct import witness_run

    witness_run(coordinator, row.id, transport.grid, transport.addresses)


def cosign_run(home: Path, run: str) -> tuple[str, list[str]]:
    """Ask the hospitals of a completed run once more to cosign the log; write its model's log/ anew.

    Returns the model's reference, and the hospitals whose cosignature is missing.

    Raises:
        RunError: SB-502 no such run; SB-504 it has no model yet.
    """
    from solblom_server.log.files import log_in_turn, write_log_files

    coordinator = Coordinator.open(home)
    database = coordinator.database()
    try:
        row = database.run(run)
        if row.status != "completed":
            raise RunError("SB-504", f"The run {run} has no model yet; it is {row.status}")
        _ask_again(coordinator, database, row, "witnessing", _ask_witnesses)
        name, version, _, digest, _ = next(m for m in database.models() if m[2] == run)
        folder = home / "models" / f"{name}-v{version}"
        with log_in_turn(coordinator) as log:  # a decision that comes meanwhile is not undone
            return f"{name}@v{version}", write_log_files(folder, log, digest or "")
    finally:
        database.close()


def _note_end(
    coordinator: Coordinator, row: RunRow, status: str, reason: str, *, now: dt.datetime
) -> None:
    """Record why a run did not come to its end; it can be resumed."""
    database = coordinator.database()
    end_run(coordinator, database, row.id, status, reason, now=now)
    database.close()
