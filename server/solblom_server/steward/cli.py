"""`solblom steward …`: the page, reports in one file, and the sheet for a data protection officer."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_INTEGRITY, ConfigurationError
from solblom_protocol.home import HOME_OPTION, find_home

if TYPE_CHECKING:
    from solblom_server.steward.scene import Scene

app = typer.Typer(help="Steward: the page and reports", no_args_is_help=True, add_completion=False)
TRUST = typer.Option(None, "--trust", help="Trust file (default: that of the Solblom folder)")
COMPARISON = typer.Option(
    [], "--comparison", help="A record of `solblom model compare --out`; again for each further one"
)
LANGUAGE = typer.Option("en", "--lang", help="no or en")
PORT = 8460


@app.command("serve")
@command
def serve(
    port: int = typer.Option(
        PORT, "--port", min=0, max=65535, help="Port of loopback; 0: any free one"
    ),
    comparison: list[Path] = COMPARISON,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
) -> None:
    """Show studies, runs and models in a browser on this machine. Reads only; the link works once."""
    from solblom_server.steward.serving import serve_page

    scene = _scene(find_home(home), trust, "en", comparison)
    serve_page(scene, port=port, ready=_say_where)


def _say_where(address: str) -> None:
    # The link opens the page, so it is data: it goes to stdout, and nowhere else.
    out().print(address, markup=False, soft_wrap=True)
    say("The link works once, in one browser on this machine. Ctrl-C ends the page.")


@app.command("report")
@command
def report(
    ref: str = typer.Argument(..., help="name, name@v3, sha256:… or a folder of the registry"),
    html: Path = typer.Option(..., "--html", help="New file"),
    comparison: list[Path] = COMPARISON,
    lang: str = LANGUAGE,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write everything about a model into one file that loads nothing. Exit 5 if the model does not verify."""
    from solblom_models.references import find_artefact
    from solblom_protocol.keys.key_files import write_new
    from solblom_server.steward.app import subject_of
    from solblom_server.steward.records import open_records
    from solblom_server.steward.report import model_report

    folder = find_home(home)
    scene = _scene(folder, trust, lang, comparison)
    found = find_artefact(ref, folder)
    if found.resolve().parent != scene.models.resolve():
        raise ConfigurationError(
            "SB-463",
            f"{found} does not stand in {scene.models}: a report needs the records of its run",
        )
    name, _, version = found.resolve().name.rpartition("-")
    subject = subject_of(scene, name, version, fresh=True)
    with open_records(folder) as records:
        text = model_report(scene, records, subject, now=dt.datetime.now(dt.UTC))
    write_new(html, text.encode(), mode=0o644)
    verified = subject.judgement.is_good
    if as_json:
        print_json(
            "solblom.steward.report/1",
            {"file": str(html), "ref": subject.ref, "verified": verified},
        )
    say(f"Wrote {html}")
    if not verified:
        say(f"{subject.ref} does not verify: {subject.judgement.reason}")
        raise typer.Exit(EXIT_INTEGRITY)


@app.command("dpo-sheet")
@command
def dpo_sheet(
    study: str = typer.Argument(..., help="Name of the study, or its digest"),
    html: Path | None = typer.Option(
        None, "--html", help="New file (default: STUDY-dpo-LANG.html here)"
    ),
    lang: str = LANGUAGE,
    trust: Path | None = TRUST,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write two pages that answer a data protection officer's questions from this coordinator's records."""
    from solblom_protocol.keys.key_files import write_new
    from solblom_server.steward.records import open_records
    from solblom_server.steward.report import dpo_report

    folder = find_home(home)
    scene = _scene(folder, trust, lang, [])
    with open_records(folder) as records:
        row = records.find_study(study)
        for other in records.namesakes(row):
            say(f"Another study has this name, and a sheet of its own: {other}")
        text = dpo_report(scene, records, row, now=dt.datetime.now(dt.UTC))
    path = html or Path(f"{row.name}-dpo-{scene.texts.language}.html")
    write_new(path, text.encode(), mode=0o644)
    if as_json:
        print_json("solblom.steward.dpo-sheet/1", {"file": str(path), "study": row.digest})
    say(f"Wrote {path}")


def _scene(home: Path, trust: Path | None, lang: str, comparisons: list[Path]) -> "Scene":
    """Return what views need, its files looked at once, so that a wrong one is said before anything is shown.

    Raises:
        ConfigurationError: SB-101, SB-103, SB-112, SB-424 or SB-462.
    """
    from solblom_models.trusted import pinned_trust
    from solblom_server.steward.languages import LANGUAGES, texts
    from solblom_server.steward.scene import Scene
    from solblom_server.steward.verification import Verifier
    from solblom_server.steward.views_compare import read_comparison

    language = next((known for known in LANGUAGES if known == lang), None)
    if language is None:
        raise ConfigurationError("SB-103", f"--lang is {lang}; there are: {', '.join(LANGUAGES)}")
    # A folder of the registry, so that the trust file of this Solblom folder counts, and no older one.
    trust_file, _ = pinned_trust(home / "models" / "any", trust)
    for path in comparisons:
        read_comparison(path)
    return Scene(
        home, Verifier(trust_file), texts(language), tuple(path.resolve() for path in comparisons)
    )
