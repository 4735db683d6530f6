"""`solblom model list`: the registry's view. Verify, show and predict live in the models part."""

from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_server import life_cycle_cli

app = typer.Typer(
    help="Steward: list, verify and use models", no_args_is_help=True, add_completion=False
)


app.registered_commands.extend(life_cycle_cli.app.registered_commands)


@app.callback()
def group() -> None:
    """Steward: list, verify and use models."""


@app.command("list")
@command
def list_models(home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """List all registered models, with the status that their log/ states."""
    from rich.table import Table

    from solblom_models.life_cycle import stated_status
    from solblom_server.coordinator import DATABASE_FILE
    from solblom_server.database import Database

    folder = find_home(home)
    database = Database(folder / DATABASE_FILE)
    rows = [row for row in database.models() if row[3]]
    database.close()
    status = [stated_status(folder / "models" / f"{row[0]}-v{row[1]}") for row in rows]
    if as_json:
        data = [
            {
                "ref": f"{name}@v{version}",
                "digest": digest,
                "run": run,
                "registered": registered,
                "status": said,
            }
            for (name, version, run, digest, registered), said in zip(rows, status, strict=True)
        ]
        print_json("solblom.model.list/1", {"models": data})
        return
    table = Table("model", "status", "digest", "run", "registered")
    for (name, version, run, digest, registered), said in zip(rows, status, strict=True):
        table.add_row(f"{name}@v{version}", said, str(digest)[:19], run, registered)
    out().print(table)
