"""`solblom run …`: see what happened, and go on after a stop."""

import datetime as dt
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from solblom_protocol.console import JSON_OPTION, command, err, out, print_json, say
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_server.rounds.runs import FinishedRun

app = typer.Typer(
    help="Researcher: see and resume runs", no_args_is_help=True, add_completion=False
)
RUN = typer.Argument(..., help="The run, as in `solblom run list`")
R = TypeVar("R")


@app.command("list")
@command
def list_runs(home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """List all runs, newest last."""
    from rich.table import Table

    from solblom_server.coordinator import DATABASE_FILE
    from solblom_server.database import Database

    database = Database(find_home(home) / DATABASE_FILE)
    rows = database.runs()
    database.close()
    if as_json:
        data = [
            {"run": r.id, "status": r.status, "started": r.started, "ended": r.ended} for r in rows
        ]
        print_json("solblom.run.list/1", {"runs": data})
        return
    table = Table("run", "status", "started", "ended", "reason")
    for row in rows:
        table.add_row(row.id, row.status, row.started, row.ended or "", row.reason or "")
    out().print(table)


@app.command("show")
@command
def show(run: str = RUN, home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show a run's rounds: who gave an update, who refused and why, epsilon by hospital."""
    from solblom_server.rounds.run_report import run_report

    report = run_report(find_home(home), run)
    if as_json:
        print_json("solblom.run.show/1", report)
        return
    _print_report(report)


@app.command("resume")
@command
def resume(run: str = RUN, home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Go on with a run at its open round. Hospitals answer work they did before with the same bytes."""
    from solblom_server.rounds.runs import resume_run

    folder, now = find_home(home), dt.datetime.now(dt.UTC)
    finished = with_progress(lambda: resume_run(folder, run, now=now))
    finish("solblom.run.resume/1", finished, as_json=as_json)


@app.command("watch")
@command
def watch(run: str = RUN, home: Path | None = HOME_OPTION) -> None:
    """Follow a run that the coordinator's service conducts, until it ends. Ctrl-C leaves it as it is."""
    from solblom_server.rounds.runs import watch_run

    folder = find_home(home)
    finished = with_progress(lambda: watch_run(folder, run))
    finish("solblom.run.watch/1", finished, as_json=False)


@app.command("stop")
@command
def stop(run: str = RUN, home: Path | None = HOME_OPTION) -> None:
    """Stop a run after the message at hand. What hospitals have spent stays spent; it can be resumed."""
    from solblom_server.coordinator import DATABASE_FILE
    from solblom_server.database import Database
    from solblom_server.rounds.runs import request_stop

    database = Database(find_home(home) / DATABASE_FILE)
    try:
        request_stop(database, run)
    finally:
        database.close()
    say(
        f"{run} stops within a second, or as soon as its service is back. To go on: solblom run resume {run}"
    )


@app.command("evaluate")
@command
def evaluate(run: str = RUN, home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Ask the hospitals for a release that a completed run lacks; charged to their test patients."""
    from solblom_server.rounds.runs import evaluate_run

    folder = find_home(home)
    releases = with_progress(lambda: evaluate_run(folder, run))
    if as_json:
        print_json("solblom.run.evaluate/1", {"run": run, "releases": releases})
        return
    if not releases:
        say("The study releases nothing: evaluation.releases is 0 and there is no table_one.")
    for record in releases:
        out().print(release_line(record), markup=False)


def release_line(record: dict[str, Any]) -> str:
    """Return one release in a line of text."""
    name = "Table 1" if record["kind"] == "describe" else f"evaluation {record['number']}"
    if record["status"] != "released":
        return f"{name}: not released. {record['reason']}"
    told = f"{name}: {counted(len(record['sites']), 'hospital')}, noise of deviation {record['noise_deviation']}"
    if record["kind"] == "describe":
        return f"{told}; the counts stand in --json and in the model card"
    metrics = record["metrics"]
    if metrics["reason"] is not None:
        return f"{told}; not shown: {metrics['reason']}"
    # Of a study that ranks diseases there is no AUROC: its headline is how often the right one stood first.
    name, words = ("auroc", "AUROC") if "auroc" in metrics else ("top_1", "disease first")
    low, high = metrics[f"{name}_interval"]
    return f"{told}; {words} {metrics[name]:.3f} [{low:.3f}, {high:.3f}]"


def with_progress(action: Callable[[], R]) -> R:
    """Run `action` with a live bar on a terminal, and plain lines elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from solblom_server.transports.transports import PROGRESS

    if not sys.stderr.isatty():
        token = PROGRESS.set(
            lambda number, rounds, text: say(f"round {number} of {rounds}: {text}")
        )
        try:
            return action()
        finally:
            PROGRESS.reset(token)
    columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=err()) as bar:
        task = bar.add_task("", total=None)

        def update(number: int, rounds: int, text: str) -> None:
            bar.update(task, total=rounds, completed=number, description=text)

        token = PROGRESS.set(update)
        try:
            return action()
        finally:
            PROGRESS.reset(token)


def finish(schema: str, run: "FinishedRun", *, as_json: bool) -> None:
    """Print where the model of a finished run is."""
    if as_json:
        model = {"ref": run.ref, "digest": run.digest, "path": str(run.path)}
        print_json(schema, {"run": run.run, "model": model})
        return
    out().print(f"{run.ref}  {run.digest}\n{run.path}", markup=False)
    evaluation = run.evaluation or {}
    for entry in evaluation.get("left_out", []):
        say(f"Left out of the evaluation: {entry['site']}, {entry['reason']}")
    if "reason" in evaluation:
        say(f"Not evaluated: {evaluation['reason']}")
    say(f"Next: solblom run show {run.run} · solblom model verify {run.path}")


def _print_report(report: dict[str, Any]) -> None:
    from rich.table import Table

    console = out()
    console.print(f"{report['run']}  {report['status']}", style="bold", markup=False)
    if report["simulation"]:
        console.print("Simulation: one machine plays all hospitals", style="yellow")
    console.print(f"study {report['study']}", markup=False)
    if report["model"]:
        console.print(f"model {report['model']['ref']}  {report['model']['digest']}", markup=False)
    if report["reason"]:
        console.print(report["reason"], markup=False)
    table = Table("round", *report["sites"], "seconds", "model after")
    for row in report["rounds"]:
        cells = [_cell(row, site) for site in report["sites"]]
        after = (row["result"] or row["status"])[:19]
        table.add_row(str(row["round"]), *cells, f"{row['seconds']:.2f}", after)
    table.add_section()
    table.add_row("epsilon", *[report["epsilon"][site] for site in report["sites"]], "", "")
    console.print(table)
    for record in report["releases"]:
        console.print(release_line(record), markup=False)


def _cell(row: dict[str, Any], site: str) -> str:
    if site in row["results"]:
        return "update"
    if site in row["refusals"]:
        return f"refused {row['refusals'][site]}"
    if site in row["invalid"]:
        return f"invalid reply {row['invalid'][site]}"
    return "no answer"
