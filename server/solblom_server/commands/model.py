"""`solblom model list`: the registry's view. Verify, show and predict live in the models part."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, printable, say
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_server.commands import life_cycle as life_cycle_cli
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_models.judged import Judged

app = typer.Typer(
    help="Steward: list, verify and use models", no_args_is_help=True, add_completion=False
)
SECONDS = 5.0  # for verdicts, unless --verify asks for all of them


app.registered_commands.extend(life_cycle_cli.app.registered_commands)


@app.callback()
def group() -> None:
    """Steward: list, verify and use models."""


@app.command("list")
@command
def list_models(
    verify: bool | None = typer.Option(
        None,
        "--verify/--no-verify",
        help="Check every byte of every version, however long it takes; or of none. "
        f"Otherwise of the newest, for {SECONDS:g} seconds",
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """List all registered models: whether they verify, and the status of those that do."""
    from solblom_models.judged import judge_within
    from solblom_server.coordinator import DATABASE_FILE
    from solblom_server.database import Database

    folder = find_home(home)
    database = Database(folder / DATABASE_FILE)
    rows = [row for row in database.models() if row[3]]
    database.close()
    places = [folder / "models" / f"{row[0]}-v{row[1]}" for row in rows]
    seconds = {None: SECONDS, True: math.inf, False: 0.0}[verify]
    newest_first = sorted(range(len(rows)), key=lambda n: rows[n][4], reverse=True)
    found = judge_within(((places[n], str(rows[n][3])) for n in newest_first), seconds)
    judged = [found[place] for place in places]
    if as_json:
        data = [
            {
                "ref": f"{name}@v{version}",
                "digest": digest,
                "run": run,
                "registered": registered,
                "status": known.status,
                "stated": known.stated,
                "verified": known.verified,
                "reason": known.reason,
            }
            for (name, version, run, digest, registered), known in zip(rows, judged, strict=True)
        ]
        print_json("solblom.model.list/1", {"models": data})
        return
    _print(rows, judged)


def _print(rows: list[tuple[str, int, str, str | None, str]], judged: list["Judged"]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "verified", "status", "digest", "run", "registered")
    marks = {True: ("yes", "green"), False: ("NO", "bold red"), None: ("not checked", "yellow")}
    for (name, version, run, digest, registered), known in zip(rows, judged, strict=True):
        mark = Text(*marks[known.verified])
        ref, status = f"{name}@v{version}", _status(known)
        table.add_row(ref, mark, status, str(digest)[:19], run, registered)
    out().print(table)
    for (name, version, *_), known in zip(rows, judged, strict=True):
        if known.verified is False:
            say(f"{name}@v{version} does not verify: {printable(known.reason)}")
    for reason in sorted({known.reason for known in judged if known.verified is None}):
        count = sum(known.reason == reason for known in judged)
        say(f"{counted(count, 'version')} {printable(reason)}")
    say(
        "Verified means every byte and signature, by the trust file of this folder; "
        "`solblom model verify REF` says what it does not mean."
    )


def _status(known: "Judged") -> str:
    """Return a status; of a version that is not verified, that it only says so itself."""
    if known.status == known.stated:
        return known.status
    return f"{known.status} (calls itself {known.stated})"
