"""`solblom model show|verify|predict`: what a steward and a reader of models type. No torch until it is needed."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import typer

from solblom_models import compare_cli
from solblom_models.export_cli import export
from solblom_models.model_options import PHENOPACKETS, RECEIPT_KEY, REF, TRUST
from solblom_models.replay_cli import replay_model
from solblom_protocol.console import JSON_OPTION, command, out, print_checks, print_json, say
from solblom_protocol.errors import EXIT_INTEGRITY
from solblom_protocol.home import HOME_OPTION

app = typer.Typer(
    help="Steward: list, verify and use models", no_args_is_help=True, add_completion=False
)
app.command("compare")(compare_cli.compare)
app.command("receipt")(compare_cli.receipt)
SLIDES = typer.Option(
    [], "--slide", help="A whole-slide image; again for each further slide of the same patient"
)

app.command("replay")(replay_model)
app.command("export")(export)
HEATMAP = typer.Option(None, "--heatmap", help="New PNG; tiles and GeoJSON are written beside it")
ENCODER = typer.Option(
    None, "--encoder", help="The encoder's file, for a model whose contract pins one"
)
RECALIBRATION = typer.Option(
    None, "--recalibration", help="This hospital's own, from solblom node recalibrate"
)
PHEVAL = typer.Option(
    None, "--pheval", help="New folder for PhEval's tables, all diseases, one file a case"
)
RECEIPT = typer.Option(
    None, "--receipt", help="New file: which model said what of which input, without the input"
)
CLINICAL = typer.Option(False, "--clinical", help="Refuse a model that no steward has released")
WITHDRAWN_TOO = typer.Option(
    False, "--withdrawn-too", help="Use a withdrawn model all the same, to see what it said"
)


@app.command("verify")
@command
def verify(
    ref: str = REF,
    recompute_epsilon: bool = typer.Option(
        False,
        "--recompute-epsilon",
        help="Work epsilon out again from the events that the hospitals signed; takes seconds",
    ),
    trust: Path | None = TRUST,
    log: Path | None = typer.Option(
        None,
        "--log",
        help="A fresh log (solblom audit log --export): was the model withdrawn since?",
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Check every byte, signature and figure of a model, offline; say what was not checked."""
    from solblom_models.references import find_artefact
    from solblom_models.trusted import pinned_trust
    from solblom_models.withdrawn import say_if_withdrawn
    from solblom_verify.artefact import verify_artefact
    from solblom_verify.cli import verdict_json

    folder = find_artefact(ref, home)
    trust_path, pinned = pinned_trust(folder, trust)
    verdict = verify_artefact(folder, pinned, now=dt.datetime.now(dt.UTC), fresh_log=log)
    if recompute_epsilon:
        from solblom_models.recomputed_epsilon import with_epsilon

        verdict = with_epsilon(verdict, folder, pinned)
    if as_json:
        print_json("solblom.model.verify/1", verdict_json(verdict, folder, trust_path))
    else:
        _print_verdict(verdict, folder, trust_path)
    say_if_withdrawn(verdict, folder, pinned)
    if not verdict.ok:
        raise typer.Exit(EXIT_INTEGRITY)


def _print_verdict(verdict: Any, folder: Path, trust_path: Path) -> None:
    console = out()
    console.print(f"Verifying {folder} with {trust_path}", style="dim", markup=False)
    print_checks(verdict.checks, verdict.not_checked)
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


@app.command("plot")
@command
def plot(
    ref: str = REF,
    out_folder: Path = typer.Option(..., "--out", help="New folder for the pictures (SVG)"),
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then draw what its evaluation report says."""
    from solblom_models.plots import pictures
    from solblom_models.trusted import verified_model
    from solblom_protocol.keys.key_files import write_new

    folder, verdict = verified_model(ref, home, trust)
    report = json.loads((folder / "evaluation/report.json").read_bytes())
    found = pictures(report, title=f"{verdict.name}@{verdict.version}")
    for name, data in found.items():
        write_new(out_folder / name, data, mode=0o644)
    if as_json:
        names = sorted(str(out_folder / name) for name in found)
        print_json("solblom.model.plot/1", {"model": verdict.artefact, "files": names})
        return
    for name in found:
        say(f"Wrote {out_folder / name}")
    if not found:
        say("The report has no figures to draw: no metric left a hospital in this run.")


@app.command("predict")
@command
def predict(
    ref: str = REF,
    data: Path | None = typer.Option(
        None, "--input", help="CSV or Parquet with the contract's columns, for a model of tables"
    ),
    id_column: str = typer.Option("patient_id", "--id", help="Column that names the row"),
    phenopacket: Path | None = PHENOPACKETS,
    slide: list[Path] = SLIDES,
    heatmap: Path | None = HEATMAP,
    encoder: Path | None = ENCODER,
    top: int = typer.Option(10, "--top", min=1, help="Diseases in a case's list"),
    recalibration: Path | None = RECALIBRATION,
    pheval: Path | None = PHEVAL,
    receipt: Path | None = RECEIPT,
    receipt_key: Path | None = RECEIPT_KEY,
    clinical: bool = CLINICAL,
    withdrawn_too: bool = WITHDRAWN_TOO,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then say what it predicts: of a table, of phenopackets, or of a patient's slides.

    Research use.
    """
    from solblom_models.life_cycle import require_released
    from solblom_models.predict import Wanted, check_new_files, predictions, show, write_receipt
    from solblom_models.trusted import pinned_trust, verified_model
    from solblom_models.withdrawn import say_if_withdrawn

    folder, verdict = verified_model(ref, home, trust, withdrawn_too=withdrawn_too)
    say_if_withdrawn(verdict, folder, pinned_trust(folder, trust)[1])
    if clinical:
        require_released(verdict)
    check_new_files(heatmap, receipt, slides=len(slide))
    wanted = Wanted(data, id_column, phenopacket, top, recalibration, tuple(slide), encoder)
    found = predictions(folder, verdict, wanted)
    pictures = [] if heatmap is None else found.write_heatmaps(heatmap)
    if pheval is not None:
        found.write_pheval(pheval)
    if receipt is not None:
        key = receipt_key or receipt.parent / "prediction.key"
        write_receipt(found, receipt, key, now=dt.datetime.now(dt.UTC))
        say(f"Receipt: {receipt}; the input's digest is keyed with {key}")
    if as_json:
        files = {"files": [str(path) for path in pictures]} if pictures else {}
        print_json("solblom.model.predict/1", found.as_json() | files)
    else:
        show(found)
        _say_written(pictures)


def _say_written(files: list[Path]) -> None:
    for path in files:
        say(f"Wrote {path}")
