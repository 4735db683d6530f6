"""`solblom study …`: what a researcher types, from an empty folder to a running study."""

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_verify.wording import counted, format_delta

if TYPE_CHECKING:
    from solblom_protocol.studies.privacy_event import PrivacyEvent
    from solblom_protocol.studies.study import StudyDocument

app = typer.Typer(
    help="Researcher: write, check, sign and start a study",
    no_args_is_help=True,
    add_completion=False,
)
FILE = typer.Argument(..., help="study.toml")


def signed_path(study: Path) -> Path:
    """Return where the signed form of a study file stands."""
    return study if study.name.endswith(".signed.json") else study.with_suffix(".signed.json")


@app.command("new")
@command
def new(
    name: str = typer.Argument(..., help="Name of the study and of its folder"),
    task: str = typer.Option("tabular-classification", "--task", help="What to learn"),
    preset: str = typer.Option(
        "few-large-steps", "--preset", help="Recipe to start from: `solblom study presets`"
    ),
    shared_by: int | None = typer.Option(
        None,
        "--shared-by",
        help="Hospitals that share the noise under a secure sum (default: none)",
    ),
    into: Path = typer.Option(Path(), "--in", help="Folder to make it in"),
) -> None:
    """Write a commented study file and its data contract into a new folder."""
    from solblom_models.presets import find_preset
    from solblom_models.templates import TemplateValues, write_template

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise ConfigurationError(
            "SB-103",
            f"{name!r} cannot name a study",
            "Use small letters, digits and hyphens, at most 63",
        )
    next_year = dt.date(dt.datetime.now(dt.UTC).year + 1, 12, 31)
    values = TemplateValues(
        name=name, ends=next_year, preset=find_preset(preset), shared_by=shared_by
    )
    study = write_template(into / name, task, values)
    say(f"Wrote {study} and {study.parent / 'contract.toml'}.")
    if shared_by is not None:
        say(
            f"Put the roster beside it: solblom coordinator roster --out {study.parent}/roster.json"
        )
    say(f"Next: solblom study check {study}")


@app.command("presets")
@command
def presets(as_json: bool = JSON_OPTION) -> None:
    """List the recipes that `study new --preset` can start from, and what speaks for each."""
    from solblom_models.presets import PRESETS

    if as_json:
        listed = [
            {"name": p.name, "does": p.does, "fits": p.fits, "evidence": p.evidence}
            for p in PRESETS
        ]
        print_json("solblom.study.presets/1", {"presets": listed})
        return
    console = out()
    for preset in PRESETS:
        console.print(preset.name, style="bold", markup=False)
        for label, text in (
            ("does", preset.does),
            ("fits", preset.fits),
            ("evidence", preset.evidence),
        ):
            console.print(f"  {label:<9} {text}", markup=False, soft_wrap=True)
    say("What each reached on two data sets: docs/concepts/presets.md")


@app.command("check")
@command
def check(study: Path = FILE, as_json: bool = JSON_OPTION) -> None:
    """Check a study file and say what it will cost."""
    from solblom_models.templates import unedited_words
    from solblom_protocol.studies.study import check_dates

    document = _load(study)
    check_dates(document.study, today=dt.datetime.now(dt.UTC).date())
    data = describe(document)
    if as_json:
        print_json("solblom.study.check/1", data)
        return
    console = out()
    console.print(f"{data['title']}  ({data['name']})", style="bold", markup=False)
    for label, value in data["summary"].items():
        console.print(f"  {label:<18} {value}", markup=False)
    console.print(f"  {'digest':<18} {data['digest']}", markup=False)
    unedited = unedited_words(document)
    if unedited:
        say(f"LOOK  {', '.join(unedited)}: still the template's words; hospitals read them")
    say(f"The study can be run. Next: solblom study sign {study} --key KEY")


@app.command("keygen")
@command
def keygen(
    folder: Path = typer.Argument(..., help="Folder for researcher.key and researcher.pub"),
    name: str = typer.Option("researcher", "--name", help="Your name in hospitals' files"),
) -> None:
    """Make a researcher's signing key. Hospitals list its public half in policy.study_signers."""
    import os

    from solblom_protocol.keys.key_files import fingerprint
    from solblom_server.researcher import create_researcher

    public = create_researcher(folder, name=name, entropy=lambda label: os.urandom(32))
    say(
        f"Wrote {folder / 'researcher.key'} (keep it) and {folder / 'researcher.pub'} (give it away)."
    )
    say(f"Fingerprint, to compare by phone: {fingerprint(public.signing)}")


