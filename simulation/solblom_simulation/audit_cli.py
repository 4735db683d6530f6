"""`solblom audit privacy RUN`: does the privacy claim stand against an attack?"""

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO, ConfigurationError
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_protocol.messages.message import timestamp
from solblom_verify.wording import counted, format_delta

if TYPE_CHECKING:
    from solblom_simulation.audit import AuditResult

app = typer.Typer(help="Steward: test privacy claims", no_args_is_help=True, add_completion=False)


@app.callback()
def group() -> None:
    """Steward: test privacy claims."""


@app.command("privacy")
@command
def privacy(
    run: str = typer.Argument(..., help="The run, as in `solblom run list`"),
    canaries: int = typer.Option(1000, "--canaries", help="Made-up patients, at least 500"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Attack a run's settings with made-up patients; no real patient is touched, no budget is spent."""
    from solblom_server.coordinator import DATABASE_FILE
    from solblom_server.database import Database
    from solblom_server.rounds.runs import read_signed_study
    from solblom_simulation.audit import FAILURE_LEVEL, audit_study

    folder = find_home(home)
    database = Database(folder / DATABASE_FILE)
    document = read_signed_study(database.run(run).envelope)
    database.close()
    if document.noise_multiplier is None:
        raise ConfigurationError(
            "SB-105", f"The run {run} has no privacy to audit", "Choose a run with privacy"
        )
    if canaries < 500:
        raise ConfigurationError("SB-103", f"--canaries is {canaries}; at least 500 are needed")
    say(
        f"Training the study's {counted(document.study.training.rounds, 'round')} "
        f"on {canaries} made-up patients"
    )
    result = audit_study(document, canaries=canaries)
    _keep(folder, run, result)
    if as_json:
        body = {**dataclasses.asdict(result), "failure_level": FAILURE_LEVEL}
        print_json("solblom.audit.privacy/1", {"run": run, "passed": result.passed, **body})
    else:
        auroc, tpr = result.membership_auroc, result.tpr_at_1_percent_fpr
        console = out()
        console.print(
            f"Claim tested    epsilon {result.claimed:.3f} at delta {format_delta(result.delta)}"
        )
        console.print(f"Attack proves   epsilon of at least {result.lower_bound:.3f}")
        console.print(f"                {result.correct} of {result.canaries} coins guessed right")
        console.print(
            f"Membership      AUROC {auroc[0]:.3f} [{auroc[1]:.3f}, {auroc[2]:.3f}], "
            f"TPR {tpr[0]:.3f} [{tpr[1]:.3f}, {tpr[2]:.3f}] at 1 % FPR",
            markup=False,
        )
        verdict = "[green]stands against this attack[/]" if result.passed else "[bold red]FALSE[/]"
        console.print(f"The claim       {verdict} (error chance {FAILURE_LEVEL:g})")
        say("A pass says that this attack found no fault, not that there is none.")
    if not result.passed:
        raise typer.Exit(EXIT_CHECK_SAID_NO)


def _keep(folder: Path, run: str, result: "AuditResult") -> None:
    """Keep an audit's result in the Solblom folder, where the steward's page finds it; a later one takes its place."""
    from solblom_simulation.audit import FAILURE_LEVEL

    body = {
        "schema": "solblom.audit.privacy/1",
        "run": run,
        "time": timestamp(dt.datetime.now(dt.UTC)),
        "passed": result.passed,
        "failure_level": FAILURE_LEVEL,
        **dataclasses.asdict(result),
    }
    path = folder / "audits" / f"privacy-{run}.json"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
