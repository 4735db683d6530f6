"""Conduct a run: all rounds, then all releases; over a network also the artefact.

Over a network this is Flower's ServerApp process. It reads everything from the coordinator's folder
and writes everything there, so it may be killed at any moment: another one goes on at the open
round. A lock sees to it that there is only one at a time.
"""

import contextlib
import fcntl
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import httpx
from flwr.serverapp import Grid

from solblom_protocol.errors import RunError, SolblomError
from solblom_protocol.messages.layout import pack
from solblom_protocol.studies.study import parse_document
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database, RunRow
from solblom_server.log.run_log import end_run, log_run
from solblom_server.log.witnesses import ask_witnesses
from solblom_server.rounds.exchange import RunContext, utc_now
from solblom_server.rounds.releases import run_releases
from solblom_server.rounds.rounds import initial_model, run_rounds
from solblom_server.rounds.runs import stored_payload
from solblom_server.transports.files import EXCHANGE
from solblom_server.transports.grids.courier import CourierGrid
from solblom_server.transports.grids.files import FileGrid
from solblom_server.transports.grids.fleet import FleetGrid, look_again_soon
from solblom_server.transports.grids.mixed import MixedGrid

TRACES = "log/conductor.txt"
LOCK_SECONDS = 90.0
"""How long a successor waits: a ServerApp whose SuperLink died ends within a minute."""


def conduct(coordinator: Coordinator, run: str, grid: Grid, addresses: dict[str, int]) -> None:
    """Run the rounds and releases that a run lacks; `addresses` gives each site's Flower node id.

    Raises:
        RunError: too few answers, or a person stopped it; it can be resumed.
    """
    with _context(coordinator, run, grid, addresses) as context:
        log_run(coordinator, context.database, context.database.run(run))
        state = run_rounds(context)
        run_releases(context, pack([state.final_model()]))


def witness_run(coordinator: Coordinator, run: str, grid: Grid, addresses: dict[str, int]) -> None:
    """Ask a run's hospitals to cosign the newest head of the coordinator's log.

    Raises:
        RunError: a person stopped it.
    """
    with _context(coordinator, run, grid, addresses) as context:
        ask_witnesses(context)


@contextlib.contextmanager
def _context(
    coordinator: Coordinator, run: str, grid: Grid, addresses: dict[str, int]
) -> Iterator[RunContext]:
    """Open what a run needs, and close it."""
    database = coordinator.database()
    try:
        row = database.run(run)
        document = parse_document(stored_payload(row.envelope))
        roster = set(row.roster.split(","))
        context = RunContext(
            grid=grid,
            coordinator=coordinator,
            database=database,
            run=row.id,
            document=document,
            nodes={node.name: node for node in coordinator.nodes() if node.name in roster},
            addresses=addresses,
            layout=initial_model(document)[1],
            folder=coordinator.home / "runs" / row.id,
        )
        try:
            yield context
        finally:
            context.log.close()
    finally:
        database.close()


def conduct_over_network(home: Path, run: str, grid: Grid) -> None:
    """Conduct a run to its registered model, in the process that Flower started for it.

    Whatever happens stands in the database; nothing is raised for what a person can act on.
    """
    coordinator = Coordinator.open(home)
    with _only_one(home, run):
        database = coordinator.database()
        row = database.run(run)
        try:
            if row.status not in ("open", "evaluating", "witnessing"):
                return  # finished or stopped meanwhile
            if row.status == "witnessing":
                _witness_again(coordinator, database, row, grid)
                return
            addresses, couriers = _couriers(coordinator, database, row, grid)
            conduct(coordinator, run, couriers, addresses)
            _finish(coordinator, row, couriers, addresses)
        except SolblomError as error:
            reason = f"{error.code}: {error.message}"
            end_run(coordinator, database, run, "stopped", reason, now=utc_now())
        except httpx.HTTPError:
            raise  # the SuperLink is gone: the run stays open, and the service starts another
        except Exception as error:
            _keep_trace(home)
            reason = f"SB-508: {type(error).__name__}; the trace stands in {TRACES}"
            end_run(coordinator, database, run, "stopped", reason, now=utc_now())
            raise
        finally:
            database.close()


def _keep_trace(home: Path) -> None:
    """Append the trace of the exception at hand to our own file: Flower would keep it in its memory."""
    path = home / TRACES
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
        file.write(f"{utc_now().isoformat()}\n{traceback.format_exc()}\n")


def _witness_again(coordinator: Coordinator, database: Database, row: RunRow, grid: Grid) -> None:
    """Ask the hospitals of a completed run once more; whatever comes of it, the run stays completed."""
    try:
        with contextlib.suppress(
            SolblomError
        ):  # the command that asked says whose answer is missing
            addresses, couriers = _couriers(coordinator, database, row, grid)
            witness_run(coordinator, row.id, couriers, addresses)
    finally:
        database.set_status(row.id, "completed")


def _finish(coordinator: Coordinator, row: RunRow, grid: Grid, addresses: dict[str, int]) -> None:
    """Write the artefact; an evaluation afterwards leaves it as it is."""
    from solblom_server.registry.release import release_model
    from solblom_server.transports.transports import open_transport

    if row.status == "evaluating":
        database = coordinator.database()
        end_run(coordinator, database, row.id, "completed", None, now=utc_now())
        database.close()
        return
    document = parse_document(stored_payload(row.envelope))
    transport = open_transport(row.transport, coordinator.home)
    release_model(
        coordinator,
        row,
        document,
        transport.evaluate,
        clock=utc_now,
        witness=lambda: witness_run(coordinator, row.id, grid, addresses),
    )


def _couriers(
    coordinator: Coordinator, database: Database, row: RunRow, grid: Grid
) -> tuple[dict[str, int], CourierGrid]:
    """Return each site's address and the grid that reaches them all, by network and by file.

    Raises:
        RunError: SB-501, a hospital of the run has been removed.
    """
    links, roster = database.links(), row.roster.split(",")
    removed = [site for site in roster if site not in links]
    if removed:
        raise RunError("SB-501", f"No longer enrolled: {', '.join(removed)}")
    addresses = {site: links[site].node_id or number for number, site in enumerate(roster, start=1)}
    sites = {node: site for site, node in addresses.items()}
    by_file = [s for s in roster if links[s].route == "files" or links[s].node_id is None]
    exchange, home = coordinator.home / EXCHANGE, coordinator.home
    files = FileGrid({addresses[site]: exchange / site for site in by_file})
    look_again_soon()
    fleet = FleetGrid(
        grid,
        [addresses[site] for site in roster if site not in by_file],
        home / "runs" / row.id / "orders",
        report=lambda node, state, code: database.note_link(
            sites[node], state, code, now=utc_now()
        ),
    )
    couriers: dict[int, CourierGrid] = {
        addresses[site]: files if site in by_file else fleet for site in roster
    }
    return addresses, MixedGrid(couriers)


@contextlib.contextmanager
def _only_one(home: Path, run: str) -> Iterator[None]:
    """Hold the run's lock, and say who does.

    Raises:
        RunError: SB-631, another process conducts it.
    """
    path = lock_path(home, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        ends = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise RunError("SB-631", f"Another process conducts {run}") from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def lock_path(home: Path, run: str) -> Path:
    """Return the lock file of a run; it holds the process id of the one who conducts it."""
    return home / "runs" / run / "conductor.lock"


def is_conducted(home: Path, run: str) -> bool:
    """Tell whether a living process conducts a run."""
    path = lock_path(home, run)
    if not path.is_file():
        return False
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