@app.command("sign")
@command
def sign(
    study: Path = FILE,
    key: Path = typer.Option(..., "--key", help="Your private key (researcher.key)"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Sign a study with its contract and noise; hospitals approve exactly this."""
    from solblom_protocol.contracts.bags import BagContract
    from solblom_protocol.keys.key_files import read_signing_key
    from solblom_protocol.studies.study import check_dates, sign_study

    document = _load(study)
    check_dates(document.study, today=dt.datetime.now(dt.UTC).date())
    target = signed_path(study)
    target.write_bytes(sign_study(document, read_signing_key(key)))
    if as_json:
        print_json("solblom.study.sign/1", {"path": str(target), "digest": document.digest})
    say(f"Signed {document.digest} into {target}.")
    reads_slides = isinstance(document.contract, BagContract) and document.contract.recipe
    first = f"solblom node features {target}, where it has images; then " if reads_slides else ""
    say(f"Next, at each hospital: {first}solblom node approve {target} node.toml")


@app.command("start")
@command
def start(
    study: Path = FILE,
    transport: str = typer.Option("local", "--transport", help="How orders travel"),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Check the study and its signature, send nothing"
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Run a signed study to its end and register the model."""
    from solblom_server.commands.run import finish, with_progress
    from solblom_server.rounds.runs import read_signed_study, start_run

    folder, now = find_home(home), dt.datetime.now(dt.UTC)
    envelope = read_envelope(study)
    if dry_run:
        document = read_signed_study(envelope)
        data = describe(document)
        if as_json:
            print_json("solblom.study.start/1", {"dry_run": True, **data})
        say(
            f"Would start {data['name']} ({data['digest']}). Nothing was sent; "
            "whether hospitals have approved it, only they know."
        )
        return
    if transport == "files":
        say(
            f"Orders come into {folder}/exchange/SITE/orders, replies are awaited in {folder}/exchange/SITE/replies. "
            "Ctrl-C leaves both as they are: `solblom run resume RUN` waits on."
        )
    run = with_progress(lambda: start_run(folder, envelope, transport_name=transport, now=now))
    finish("solblom.study.start/1", run, as_json=as_json)


def read_envelope(study: Path) -> bytes:
    """Return the signed study of a study file, which must not have changed since it was signed.

    Raises:
        ConfigurationError: SB-110.
    """
    from solblom_server.rounds.runs import read_signed_study

    target = signed_path(study)
    if not study.is_file():
        raise ConfigurationError("SB-101", f"{study} does not exist")
    if not target.is_file():
        raise ConfigurationError(
            "SB-110", f"{study} is not signed", f"Run `solblom study sign {study} --key KEY`"
        )
    envelope = target.read_bytes()
    if target != study and read_signed_study(envelope).digest != _load(study).digest:
        raise ConfigurationError("SB-110", f"{study} has changed since it was signed")
    return envelope


def describe(document: "StudyDocument") -> dict[str, Any]:
    """Return what a researcher wants to know before starting."""
    from solblom_models.accountant import format_epsilon, pld_epsilon

    study = document.study
    cost = format_epsilon(pld_epsilon(document.all_events, study.privacy.delta))
    delta = format_delta(study.privacy.delta)
    return {
        "name": study.study.name,
        "title": study.study.title,
        "digest": document.digest,
        "epsilon": cost,
        "delta": delta,
        "noise_multiplier": document.noise_multiplier,
        "steps": study.training.rounds * study.training.local_steps,
        "summary": {
            "task": f"{study.task.name}, {study.task.model.get('kind', '')}",
            "ends": study.study.ends.isoformat(),
            "rounds": _rounds(document),
            **_rule(document),
            "privacy": f"epsilon {cost} at delta {delta} for each {study.privacy.unit}",
            **_one_patient(document),
            "noise multiplier": document.noise_multiplier or "0 (privacy is off)",
            "hospitals": f"at least {study.cohort.min_nodes}, quorum {study.cohort.quorum}",
            "learning rate": f"{study.training.learning_rate:g}{_suggestion(document)}",
            "releases": _releases(document),
            "orders carried": _carries(document),
            **_secure_sum(document),
        },
        "releases": [
            {"kind": kind, "times": times, "noise_multiplier": event.noise_multiplier}
            for kind, times, event in _charged_releases(document)
        ],
    }


def _one_patient(document: "StudyDocument") -> dict[str, str]:
    """Return what a study by family costs one patient, which is what hospitals' caps count."""
    from solblom_models.accountant import format_epsilon, patient_epsilon

    if not document.by_family:
        return {}
    cost = patient_epsilon(document.all_events, document.study.privacy.delta)
    return {"one patient": f"epsilon {format_epsilon(cost)} where the family stays"}


def _rounds(document: "StudyDocument") -> str:
    training = document.study.training
    steps = counted(training.local_steps, "step")
    each = "" if training.rounds == 1 else " each"
    return f"{counted(training.rounds, 'round')} of {steps}{each}"


def _rule(document: "StudyDocument") -> dict[str, str]:
    """Return by which rule hospitals are compared and what each one's sums are divided by, where they are."""
    from solblom_models.aggregation.robust import rule_in_words
    from solblom_protocol.studies.checks import ROBUST, updates_needed

    training = document.study.training
    if training.strategy not in ROBUST:
        return {}
    batch = training.expected_batch_size
    divisors = (
        ", ".join(f"{site} {number:g}" for site, number in sorted(batch.items()))
        if isinstance(batch, dict)
        else f"{batch:g} for all: fits hospitals of about one size (docs/concepts/robust.md)"
    )
    needed = f"at least {counted(updates_needed(training), 'update')} in a round"
    return {"rule": f"{rule_in_words(training)}; {needed}", "sums divided by": divisors}


def _carries(document: "StudyDocument") -> str:
    """Return how many orders go to each hospital, and come back: what somebody with a stick wants to know."""
    from solblom_protocol.sums.run_sums import tolerates_dropouts

    rounds = document.study.training.rounds
    keys = 0 if document.secure_sum is None else 1
    most = rounds + keys + sum(1 for _ in _charged_releases(document))
    if tolerates_dropouts(document):
        most = 1 + 4 * (most - 1)
        return f"{most} a run and hospital: 1 for keys, then 4 a sum (setup, vector, signature, shares)"
    parts = [counted(rounds, "round")] + (["1 for keys"] if keys else [])
    parts += [f"1 to {kind}" for kind, _, _ in _charged_releases(document)]
    return f"{most} a run and hospital: {', '.join(parts)}"


def _secure_sum(document: "StudyDocument") -> dict[str, str]:
    """Return what a study with shared noise assumes, and what it costs where that does not hold."""
    from solblom_models.accountant import alone_epsilon, format_epsilon, two_hospitals_epsilon

    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        return {}
    names = ", ".join(member.site for member in plan.roster.members)
    training = [document.round_event] * document.study.training.rounds
    twice = two_hospitals_epsilon(training, document.study.privacy.delta)
    return {
        "secure sum": f"{names}: {_needed(document)}; at most {table.colluders} with the coordinator",
        "epsilon alone": f"{format_epsilon(alone_epsilon(document))} if all others work together",
        "in two hospitals": f"epsilon {format_epsilon(twice)} from the training",
    }


def _needed(document: "StudyDocument") -> str:
    from solblom_protocol.sums.run_sums import tolerates_dropouts

    return (
        f"{document.threshold} must answer" if tolerates_dropouts(document) else "all must answer"
    )


def _charged_releases(document: "StudyDocument") -> "list[tuple[str, int, PrivacyEvent]]":
    """Return (kind, how often, what it does) of what leaves besides updates."""
    releases = document.study.evaluation.releases
    found = [
        ("evaluate", releases, document.evaluation_event),
        ("describe", 1, document.table_one_event),
    ]
    return [(kind, times, event) for kind, times, event in found if event is not None]


def _releases(document: "StudyDocument") -> str:
    """Return in words what leaves besides updates, each part with what it alone costs a patient."""
    from solblom_models.accountant import format_epsilon, pld_epsilon

    names = {"evaluate": "histograms of test patients", "describe": "Table 1 of all patients"}
    delta = document.study.privacy.delta
    parts = [
        f"{times} x {names[kind]} (epsilon {format_epsilon(pld_epsilon([event] * times, delta))})"
        for kind, times, event in _charged_releases(document)
    ]
    named = document.study.evaluation.named
    if named:
        parts.append(f"OUTSIDE EPSILON: {', '.join(named)}")
    return "; ".join(parts) or "none: no metric and no count leaves a hospital"


def _suggestion(document: "StudyDocument") -> str:
    from solblom_models.presets import preset_in_rhythm

    study = document.study
    if study.task.name != "tabular-classification":  # for whose losses the rule was found
        return ""
    preset = preset_in_rhythm(study)
    if preset is None:
        return ""
    batch = study.training.expected_batch_size
    good = preset.rule.rate(
        document.round_event.alone_noise_multiplier or document.noise_multiplier,  # one hospital's
        clipping_norm=study.privacy.clipping_norm,
        expected_batch_size=min(batch.values()) if isinstance(batch, dict) else batch,
    )
    return f"  (by the rule of {preset.name}: {good:g})"


def _load(study: Path) -> "StudyDocument":
    from solblom_models.study_document import resolve
    from solblom_protocol.studies.study import load_study

    return resolve(*load_study(study))
