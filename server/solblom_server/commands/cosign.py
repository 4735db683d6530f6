"""`solblom coordinator cosign`: ask hospitals again to cosign the log, for a model that lacks some of them."""

from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, say
from solblom_protocol.errors import EXIT_UNREACHABLE
from solblom_protocol.home import HOME_OPTION, find_home

app = typer.Typer(help="Operator: cosignatures of the log", add_completion=False)


@app.command("cosign")
@command
def cosign(
    run: str = typer.Argument(..., help="The run whose model it is, as in `solblom run list`"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Ask the run's hospitals to cosign the log's newest head; write the model's log/ anew. Exit 6: one is missing."""
    from solblom_server.rounds.runs import cosign_run

    ref, missing = cosign_run(find_home(home), run)
    if as_json:
        body = {"run": run, "model": ref, "missing": missing}
        print_json("solblom.coordinator.cosign/1", body)
    if missing:
        say(f"{ref}: no cosignature of {', '.join(missing)} yet. Ask again when they are back.")
        raise typer.Exit(EXIT_UNREACHABLE)
    say(f"{ref}: every hospital of {run} has cosigned the log.")
