"""`solblom demo`: the first command a newcomer types."""

import os
import shutil
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import ConfigurationError
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_simulation.demo import DemoOutcome

DEMOS = ("heart", "rare-disease", "histology")
app = typer.Typer(help="Train a model across hospitals on this machine", add_completion=False)


@app.command()
@command
def demo(
    task: str = typer.Argument("heart", help="heart, rare-disease or histology"),
    transport: str = typer.Option("local", "--transport", help="local, files or network"),
    rounds: int | None = typer.Option(
        None,
        "--rounds",
        help="Rounds of training (heart 10, histology 20; rare-disease is one sum)",
    ),
    epsilon: float = typer.Option(
        3.0, "--epsilon", help="Privacy budget of the study, per patient"
    ),
    no_privacy: bool = typer.Option(
        False, "--no-privacy", help="Train without noise, for comparison"
    ),
    shared_noise: bool = typer.Option(
        False, "--shared-noise", help="Each hospital adds a share of the noise under a secure sum"
    ),
    seed: int = typer.Option(20261122, "--seed", help="Public seed: same seed, same model"),
    into: Path | None = typer.Option(None, "--out", help="New folder (default: ./solblom-demo)"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Train across four hospitals: heart disease of real ones, rare diseases or slides of made-up ones."""
    if task not in DEMOS or transport not in ("local", "files", "network"):
        asked = f"The demo {task} over {transport}"
        raise ConfigurationError(
            "SB-108", f"{asked} is not available in this version", "Try: solblom demo heart"
        )
    from solblom_client.vault import utc_now
    from solblom_server.commands.run import with_progress
    from solblom_simulation.demo import DemoSettings, demo_json, run_demo
    from solblom_simulation.scenarios import SCENARIOS

    scenario = SCENARIOS[task]
    settings = DemoSettings(
        home=into or _free_folder(),
        scenario=scenario,
        rounds=(scenario.rounds or scenario.default_rounds) if rounds is None else rounds,
        epsilon=None if no_privacy else epsilon,
        seed=seed,
        transport=transport,
        shared_noise=shared_noise,
    )
    outcome = with_progress(lambda: run_demo(settings, clock=utc_now, say=say))
    data = demo_json(outcome)
    if as_json:
        print_json("solblom.demo/1", data)
    else:
        _print_outcome(outcome, data)


def _free_folder() -> Path:
    """Return ./solblom-demo, or the first free ./solblom-demo-<n>: an earlier demo is never overwritten."""
    candidates = [Path("solblom-demo"), *(Path(f"solblom-demo-{n}") for n in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def _print_outcome(outcome: "DemoOutcome", data: dict[str, Any]) -> None:
    console = out()
    if data["sites"]:
        _print_figures(outcome, data, _title(outcome, data))
    else:
        console.print(f"SIMULATION. Not evaluated: {data['note']}", style="bold yellow")
    console.print()
    console.print(f"[bold]Model[/]    {data['model']['ref']}")
    console.print(f"[bold]Digest[/]   {data['model']['digest']}")
    console.print(f"[bold]Folder[/]   {data['model']['path']}")
    console.print(
        f"[bold]Verified[/] [green]{outcome.checks} of {outcome.checks} checks[/], offline"
    )
    for line in _picture_lines(outcome):
        console.print(line, markup=False, soft_wrap=True)
    console.print(f"[bold]Time[/]     {data['seconds']:.1f} s after loading")
    console.print()
    console.print("The commands behind this demo, ready to be tried:", style="bold")
    for line in _commands(outcome):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _picture_lines(outcome: "DemoOutcome") -> list[str]:
    """Return lines on heatmaps and on how often their highest tiles lie in a planted lesion."""
    found = outcome.heatmaps
    if found is None:
        return []
    lines = [f"Heatmap  {path}" for path in found.files if path.name == "heatmap.png"]
    if found.hits is not None:
        hits = found.hits
        lines.append(
            f"Hits     the highest tile lies in a planted lesion in {hits.highest:.0%} of test patients' "
            f"{counted(hits.slides, 'slide')}, {hits.top:.0%} of the five highest do; by chance {hits.chance:.0%}"
        )
    return lines


def _title(outcome: "DemoOutcome", data: dict[str, Any]) -> str:
    settings = outcome.settings
    privacy = (
        "NO PRIVACY"
        if settings.epsilon is None
        else f"epsilon {settings.epsilon:g} for each patient"
    )
    if settings.shared_noise:
        privacy += ", noise shared under a secure sum"
    return f"SIMULATION: {settings.scenario.banner}, {counted(data['rounds'], 'round')}, {privacy}"


def _print_figures(outcome: "DemoOutcome", data: dict[str, Any], title: str) -> None:
    from rich.table import Table

    evaluation = outcome.run.evaluation or {}
    if evaluation.get("measure") == "ranking":
        from solblom_simulation.demo_ranking import print_rankings

        print_rankings(title, data, baselines=evaluation["baselines"])
        return
    if evaluation.get("measure") in ("slides", "tiles"):
        from solblom_simulation.demo_slides import print_slides

        print_slides(title, data, evaluation)
        return
    console = out()
    table = Table(
        title=title,
        title_style="bold yellow",
        caption="AUROC [95 % interval] on the same test patients. Local-only and pooled are trained without noise.",
    )
    table.add_column("hospital")
    table.add_column("patients\ntrain + test", justify="right")
    for column in ("local only", "federated", "pooled"):
        table.add_column(column, justify="center")
    table.add_column("epsilon\nspent", justify="right")
    for site in data["sites"]:
        cells = [_cell(site["metrics"][kind]) for kind in ("local", "federated", "pooled")]
        patients = f"{site['patients']} + {site['test_patients']}"
        table.add_row(site["site"], patients, *cells, site["epsilon"])
    table.add_section()
    cells = [_cell(data["metrics"][kind]) for kind in ("local", "federated", "pooled")]
    total = f"{sum(s['patients'] for s in data['sites'])} + {sum(s['test_patients'] for s in data['sites'])}"
    table.add_row("all together *", total, *cells, "")
    console.print(table)
    console.print(
        "* Here local-only mixes four models that each know how common the disease is in their hospital;\n"
        "  compare hospital by hospital. Delta "
        f"{data['sites'][0]['delta']}; what epsilon does not cover stands in privacy/statement.json.",
        style="dim",
        markup=False,
    )


def _cell(metric: dict[str, Any]) -> str:
    if metric["auroc"] is None:
        return f"not shown:\n{metric['reason']}"
    low, high = metric["auroc_interval"]
    return f"{metric['auroc']:.3f} [{low:.3f}, {high:.3f}]"


def _commands(outcome: "DemoOutcome") -> list[str]:
    run = outcome.run
    home, model = quote(str(outcome.settings.home)), quote(str(run.path))
    solblom, study = quote(_program()), f"{home}/studies/second/study.toml"
    kind = outcome.settings.scenario.kind
    site = f"{home}/sites/{outcome.settings.scenario.example}"
    asked = f"--input {site}/{kind.file}"
    if kind.connector == "phenopackets":
        asked = f"--phenopacket {home}/generated/new-patient.json --top 5"
    if kind.connector == "slides":
        asked = f"--slide {home}/generated/new-slide.tiff --heatmap {home}/generated/heatmap.png"
    report = f"{solblom} steward report {model} --html {home}/report.html --home {home}"
    if outcome.settings.epsilon is None:
        # After training without privacy, nothing is kept to replay, and no hospital's budget allows another study.
        return [
            f"{solblom} model verify {model}",
            report,
            f"{solblom} run show {run.run} --home {home}",
            f"{solblom} node ledger show {site}",
        ]
    first = [
        f"{solblom} model verify {model}",
        f"{solblom} model replay {model}",
        report,
        f"{solblom} model predict {model} {asked}",
        f"{solblom} run show {run.run} --home {home}",
        f"{solblom} node ledger show {site}",
    ]
    if kind.features is not None:
        signed = f"{home}/studies/{outcome.settings.scenario.study}/study.signed.json"
        return [*first, f"{solblom} node features {signed} --node {site}"]
    return [
        *first,
        f"{solblom} study new second --task {kind.task} --in {home}/studies",
        f"{solblom} study check {study}",
        f"{solblom} study sign {study} --key {home}/researcher/researcher.key",
        f"{solblom} node approve {home}/studies/second/study.signed.json {home}/sites/* --yes",
        f"{solblom} study start {study} --home {home}",
        f"{solblom} audit privacy {run.run} --home {home}",
    ]


def _program() -> str:
    """Return how the user would call this program: `solblom` when it is on PATH, else its relative path."""
    if shutil.which("solblom"):
        return "solblom"
    try:
        return os.path.relpath(sys.argv[0])
    except ValueError:
        return sys.argv[0]
