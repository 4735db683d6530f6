"""`solblom model promote|withdraw|status`: a steward's decisions, each signed and logged for good."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, printable, quoted, say
from solblom_protocol.errors import ConfigurationError, SolblomError
from solblom_protocol.home import HOME_OPTION, find_home

if TYPE_CHECKING:
    from solblom_server.registry.life_cycle import Registered

app = typer.Typer(help="Steward: decide about models", add_completion=False)
REF = typer.Argument(..., help="name, name@v3, sha256:… or a folder of the registry")
REASON = typer.Option(..., "--reason", help="Why, in one line; it stands in the log for ever")
KEY = typer.Option(..., "--key", help="The steward's private key, as the trust file names it")
UNASKED = "not checked (--no-verify)"
COSIGN = typer.Option(True, "--cosign/--no-cosign", help="Ask the hospitals to cosign at once")


@app.command("promote")
@command
def promote(
    ref: str = REF,
    to: str = typer.Option(..., "--to", help="validated or released"),
    reason: str = REASON,
    key: Path = KEY,
    cosign: bool = COSIGN,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a model, sign it as its steward, and log that it is validated, or released."""
    from solblom_models.references import find_artefact
    from solblom_protocol.keys.key_files import read_signing_key
    from solblom_server.coordinator import Coordinator
    from solblom_server.registry import life_cycle

    if to not in ("validated", "released"):
        raise ConfigurationError(
            "SB-103", f"--to {to}: a model is promoted to validated or released"
        )
    base = find_home(home)
    folder, coordinator = find_artefact(ref, base), Coordinator.open(base)
    now, steward = dt.datetime.now(dt.UTC), read_signing_key(key)
    missing = life_cycle.promote(coordinator, folder, to, reason, steward, now=now)
    found = life_cycle.registered_model(folder)
    _report("promote", base, found, to, missing, cosign=cosign, as_json=as_json)


@app.command("withdraw")
@command
def withdraw(
    ref: str = REF,
    reason: str = REASON,
    key: Path = KEY,
    cosign: bool = COSIGN,
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Withdraw a model for good: it no longer verifies, and nothing is predicted with it."""
    from solblom_models.references import find_artefact
    from solblom_protocol.keys.key_files import read_signing_key
    from solblom_server.coordinator import Coordinator
    from solblom_server.registry import life_cycle

    base = find_home(home)
    coordinator = Coordinator.open(base)
    folder = life_cycle.recorded_folder(coordinator, ref) or find_artefact(ref, base)
    now, steward = dt.datetime.now(dt.UTC), read_signing_key(key)
    done = life_cycle.withdraw(coordinator, folder, reason, steward, now=now)
    found, missing = done.found, done.missing
    _report("withdraw", base, found, "withdrawn", missing, cosign=cosign, as_json=as_json)
    if done.unwritten:
        say(f"Its folder could not be told: {done.unwritten}")
        say("Next: mend the folder; the same command again writes its log/.")
    say(
        "Copies elsewhere do not know: give auditors a fresh log (solblom audit log --export FILE)."
    )


@app.command("status")
@command
def status(
    ref: str = REF,
    verify: bool = typer.Option(
        True, "--verify/--no-verify", help="Check every byte of the model's folder too"
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Show what stewards decided about a model, from the coordinator's log, and whether its folder verifies."""
    from contextlib import closing

    from solblom_models.judged import judge, not_judged
    from solblom_models.references import find_artefact
    from solblom_models.trusted import pinned_trust
    from solblom_models.withdrawn import NONE_LEFT, withdrawn_model
    from solblom_server.coordinator import Coordinator
    from solblom_server.registry import life_cycle
    from solblom_verify.history import WITHDRAWN

    base = find_home(home)
    coordinator = Coordinator.open(base)
    folder = life_cycle.recorded_folder(coordinator, ref) or find_artefact(ref, base)
    found, trust = life_cycle.recorded_model(coordinator, folder), pinned_trust(folder, None)[1]
    with closing(coordinator.log()) as log:
        history = life_cycle.history_of(log, found.model, trust)
    known = judge(folder, found.model.artefact) if verify else not_judged(folder, UNASKED)
    stands = life_cycle.status_of(history)
    withdrawn = withdrawn_model(folder, trust) if stands == WITHDRAWN else None
    instead = withdrawn.instead[0] if withdrawn and withdrawn.instead else None
    body: dict[str, Any] = {
        "model": found.ref,
        "artefact": found.model.artefact,
        "status": stands,
        "signed": _text(history.signed) if history else None,
        "history": [
            {"status": e.status, "time": _text(e.time), "by": e.signer, "reason": e.reason}
            for e in (history.statuses if history else ())
        ],
        "verified": known.verified,
        "reason": known.reason,
        "instead": instead,
    }
    if as_json:
        print_json("solblom.model.status/1", body)
        return
    following = "" if withdrawn is None else withdrawn.next_step if instead else NONE_LEFT
    _print_status(body, next_step=following)


def _print_status(body: dict[str, Any], *, next_step: str) -> None:
    console = out()
    console.print(f"{body['model']}  {body['status']}", style="bold", markup=False)
    for entry in body["history"]:
        said = f"{printable(entry['by'])}: {quoted(entry['reason'])}"
        console.print(f"  {entry['time']}  {entry['status']:<10}  {said}", markup=False)
    if not body["history"]:
        console.print("  No steward has decided about it.", markup=False)
    say("Checked: each decision's signature, in the coordinator's log.")
    if body["verified"]:
        say("Checked: every byte of its folder is the one that was signed.")
    elif body["verified"] is None:
        say(f"Its folder: {printable(body['reason'])}")
    else:
        say(f"Its folder does not verify: {printable(body['reason'])}")
    if next_step:
        say(f"Next: {next_step}")


def _report(
    verb: str,
    home: Path,
    found: "Registered",
    status: str,
    missing: list[str],
    *,
    cosign: bool,
    as_json: bool,
) -> None:
    """Ask for cosignatures, if wanted, and say how it ended."""
    if cosign and missing:
        say(f"Logged: {found.ref} is {status}. Asking {', '.join(missing)} to cosign the log …")
        missing = _cosigned(home, found.run, missing)
    if as_json:
        body = {"model": found.ref, "artefact": found.model.artefact, "status": status}
        print_json(f"solblom.model.{verb}/1", {**body, "missing_cosignatures": missing})
    say(f"{found.ref} is {status}: signed, and in the log.")
    if missing:
        say(f"Not cosigned yet by {', '.join(missing)}.")
        say(f"Next: solblom coordinator cosign {found.run}")


def _cosigned(home: Path, run: str, missing: list[str]) -> list[str]:
    from solblom_server.rounds.runs import cosign_run

    try:
        return cosign_run(home, run)[1]
    except SolblomError as error:
        say(f"The hospitals could not be asked: {error.message}")
        return missing


def _text(time: dt.datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
