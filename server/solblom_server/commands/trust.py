"""`solblom coordinator trust …`: whose signatures count on this coordinator's models."""

import datetime as dt
from pathlib import Path
from typing import Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_verify.wording import counted

app = typer.Typer(
    help="Whose signatures count on models", no_args_is_help=True, add_completion=False
)
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"]


@app.command("show")
@command
def show(home: Path | None = HOME_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show the trust file: keys, roles, dates, how many must have signed, and the witnesses."""
    from solblom_server.trust_file import TRUST_FILE, read_trust

    path = find_home(home) / TRUST_FILE
    trust = read_trust(path.parent)
    if as_json:
        body = {name: value for name, value in trust.items() if name != "schema"}
        print_json("solblom.coordinator.trust/1", {"path": str(path), **body})
        return
    console = out()
    title = f"{path}: version {trust['version']}, until {trust['expires'][:10]}"
    console.print(title, style="bold", markup=False)
    for key in trust["keys"]:
        dates = "".join(f"  {name} {key[name]}" for name in ("from", "until") if name in key)
        line = f"  {key['role']:<11}  {key['keyid'][:16]}…  {key['name']}{dates}"
        console.print(line, markup=False)
    console.print(f"{counted(trust['threshold'], 'signature')} needed", markup=False)
    for witness in trust.get("witnesses", []):
        console.print(f"  witness      {witness['keyid'][:16]}…  {witness['name']}", markup=False)


@app.command("add-key")
@command
def add_key(
    file: Path = typer.Argument(..., help="The public key in PEM form (openssl pkey -pubout)"),
    name: str = typer.Option(..., "--name", help="Whose it is, as a verdict shows it"),
    role: str = typer.Option("steward", "--role", help="steward or coordinator"),
    since: dt.datetime | None = typer.Option(
        None, "--from", formats=DATES, help="From when its signatures count, UTC"
    ),
    until: dt.datetime | None = typer.Option(
        None, "--until", formats=DATES, help="Until when they count; signatures of before stay good"
    ),
    threshold: int | None = typer.Option(
        None, "--threshold", min=1, help="How many keys must have signed a model from now on"
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Add a key to trust.json, or change the name, role or dates of one that stands there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from solblom_protocol.keys.key_files import fingerprint, public_half
    from solblom_server import trust_file

    key, folder = public_half(file), find_home(home)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError("SB-109", f"{file} holds no key that signs")
    dates = [None if date is None else date.replace(tzinfo=dt.UTC) for date in (since, until)]
    version = trust_file.add_key(
        folder, key, name=name, role=role, since=dates[0], until=dates[1], threshold=threshold
    )
    body: dict[str, Any] = {"name": name, "role": role, "fingerprint": fingerprint(key)}
    _report("add-key", folder, version, body, as_json=as_json)
    say(f"Compare with {name} over the phone: {fingerprint(key)}")


@app.command("pin-witnesses")
@command
def pin_witnesses(
    quorum: int | None = typer.Option(
        None,
        "--quorum",
        min=1,
        help="How many must have cosigned (default: all of the run but one, more than half)",
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Name the enrolled hospitals' keys in trust.json, so that nobody need believe a model's own list."""
    from solblom_server.coordinator import Coordinator
    from solblom_server.trust_file import pin_witnesses as pin

    folder = find_home(home)
    nodes = Coordinator.open(folder).nodes()
    if not nodes:
        raise ConfigurationError("SB-103", "No hospital is enrolled")
    version = pin(folder, nodes, quorum=quorum)
    body = {"witnesses": [node.name for node in nodes], "quorum": quorum}
    _report("pin-witnesses", folder, version, body, as_json=as_json)


def _report(verb: str, home: Path, version: int, body: dict[str, Any], *, as_json: bool) -> None:
    from solblom_server.trust_file import TRUST_FILE

    if as_json:
        schema = f"solblom.coordinator.trust.{verb}/1"
        print_json(schema, {"path": str(home / TRUST_FILE), "version": version, **body})
    say(f"{home / TRUST_FILE} is version {version} now. Give it to everybody who verifies models.")
