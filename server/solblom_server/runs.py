"""Start and resume runs: check the signed study, record the run, hand it to the ServerApp, register the model."""

import datetime as dt
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_models.study_document import check_task
from solblom_protocol.errors import ConfigurationError, RunError, SolblomError
from solblom_protocol.study import StudyDocument, check_dates, parse_document
from solblom_server.coordinator import Coordinator
from solblom_server.database import RunRow
from solblom_server.transports import Transport, open_transport
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
    sites = sorted({node.name for node in coordinator.nodes()} & set(transport.addresses))
    needed = document.study.cohort.min_nodes
    if len(sites) < needed:
        raise RunError(
            "SB-501", f"{counted(len(sites), 'hospital')} can be reached; the study needs {needed}"
        )
    database = coordinator.database()
    try:
        return database.create_run(
            study=document.digest,
            name=document.study.study.name,
            envelope=envelope,
            roster=",".join(sites),
            transport=transport_name,
            simulation=transport.simulation,
            now=now,
        )
    finally:
        database.close()


def evaluate_run(home: Path, run: str) -> list[dict[str, Any]]:
    """Ask the hospitals again for releases that a completed run lacks; return all its releases.

    A registered model is never changed: what comes later stands in the database and in `run show`.

    Raises:
        RunError: SB-502 no such run; SB-504 its rounds are not closed.
    """
    from solblom_server.releases import released_report

    coordinator = Coordinator.open(home)
    database = coordinator.database()
    try:
        row = database.run(run)
        if row.status != "completed":
            raise RunError("SB-504", f"The run {run} has no final model yet; it is {row.status}")
        transport = open_transport(row.transport, home)
        try:
            _call_server_app(coordinator, row, transport)
        finally:
            transport.close()
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
    from solblom_server.release import release_model

    clock = _clock_from(now)
    try:
        _call_server_app(coordinator, row, transport)
        return release_model(coordinator, row, document, transport.evaluate, now=clock())
    except SolblomError as error:
        _note_end(coordinator, row, "stopped", error.message, now=clock())
        raise
    except KeyboardInterrupt as stop:
        _note_end(coordinator, row, "interrupted", "Interrupted at the keyboard", now=clock())
        stop.add_note(f"Interrupted. To go on: solblom run resume {row.id}")
        raise


def _clock_from(now: dt.datetime) -> Callable[[], dt.datetime]:
    """Return a clock that says `now` at this moment and runs on from there."""
    began = time.monotonic()
    return lambda: now + dt.timedelta(seconds=time.monotonic() - began)


def _call_server_app(coordinator: Coordinator, row: RunRow, transport: Transport) -> None:
    """Run what is left of a run: open rounds, then releases that have not been made."""
    from flwr.app import Context, RecordDict

    from solblom_server.app import ADDRESS_PREFIX, app

    config: dict[str, bool | float | int | str] = {"home": str(coordinator.home), "run": row.id}
    config |= {f"{ADDRESS_PREFIX}{site}": node for site, node in transport.addresses.items()}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    app(transport.grid, context)


def _note_end(
    coordinator: Coordinator, row: RunRow, status: str, reason: str, *, now: dt.datetime
) -> None:
    """Record why a run did not come to its end; it can be resumed."""
    database = coordinator.database()
    database.end_run(row.id, status, reason, now=now)
    database.close()
