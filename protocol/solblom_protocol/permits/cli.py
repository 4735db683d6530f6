"""`solblom permit …`: what an issuer of permits types. It needs no coordinator and no hospital."""

import datetime as dt
from pathlib import Path
from typing import Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, read_given, say

app = typer.Typer(
    help="Issuer: permits for studies, and their revocation",
    no_args_is_help=True,
    add_completion=False,
)
KEY_OPTION = typer.Option(..., "--key", help="The issuer's private key; NAME.pub stands beside it")
SITES = typer.Option(..., "--site", help="A hospital; may be given several times")
RESEARCHER = typer.Option(
    None, "--researcher", help="Public-keys file: checks that this researcher signed the study"
)
DAYS = typer.Option(..., "--days", min=1, max=3660, help="Valid for so many days")
ROUNDS = typer.Option(
    ..., "--rounds", min=1, help="Rounds of training at each hospital, over all runs"
)
RUNS = typer.Option(1, "--runs", min=1, help="Runs of the study")
MIN_COHORT = typer.Option(
    10, "--min-cohort", min=2, help="Fewest patients of a hospital that takes part"
)
LEGAL_BASIS = typer.Option(
    [], "--legal-basis", help="The issuer's own decision (default: what the study names)"
)
DUO = typer.Option(
    [], "--duo", help="DUO:0000027, or DUO:0000007=MONDO:… (default: what the study names)"
)
_MOMENTS = frozenset({"iat", "nbf", "exp", "asserted", "noise_key_destroy_by"})
CODE = typer.Option(
    [], "--code", help="Digest of node code (default: any that a hospital approved)"
)
DATASET = typer.Option("urn:solblom:dataset", "--dataset", help="The visa's data set, a URI")
LIST_DAYS = typer.Option(7, "--list-days", min=1, max=366, help="How old a revocation list may be")


@app.callback()
def group() -> None:
    """Issuer: permits for studies, and their revocation."""


@app.command("key")
@command
def make_key(
    name: str = typer.Argument(..., help="Name of the two files: NAME.key and NAME.pub"),
    issuer: str | None = typer.Option(
        None, "--issuer", help="Who issues, as in `iss`: best a URL (default: NAME)"
    ),
    into: Path = typer.Option(Path(), "--in", help="Folder to make them in"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Make an issuer's key. Hospitals pin NAME.pub; NAME.key never leaves the issuer."""
    from solblom_protocol.keys.key_files import fingerprint
    from solblom_protocol.permits.issuing import make_issuer

    key_file, public_file, made = make_issuer(into, name, issuer or name)
    shown = fingerprint(made.key)
    if as_json:
        files = {"key": str(key_file), "public": str(public_file)}
        print_json("solblom.permit.key/1", {"issuer": made.name, **files, "fingerprint": shown})
        return
    say(f"Wrote {key_file} (secret) and {public_file} (for hospitals).")
    out().print(f"{made.name}  {shown}", markup=False)
    say("Read the fingerprint to each hospital over the phone.")


@app.command("issue")
@command
def issue(
    study: Path = typer.Argument(..., help="The signed study (….signed.json)"),
    sites: list[str] = SITES,
    key: Path = KEY_OPTION,
    signer: Path | None = RESEARCHER,
    days: int = DAYS,
    rounds: int = ROUNDS,
    runs: int = RUNS,
    min_cohort: int = MIN_COHORT,
    legal_basis: list[str] = LEGAL_BASIS,
    duo: list[str] = DUO,
    code: list[str] = CODE,
    dataset: str = DATASET,
    list_days: int = LIST_DAYS,
    file: Path = typer.Option(..., "--out", help="File to write"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Issue a permit for a signed study: its settings, epsilon and outputs are taken from the study itself."""
    from solblom_protocol.permits.issuing import Terms, issue_permit, now_seconds

    terms = Terms(
        sites=tuple(sites),
        days=days,
        rounds=rounds,
        runs=runs,
        min_cohort=min_cohort,
        legal_basis=tuple(legal_basis),
        duo=tuple(duo),
        code=tuple(code),
        dataset=dataset,
        list_days=list_days,
    )
    permit, digest = issue_permit(read_given(study), signer, key, terms, now_seconds(), file)
    if signer is None:
        say("NOT CHECKED: who signed the study. Give --researcher to check it.")
    if as_json:
        data = {"path": str(file), "jti": permit.jti, "digest": digest, "study": permit.study}
        print_json("solblom.permit.issue/1", data)
        return
    say(f"Wrote {file}. To take it back: solblom permit revoke {permit.jti} --key {key} --out …")
    _print(permit.claims)


@app.command("show")
@command
def show(
    file: Path = typer.Argument(..., help="A permit or a revocation list"),
    issuer: Path | None = typer.Option(
        None, "--issuer", help="The issuer's NAME.pub: checks the signature"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show what a permit says. Without --issuer nothing is checked, and it says so."""
    from solblom_protocol.permits.issuing import describe_file

    found = describe_file(read_given(file), issuer)
    if as_json:
        print_json("solblom.permit.show/1", found)
        return
    if not found["signature_checked"]:
        say("NOT CHECKED: give --issuer with the issuer's file to check the signature.")
    _print(found["claims"])


@app.command("revoke")
@command
def revoke(
    jti: list[str] = typer.Argument(None, help="The `jti` of permits; none: a fresh list only"),
    key: Path = KEY_OPTION,
    file: Path = typer.Option(..., "--out", help="The list: added to where it exists"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Revoke permits: add to the issuer's list and sign it anew. Send the file to every hospital."""
    from solblom_protocol.permits.issuing import now_seconds, revoke_permits

    made = revoke_permits(file, tuple(jti or ()), key, now_seconds())
    if as_json:
        data = {"path": str(file), "revoked": list(made.revoked), "iat": made.iat}
        print_json("solblom.permit.revoke/1", data)
        return
    say(f"Wrote {file}: {len(made.revoked)} revoked.")
    say("Send it to every hospital now, and a fresh one before it is too old (no JTI needed).")


def _print(claims: dict[str, Any]) -> None:
    """Print claims, a line each, nested ones by their path; a moment also as a date that people read."""
    console = out()
    for name, value in claims.items():
        inside = value.items() if isinstance(value, dict) else [("", value)]
        for inner, found in inside:
            path = f"{name}.{inner}" if inner else name
            console.print(f"  {path}  {found!a}{_date(inner or name, found)}", markup=False)


def _date(claim: str, value: Any) -> str:
    """Return a moment's date in brackets; nothing for other claims, and for what no calendar has."""
    if claim not in _MOMENTS or not isinstance(value, int):
        return ""
    try:
        return f"  ({dt.datetime.fromtimestamp(value, dt.UTC):%Y-%m-%dT%H:%M:%SZ})"
    except (OverflowError, OSError, ValueError):
        return ""
