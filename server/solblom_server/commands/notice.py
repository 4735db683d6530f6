"""`solblom coordinator notice`: read a hospital's notice of the runs that withdrawals touched."""

from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, read_given
from solblom_protocol.errors import IntegrityError
from solblom_protocol.home import HOME_OPTION, find_home

app = typer.Typer(help="Operator: notices of withdrawals", add_completion=False)
MAX_NOTICE_BYTES = 16 * 1024**2


@app.command("notice")
@command
def notice(
    file: Path = typer.Argument(..., help="What `solblom node consent notices` wrote"),
    site: str = typer.Option(..., "--site", help="The hospital from which it came"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Open a hospital's sealed notice, check its signature, and list its runs; log which models are affected."""
    import datetime as dt

    from solblom_protocol.messages.withdrawal_notice import read_notice
    from solblom_server.coordinator import Coordinator
    from solblom_server.registry.life_cycle import mark_affected

    coordinator = Coordinator.open(find_home(home))
    keys = [node for node in coordinator.nodes() if node.name == site]
    if len(keys) != 1:
        raise IntegrityError("SB-403", f"{site} is not enrolled")
    sealed = read_given(file)
    if len(sealed) > MAX_NOTICE_BYTES:
        raise IntegrityError("SB-405", "The notice is too large")
    found = read_notice(sealed, key=coordinator.sealing, node=keys[0].signing)
    if found.site != site:
        raise IntegrityError("SB-404", f"The notice is of another site than {site}")
    runs = [
        {"study": r.study, "run": r.run, "affected": bool(r.affected)}
        for r in sorted(found.runs, key=lambda r: (r.study, r.run))
    ]
    affected = {run.run for run in found.runs if run.affected}
    models = mark_affected(coordinator, affected, now=dt.datetime.now(dt.UTC))
    if as_json:
        body = {"site": site, "issued": found.issued, "runs": runs, "models": models}
        print_json("solblom.coordinator.notice/1", body)
        return
    console = out()
    console.print(f"Notice of {site}, {found.issued[:10]}", style="bold")
    for run in runs:
        console.print(f"  {run['run']}  {'affected' if run['affected'] else 'not affected'}")
    console.print("Affected: somebody whose data are in the run's model has withdrawn since.")
    if models:
        console.print(f"In the log: {', '.join(models)} affected.", markup=False)
