"""`solblom model show|verify|predict`: what a steward and a reader of models type. No torch until it is needed."""

import csv
import datetime as dt
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_INTEGRITY, ConfigurationError, RunError
from solblom_protocol.home import HOME_OPTION
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_verify.trust import Trust

app = typer.Typer(
    help="Steward: list, verify and use models", no_args_is_help=True, add_completion=False
)
REF = typer.Argument(..., help="name, name@v3, sha256:… or a folder")
TRUST = typer.Option(
    None,
    "--trust",
    help="Trust file (default: that of the Solblom folder in which the model stands)",
)


@app.command("verify")
@command
def verify(
    ref: str = REF,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Check every byte, signature and figure of a model, offline; say what was not checked."""
    from solblom_models.references import find_artefact
    from solblom_verify.artefact import verify_artefact
    from solblom_verify.cli import verdict_json

    folder = find_artefact(ref, home)
    trust_path, pinned = _trust(folder, trust)
    verdict = verify_artefact(folder, pinned, now=dt.datetime.now(dt.UTC))
    if as_json:
        print_json("solblom.model.verify/1", verdict_json(verdict, folder, trust_path))
    else:
        _print_verdict(verdict, folder, trust_path)
    if not verdict.ok:
        raise typer.Exit(EXIT_INTEGRITY)


def _trust(folder: Path, given: Path | None) -> "tuple[Path, Trust]":
    """Return the trust file that counts for a model, and what it says.

    Raises:
        ConfigurationError: SB-112.
    """
    from solblom_verify.trust import TrustError, load_trust, trust_file_of_home

    try:
        path = given or trust_file_of_home(folder)
        return path, load_trust(path)
    except TrustError as error:
        raise ConfigurationError("SB-112", str(error)) from None


def _print_verdict(verdict: Any, folder: Path, trust_path: Path) -> None:
    from rich.table import Table

    console = out()
    console.print(f"Verifying {folder} with {trust_path}", style="dim", markup=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in verdict.checks:
        mark = "[green]ok[/]" if check.ok else "[bold red]FAILED[/]"
        table.add_row(mark, check.name, check.reason)
    console.print(table)
    console.print("not checked:", style="bold")
    for line in verdict.not_checked:
        console.print(f"  - {line}", markup=False)
    if verdict.ok:
        console.print(
            f"[bold green]VERIFIED[/]  {verdict.name}@{verdict.version}  {verdict.artefact}"
        )
    else:
        console.print("[bold red]NOT VERIFIED[/]  Do not use this model.")


@app.command("show")
@command
def show(ref: str = REF, home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show a model's card, or its manifest with --json. Checks nothing: see `verify`."""
    from solblom_models.references import find_artefact

    folder = find_artefact(ref, home)
    if as_json:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        print_json("solblom.model.show/1", {"path": str(folder), "manifest": manifest})
        return
    from rich.markdown import Markdown

    out().print(Markdown((folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[-1]))
    say("Shown as it stands, unchecked: run `solblom model verify` too.")


@app.command("predict")
@command
def predict(
    ref: str = REF,
    data: Path = typer.Option(..., "--input", help="CSV or Parquet with the contract's columns"),
    id_column: str = typer.Option("patient_id", "--id", help="Column that names the row"),
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then give each row of a table its probability. Research use."""
    from solblom_models.references import find_artefact
    from solblom_verify.artefact import verify_artefact

    folder = find_artefact(ref, home)
    if not data.is_file():
        raise RunError("SB-506", f"{data} does not exist")
    verdict = verify_artefact(folder, _trust(folder, trust)[1], now=dt.datetime.now(dt.UTC))
    if not verdict.ok:
        failed = next(check for check in verdict.checks if not check.ok)
        from solblom_protocol.errors import IntegrityError

        raise IntegrityError("SB-401", f"{folder.name}: {failed.name}: {failed.reason}")
    rows = _predict(folder, data, id_column)
    if as_json:
        body = {"model": verdict.artefact, "ref": f"{verdict.name}@{verdict.version}"}
        print_json("solblom.model.predict/1", {**body, "use": "research", "predictions": rows})
        return
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=["id", "probability"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    sys.stdout.write(buffer.getvalue())
    say(
        f"{counted(len(rows), 'row')}, {verdict.name}@{verdict.version}. Research use: not for clinical decisions."
    )


def _predict(folder: Path, data: Path, id_column: str) -> list[dict[str, Any]]:
    from solblom_models.artefact import load
    from solblom_models.tabular.data import read_inputs
    from solblom_models.tabular.table_file import read_table
    from solblom_protocol.errors import DataError

    model = load(folder)
    if model.task.name != "tabular-classification":
        raise RunError("SB-506", f"A table does not fit the task {model.task.name}")
    try:
        table = read_table(data, id_column=id_column, contract=model.contract)
        units = read_inputs(table, model.contract)
    except DataError as error:
        raise RunError("SB-506", error.message) from None
    scores = model.task.scores(model.net, units)
    return [
        {"id": name, "probability": round(float(score), 6)}
        for name, score in zip(units.ids, scores, strict=True)
    ]
