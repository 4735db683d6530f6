"""`solblom audit log`: show and check the log that hospitals witness."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_INTEGRITY
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_server.log.report import LogReport

app = typer.Typer(help="Steward: check logs", no_args_is_help=True, add_completion=False)


@app.callback()
def group() -> None:
    """Steward: test privacy claims, check logs."""


@app.command("log")
@command
def log(
    export: Path | None = typer.Option(None, "--export", help="Write the whole log into this file"),
    last: int = typer.Option(20, "--last", min=0, help="Show so many of the newest entries"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Check every entry, proof and cosignature of the coordinator's log. Exit 5: it does not hold."""
    from contextlib import closing
    from dataclasses import asdict

    from solblom_protocol.keys.key_files import write_new
    from solblom_server.coordinator import Coordinator
    from solblom_server.log.report import check_log, export_log

    coordinator = Coordinator.open(find_home(home))
    witnesses = {node.name: node.signing for node in coordinator.nodes()}
    with closing(coordinator.log()) as opened:
        report = check_log(opened, witnesses)
        entries = _newest(opened.entries(), last)
        if export is not None and not report.problems:
            write_new(export, export_log(opened), mode=0o644)
    if as_json:
        body = {**asdict(report), "ok": not report.problems, "entries": entries}
        print_json("solblom.audit.log/1", body)
    else:
        _print(report, entries)
    if report.problems:
        raise typer.Exit(EXIT_INTEGRITY)
    if export is not None:
        say(
            f"Wrote {export}: anybody can check it, and `solblom model verify --log {export}` reads it"
        )


def _newest(entries: list[str], count: int) -> list[dict[str, Any]]:
    """Return the newest entries with their indices; what is no entry any more is left out, and named as a problem."""
    found = []
    for index, text in list(enumerate(entries))[len(entries) - min(count, len(entries)) :]:
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append({"index": index, "entry": value})
    return found


def _print(report: "LogReport", entries: list[dict[str, Any]]) -> None:
    from rich.table import Table

    console = out()
    console.print(f"{report.origin}: {counted(report.size, 'entry', 'entries')}", markup=False)
    console.print(f"  root {report.root}", markup=False)
    if entries:
        table = Table("entry", "time", "kind", "about")
        for item in entries:
            entry = item["entry"]
            about = _about(entry)
            table.add_row(str(item["index"]), str(entry.get("time")), str(entry.get("kind")), about)
        console.print(table)
    for head in report.heads[:5]:
        names = ", ".join(head.cosigned) or "nobody who is enrolled"
        console.print(f"  head over {head.size}: cosigned by {names}", markup=False)
    if not report.heads:
        console.print("  no head is cosigned yet", markup=False)
    for problem in report.problems:
        console.print(f"  WRONG: {problem}", style="bold red", markup=False)
    if not report.problems:
        console.print(
            f"  every hash, {report.proofs} proofs and every cosignature hold", markup=False
        )
    console.print(f"  not checked: {'; '.join(report.not_checked)}", markup=False)


def _about(entry: dict[str, Any]) -> str:
    """Return in a few words what an entry is about."""
    if entry.get("kind") == "model":
        return f"{entry.get('name')}@{entry.get('version')}  {str(entry.get('artefact'))[:19]}"
    parts = [entry.get(key) for key in ("run", "asked", "round", "site", "code", "status")]
    shown = " ".join(str(part) for part in parts if part is not None)
    return shown or str(entry.get("artefact"))[:19]
