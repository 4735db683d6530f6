"""`solblom coordinator start`, `status`, `nodes`, `route` and `remove`: the service and who is connected to it."""

import signal
from pathlib import Path
from typing import Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_UNREACHABLE, ConfigurationError
from solblom_protocol.home import HOME_OPTION, find_home

app = typer.Typer(help="Operator: the coordinator's service", add_completion=False)
SITE = typer.Argument(..., help="The hospital's name, as in `solblom coordinator nodes`")


@app.command("start")
@command
def start(home: Path | None = HOME_OPTION) -> None:
    """Run the service until Ctrl-C: hospitals connect, open runs go on. Put it under systemd to keep it."""
    from solblom_server.service.service import Service

    service = Service(find_home(home), say=say)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *about: service.stop())
    service.run()
    say("The service has ended. Open runs go on when it starts again.")


@app.command("status")
@command
def status(home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show whether the service runs, which hospitals are connected, and what is at work. Exit 6: it does not run."""
    from solblom_server.coordinator import DATABASE_FILE
    from solblom_server.database import Database
    from solblom_server.service.status import service_status

    folder = find_home(home)
    found, rows = service_status(folder), node_rows(folder)
    database = Database(folder / DATABASE_FILE)
    at_work = [
        {"run": r.id, "transport": r.transport, "status": r.status}
        for r in database.unfinished_runs()
    ]
    database.close()
    if as_json:
        data = {"running": found is not None, "service": found, "nodes": rows, "runs": at_work}
        print_json("solblom.coordinator.status/1", data)
    else:
        _print_status(found, rows, at_work)
    if found is None:
        raise typer.Exit(EXIT_UNREACHABLE)


@app.command("nodes")
@command
def nodes(home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """List the hospitals: how each is reached, whether it is connected, its fingerprint, files that wait."""
    rows = node_rows(find_home(home))
    if as_json:
        print_json("solblom.coordinator.nodes/1", {"nodes": rows})
        return
    _print_nodes(rows)
    for row in rows:
        out().print(f"{row['site']}: {row['fingerprint']}", markup=False)


@app.command("route")
@command
def route(
    site: str = SITE,
    by: str = typer.Argument(..., help="network or files"),
    home: Path | None = HOME_OPTION,
) -> None:
    """Reach a hospital another way from its next run on: over the network, or by file."""
    from solblom_server.coordinator import Coordinator

    if by not in ("network", "files"):
        raise ConfigurationError("SB-103", f"The route is {by}; it must be network or files")
    database = Coordinator.open(find_home(home)).database()
    links = database.links()
    if site not in links:
        database.close()
        raise ConfigurationError("SB-103", f"No hospital {site} is enrolled with a transport key")
    database.add_link(site, links[site].transport_key, route=by)
    database.close()
    say(f"{site} is reached by {by} from now on")


@app.command("remove")
@command
def remove(site: str = SITE, home: Path | None = HOME_OPTION) -> None:
    """Shut a hospital out: its keys open nothing any more. Models that it trained keep its name and key."""
    from solblom_server.coordinator import Coordinator

    Coordinator.open(find_home(home)).remove(site)
    say(f"{site} is shut out; a running service notices within a second")


def node_rows(folder: Path) -> list[dict[str, Any]]:
    """Return every enrolled hospital with what is known of it now."""
    from solblom_protocol.keys.key_files import fingerprint
    from solblom_server.coordinator import Coordinator
    from solblom_server.service.online import online_sites

    coordinator = Coordinator.open(folder)
    database = coordinator.database()
    links, online = database.links(), online_sites(folder)
    database.close()
    rows = []
    for node in coordinator.nodes():
        link = links.get(node.name)
        rows.append(
            {
                "site": node.name,
                "key_id": node.key_id,
                "fingerprint": fingerprint(node.signing),
                "route": None if link is None else link.route,
                "online": None if online is None else node.name in online,
                "state": link and link.state,
                "code": link and link.code,
                "heard": link and link.heard,
                **waiting_files(folder, node.name),
            }
        )
    return rows


def waiting_files(folder: Path, site: str) -> dict[str, Any]:
    """Return how many orders and replies lie in a hospital's exchange folders."""
    from solblom_protocol.messages.mailbox import list_mail
    from solblom_server.transports.files import EXCHANGE

    counts: dict[str, Any] = {"orders": 0, "replies": 0, "strange": 0}
    for name in ("orders", "replies"):
        place = folder / EXCHANGE / site / name
        if place.is_dir():
            found = list_mail(place)
            counts[name] = len(found.mail)
            counts["strange"] += len(found.strange)
    return counts


def _print_status(
    found: dict[str, Any] | None, rows: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> None:
    console = out()
    if found is None:
        console.print("The service does not run", style="bold yellow")
        say("To start it: solblom coordinator start")
    else:
        console.print(f"The service runs at https://{found.get('address')}", style="bold green")
    _print_nodes(rows)
    for run in runs:
        console.print(f"{run['run']}  {run['status']}  ({run['transport']})", markup=False)
    if not runs:
        console.print("No run is open")


def _print_nodes(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(
        "hospital", "reached by", "connected", "last heard", "files waiting\nout / in / other"
    )
    for row in rows:
        online = {True: "yes", False: "no", None: "?"}[row["online"]]
        heard = f"{row['code'] or row['state'] or ''} {row['heard'] or ''}".strip()
        files = f"{row['orders']} / {row['replies']} / {row['strange']}"
        connected = "" if row["route"] == "files" else online
        table.add_row(row["site"], row["route"] or "simulation", connected, heard, files)
    out().print(table)
