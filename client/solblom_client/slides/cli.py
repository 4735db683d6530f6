"""`solblom node features`: from whole slides to what a study's model sees of them, inside the hospital."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, err, out, print_json, read_given, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO
from solblom_verify.wording import counted

if TYPE_CHECKING:
    from solblom_client.slides.bags import MadeBags
    from solblom_client.slides.stain_table import StainRow

app = typer.Typer(help="Hospital: slides", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
SHOWN_PROBLEMS = 20


@app.command("features")
@command
def features(
    study: Path = typer.Argument(..., help="The signed study (….signed.json)"),
    node: Path = NODE_OPTION,
    jobs: int = typer.Option(1, "--jobs", min=1, max=64, help="Slides read at the same time"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Cut this hospital's slides into tiles and encode them as a study asks; nothing of it leaves.

    Before `node approve`: the vault reads the features, never an image. Ends with status 1 where a slide cannot be
    used.
    """
    from solblom_client.approvals.approval import study_signers
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.slides.features import make_features
    from solblom_client.slides.stain_table import stain_table
    from solblom_protocol.studies.study import open_study

    config = load_node_config(node)
    check_user(config)
    signers = {key: who.signing for key, who in study_signers(config).items()}
    document = open_study(read_given(study), signers)
    with _shown(quiet=as_json) as progress:
        made = make_features(config, document, processes=jobs, progress=progress)
    stains = stain_table(made)
    if as_json:
        print_json("solblom.node.features/1", _report(config.node.site, made, stains))
    else:
        _print(config.node.site, made, stains)
    if made.problems:
        raise typer.Exit(EXIT_CHECK_SAID_NO)


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Give what is told of progress: a live bar on a terminal, a line for each tenth elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    plain = not err().is_terminal
    columns = "slides", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err(), disable=plain or quiet) as bar:
        task = bar.add_task("slides", total=None)

        def told(done: int, whole: int) -> None:
            bar.update(task, completed=done, total=whole)
            if plain and (done * 10 // whole) > ((done - 1) * 10 // whole):
                say(f"{done} of {whole} slides")

        yield told


def _report(site: str, made: "MadeBags", stains: "list[StainRow]") -> dict[str, Any]:
    return {
        "site": site,
        "slides": len(made.rows),
        "usable": len(made.facts),
        "known_before": made.known,
        "patients": made.patients,
        "patients_without_a_slide": made.without,
        "tiles": sum(facts.tiles for facts in made.facts.values()),
        "blurred_tiles": sum(facts.blurred for facts in made.facts.values()),
        "problems": [
            {"line": line, "reason": made.problems[line]} for line in sorted(made.problems)
        ],
        "carries": made.carries,
        "stains": [vars(row) for row in stains],
        "index": str(made.index),
    }


def _print(site: str, made: "MadeBags", stains: "list[StainRow]") -> None:
    from rich.table import Table

    from solblom_client.slides.stain_table import resolution_in_words

    console = out()
    usable = [made.facts[line] for line in sorted(made.facts)]
    tiles, blurred = sum(f.tiles for f in usable), sum(f.blurred for f in usable)
    console.print(f"{site}: {counted(len(usable), 'slide')} of {len(made.rows)}", style="bold")
    console.print(
        f"  {counted(made.patients, 'patient')}, {tiles:,} tiles; {blurred:,} more were out of focus"
    )
    if made.known:
        console.print(f"  {counted(made.known, 'slide')} had been read before")
    table = Table(
        "scanner",
        "slides",
        "µm/px",
        "tiles a slide",
        "haematoxylin",
        "eosin",
        "to the reference",
        box=None,
        pad_edge=False,
    )
    for row in stains:
        table.add_row(
            row.scanner,
            str(row.slides),
            resolution_in_words(row),
            f"{row.tiles:.0f}",
            f"{row.haematoxylin:.2f} ± {row.haematoxylin_sd:.2f}",
            f"{row.eosin:.2f} ± {row.eosin_sd:.2f}",
            row.in_words,
        )
    if stains:
        console.print(table)
    for kind, slides in made.carries.items():
        told = counted(slides, "slide carries", "slides carry")
        say(f"{told} {kind}: never read here; remove it before a slide is shared.")
    _print_problems(made)
    say(f"Wrote {made.index}. Images and features stay here; the vault reads the features.")


def _print_problems(made: "MadeBags") -> None:
    if not made.problems:
        return
    say(f"{counted(len(made.problems), 'slide')} cannot be used and will be left out:")
    for line in sorted(made.problems)[:SHOWN_PROBLEMS]:
        say(f"  line {line}: {made.problems[line]}")
    if len(made.problems) > SHOWN_PROBLEMS:
        say(f"  … and {len(made.problems) - SHOWN_PROBLEMS} more; --json lists all")
    if made.without:
        say(
            f"{counted(made.without, 'patient has', 'patients have')} no slide left and will not take part."
        )
