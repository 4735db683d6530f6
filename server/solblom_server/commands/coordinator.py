"""`solblom coordinator …`: what the operator types to set up a federation and let hospitals in."""

import datetime as dt
import os
from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, read_given, say
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.home import HOME_OPTION, find_home
from solblom_server.commands import cosign as cosign_cli
from solblom_server.commands import notice as notice_cli
from solblom_server.commands import service as service_cli
from solblom_server.commands import trust as trust_cli
from solblom_server.offline import bundle_cli
from solblom_verify.wording import counted

app = typer.Typer(
    help="Operator: set up a federation, let hospitals in",
    no_args_is_help=True,
    add_completion=False,
)
INVITES = "invites"
app.registered_commands.extend(service_cli.app.registered_commands)
app.registered_commands.extend(notice_cli.app.registered_commands)
app.add_typer(trust_cli.app, name="trust")
app.registered_commands.extend(cosign_cli.app.registered_commands)
app.registered_commands.extend(bundle_cli.app.registered_commands)


@app.command("init")
@command
def init(
    folder: Path = typer.Argument(..., help="New Solblom folder"),
    name: str = typer.Option(..., "--name", help="Name of the federation"),
    address: str | None = typer.Option(
        None, "--address", help="HOST:PORT as hospitals reach it; without: rounds by file only"
    ),
    listen: str | None = typer.Option(
        None, "--listen", help="HOST:PORT to listen on (default: every interface, the same port)"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Make a coordinator: keys, certificates, trust file and database in a new folder."""
    from solblom_protocol.keys.key_files import fingerprint
    from solblom_server.coordinator import create_coordinator

    made = create_coordinator(
        folder,
        name=name,
        entropy=lambda label: os.urandom(32),
        address=address,
        listen=listen,
    )
    shown = fingerprint(made.public.signing)
    if as_json:
        print_json(
            "solblom.coordinator.init/1",
            {
                "home": str(folder),
                "key_id": made.public.key_id,
                "fingerprint": shown,
                "address": address,
            },
        )
    say(f"Made {folder}. Keep {folder / 'keys'} secret; give {folder / 'trust.json'} to stewards.")
    say(f"Fingerprint, to be read to hospitals over the phone: {shown}")
    say(f"Next: solblom coordinator invite SITE --home {folder}")


@app.command("invite")
@command
def invite(
    site: str = typer.Argument(..., help="Name of the hospital: small letters, digits, hyphens"),
    into: Path | None = typer.Option(None, "--out", help="File (default: SITE.invite.json)"),
    days: int = typer.Option(14, "--days", min=1, max=365, help="How long it may be answered"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write a small signed invitation for one hospital."""
    from solblom_protocol.keys.key_files import fingerprint, write_new
    from solblom_protocol.messages.enrolment import Address, write_invite
    from solblom_server.coordinator import Coordinator
    from solblom_server.service.certificates import read_authority
    from solblom_server.settings import read_settings

    folder = find_home(home)
    coordinator = Coordinator.open(folder)
    if any(node.name == site for node in coordinator.nodes()):
        raise ConfigurationError("SB-113", f"The hospital {site} is enrolled already")
    now = dt.datetime.now(dt.UTC)
    network = read_settings(folder).network
    envelope = write_invite(
        site,
        coordinator.public,
        coordinator.signing,
        address=None
        if network is None
        else Address(f"https://{network.address}", read_authority(folder)),
        now=now,
        days=days,
    )
    target = into or Path(f"{site}.invite.json")
    write_new(target, envelope, mode=0o644)
    kept = folder / INVITES / f"{site}.json"
    kept.unlink(missing_ok=True)  # the newest invitation is the one that counts
    write_new(kept, envelope, mode=0o644)
    shown = fingerprint(coordinator.public.signing)
    if as_json:
        print_json(
            "solblom.coordinator.invite/1",
            {"site": site, "path": str(target), "fingerprint": shown},
        )
    say(
        f"Wrote {target}, valid for {counted(days, 'day')}. At the hospital: solblom node join {target.name}"
    )
    say(f"Read this over the phone when they ask who you are: {shown}")


@app.command("enrol")
@command
def enrol(
    answer: Path = typer.Argument(..., help="The hospital's answer (….join.json)"),
    fingerprint_heard: str | None = typer.Option(
        None, "--fingerprint", help="What the hospital read over the phone; asked for otherwise"
    ),
    by_file: bool = typer.Option(
        False, "--by-file", help="Orders travel as files to this hospital, not over the network"
    ),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Let a hospital in that answered an invitation, once its fingerprint was compared."""
    from solblom_protocol.keys.key_files import fingerprint
    from solblom_protocol.messages.enrolment import answered_site, open_answer
    from solblom_server.coordinator import Coordinator
    from solblom_server.settings import read_settings
    from solblom_server.transports.files import EXCHANGE

    folder, envelope = find_home(home), read_given(answer)
    site = answered_site(envelope)
    kept = folder / INVITES / f"{site}.json"
    if not kept.is_file():
        raise IntegrityError("SB-603", f"No invitation of {site} is open")
    node = open_answer(envelope, kept.read_bytes(), now=dt.datetime.now(dt.UTC))
    shown = fingerprint(node.keys.signing)
    _compare(site, shown, fingerprint_heard)
    route = "files" if by_file or read_settings(folder).network is None else "network"
    Coordinator.open(folder).enrol(node.keys, transport_key=node.transport_key, route=route)
    kept.unlink()
    for name in ("orders", "replies"):
        (folder / EXCHANGE / site / name).mkdir(parents=True, exist_ok=True)
    if as_json:
        body = {"site": site, "key_id": node.keys.key_id, "route": route}
        print_json("solblom.coordinator.enrol/1", body)
    how = (
        f"Orders go through {folder / EXCHANGE / site}."
        if route == "files"
        else "Its node connects as soon as `solblom node start` runs there."
    )
    say(f"{site} takes part from now on. {how}")


@app.command("roster")
@command
def roster(
    sites: list[str] = typer.Argument(None, help="Hospitals (default: all that are enrolled)"),
    into: Path = typer.Option(Path("roster.json"), "--out", help="File to write"),
    home: Path | None = HOME_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write the roster of a secure sum: hospitals and node keys, for the researcher's study."""
    from solblom_protocol.keys.key_files import fingerprint, write_new
    from solblom_protocol.sums.secure_sum import Roster, write_roster
    from solblom_server.coordinator import Coordinator

    nodes = {node.name: node for node in Coordinator.open(find_home(home)).nodes()}
    unknown = sorted(set(sites or []) - set(nodes))
    if unknown:
        raise ConfigurationError("SB-103", f"Not enrolled: {', '.join(unknown)}")
    chosen = [nodes[site] for site in sorted(set(sites or nodes))]
    write_new(into, write_roster(Roster.of(chosen)), mode=0o644)
    members = [{"site": n.name, "fingerprint": fingerprint(n.signing)} for n in chosen]
    if as_json:
        print_json("solblom.coordinator.roster/1", {"path": str(into), "members": members})
    for member in members:
        say(f"{member['site']}  {member['fingerprint']}")
    say(
        f'Wrote {into}. In the study: privacy.noise = "shared", [secure_sum] roster = "{into.name}"'
    )


def _compare(site: str, shown: str, heard: str | None) -> None:
    """Ask a person to compare, or compare with what was heard.

    Raises:
        IntegrityError: SB-603, they differ.
    """
    if heard is None and os.environ.get("SOLBLOM_NO_INPUT"):
        raise ConfigurationError(
            "SB-103", "Nobody can be asked: --no-input is set", "Give --fingerprint"
        )
    if heard is None:
        agreed = typer.confirm(f"Does {site} read out this fingerprint?  {shown}\n", err=True)
    else:
        agreed = heard.replace(" ", "").lower() == shown.replace(" ", "")
    if not agreed:
        raise IntegrityError(
            "SB-603",
            f"The fingerprint of the answer is {shown}; the hospital reads out another",
            "Somebody may sit between you: do not enrol, ask for a new answer",
        )
