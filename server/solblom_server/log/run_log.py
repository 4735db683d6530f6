"""Where a run's beginning and end stand twice: in the database, then in the log that hospitals witness."""

import contextlib
import datetime as dt

from solblom_protocol.errors import IntegrityError
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database, RunRow
from solblom_server.log.entries import entries_of_run, run_ended


def log_run(coordinator: Coordinator, database: Database, row: RunRow) -> None:
    """Log what the database says of a run and the log does not: its opening, or what a crash kept out.

    Raises:
        IntegrityError: SB-410.
    """
    roster = set(row.roster.split(","))
    nodes = {node.name: node.key_id for node in coordinator.nodes() if node.name in roster}
    with contextlib.closing(coordinator.log()) as log:
        log.append(*entries_of_run(database, row, nodes))


def end_run(
    coordinator: Coordinator,
    database: Database,
    run: str,
    status: str,
    reason: str | None,
    *,
    now: dt.datetime,
) -> None:
    """Record and log how a run ended.

    Raises:
        IntegrityError: SB-410, where it was completed; a run that stopped may have stopped for that very reason, and
            what is not logged then is when it goes on.
    """
    database.end_run(run, status, reason, now=now)
    try:
        with contextlib.closing(coordinator.log()) as log:
            log.append(run_ended(database.run(run)))
    except IntegrityError:
        if status == "completed":
            raise
