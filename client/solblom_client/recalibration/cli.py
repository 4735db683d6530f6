"""`solblom node recalibrate`: fit a model's intercept to this hospital's own patients."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.home import HOME_OPTION
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_client.recalibration.fitting import Recalibrated

app = typer.Typer(help="Hospital: a model fitted to this hospital", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")


@app.command("recalibrate")
@command
def recalibrate_model(
    ref: str = typer.Argument(..., help="The model: name, name@v3, sha256:… or a folder"),
    node: Path = NODE_OPTION,
    file: Path = typer.Option(..., "--out", help="New file; it stays in this hospital"),
    slope: bool = typer.Option(False, "--slope", help="Fit the slope too; needs more patients"),
    trust: Path | None = typer.Option(None, "--trust", help="Trust file of the model"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, then fit its intercept to this hospital's patients. Nothing of it leaves."""
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.recalibration.fitting import recalibrate
    from solblom_client.vault import utc_now
    from solblom_models.artefact import load
    from solblom_models.recalibration import write_recalibration
    from solblom_models.trusted import verified_model

    config = load_node_config(node)
    check_user(config)
    folder, verdict = verified_model(ref, home, trust)
    model, now = load(folder), utc_now()
    made = recalibrate(config, model, slope=slope, now=now)
    write_recalibration(
        file,
        made.found,
        site=config.node.site,
        model=verdict.artefact or "",
        study=model.document.digest,
        patients=made.patients,
        now=now,
    )
    if as_json:
        body = {"site": config.node.site, "model": verdict.artefact, "file": str(file)}
        fits = {"before": made.before, "after": made.after, "gain": made.gain}
        shown = {name: None if fit is None else vars(fit) for name, fit in fits.items()}
        counts = {"patients": made.patients, "tested": made.tested}
        print_json("solblom.node.recalibrate/1", {**body, **vars(made.found), **counts, **shown})
        return
    _print(config.node.site, f"{verdict.name}@{verdict.version}", made)
    where = "" if home is None else f" --home {home}"
    say(
        f"Wrote {file}. Use it: solblom model predict {ref}{where} --recalibration {file} --input …"
    )
    say("It was computed from patients without noise: it must not leave this hospital.")


def _print(site: str, ref: str, made: "Recalibrated") -> None:
    from rich.table import Table

    console = out()
    slope = "" if made.found.slope == 1.0 else f", slope {made.found.slope:.3f}"
    fitted = counted(made.patients, "patient")
    console.print(f"{ref} at {site}", style="bold", markup=False)
    console.print(
        f"  intercept {made.found.intercept:+.3f}{slope}, fitted on {fitted}", markup=False
    )
    if made.before is None or made.after is None:
        console.print("  no test patients, so its gain cannot be shown", markup=False)
        return
    table = Table("test patients", "as released", "here", box=None)
    table.add_row("mean probability", f"{made.before.mean:.3f}", f"{made.after.mean:.3f}")
    table.add_row("with the outcome", f"{made.before.observed:.3f}", f"{made.after.observed:.3f}")
    table.add_row("Brier score", f"{made.before.brier:.4f}", f"{made.after.brier:.4f}")
    console.print(table)
    console.print(f"  {counted(made.tested, 'test patient')}, none of them fitted on", markup=False)
    if made.gain is not None:
        value, low, high = made.gain.value, made.gain.low, made.gain.high
        told = f"  gain in Brier score {value:+.4f} [{low:+.4f}, {high:+.4f}]"
        chance = "" if low > 0 or high < 0 else ": chance is not excluded"
        console.print(told + chance, markup=False)
