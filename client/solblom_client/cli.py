"""`solblom node …`: what hospital IT types."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from solblom_client import bundle_cli, clock_cli, setup_cli
from solblom_client.checks import cli as checks_cli
from solblom_client.consent.cli import cohort_app, consent_app
from solblom_client.log import cli as log_cli
from solblom_client.outbox import cli as outbox_cli
from solblom_client.recalibration import cli as recalibration_cli
from solblom_client.replaying import cli as replay_cli
from solblom_client.service import start_cli, unit_cli, vault_cli
from solblom_client.slides import cli as slides_cli
from solblom_client.support import cli as support_cli
from solblom_protocol.console import (
    JSON_OPTION,
    command,
    may_ask,
    named,
    out,
    print_json,
    read_given,
    say,
    show_error,
)
from solblom_protocol.errors import EXIT_CHECK_SAID_NO, ConfigurationError, SolblomError
from solblom_verify.wording import format_delta

if TYPE_CHECKING:
    from solblom_client.approvals.summary import ApprovalSummary
    from solblom_client.budget.ledger import Entry, Ledger
    from solblom_client.link.exchange import PassReport
    from solblom_client.policy import NodeConfig, PolicyTable
    from solblom_client.vault import Vault

app = typer.Typer(
    help="Hospital: set up and run a node, approve studies, see budgets",
    no_args_is_help=True,
    add_completion=False,
)
ledger_app = typer.Typer(
    help="The hospital's privacy budget", no_args_is_help=True, add_completion=False
)
app.add_typer(ledger_app, name="ledger")
app.add_typer(consent_app, name="consent")
app.add_typer(cohort_app, name="cohort")
app.add_typer(log_cli.app, name="log")
app.add_typer(bundle_cli.app, name="bundle")
app.add_typer(outbox_cli.app, name="outbox")
app.registered_commands.extend(setup_cli.app.registered_commands)
app.registered_commands.extend(checks_cli.app.registered_commands)
app.registered_commands.extend(start_cli.app.registered_commands)
app.registered_commands.extend(clock_cli.app.registered_commands)
app.registered_commands.extend(vault_cli.app.registered_commands)
app.registered_commands.extend(unit_cli.app.registered_commands)
app.registered_commands.extend(support_cli.app.registered_commands)
app.registered_commands.extend(recalibration_cli.app.registered_commands)
app.registered_commands.extend(replay_cli.app.registered_commands)
app.registered_commands.extend(slides_cli.app.registered_commands)

NODES = typer.Argument(..., help="node.toml, or the folder that holds it; several in a simulation")
PERMIT_OPTION = typer.Option(
    None, "--permit", help="The issuer's permit (default: the one in the permits' folder)"
)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")


@app.command("approve")
@command
def approve_study(
    study: Path = typer.Argument(..., help="The signed study (….signed.json)"),
    nodes: list[Path] = NODES,
    permit: Path | None = PERMIT_OPTION,
    lang: str = typer.Option("en", "--lang", help="Language of the summary: en or no"),
    yes: bool = typer.Option(False, "--yes", "-y", help="Approve without asking"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check a signed study against this hospital's policy, budget and data; show it; approve it."""
    from solblom_client.approvals.words import read_language

    envelope, language = read_given(study), read_language(lang)
    token = None if permit is None else read_given(permit)
    configs = _load_nodes(nodes)
    from solblom_client.approvals.approval import confirm, prepare
    from solblom_client.checks.preflight import concerns
    from solblom_client.keys import read_node_keys
    from solblom_client.vault import Vault, utc_now

    ready = []
    for config in configs:
        with _naming(config.node.site, several=len(nodes) > 1):
            keys = read_node_keys(config.state)
            prepared = prepare(config, keys, envelope, now=utc_now(), permit=token, lang=language)
            look = concerns(config, keys, envelope, now=utc_now())
            ready.append((config, keys, prepared, look))
    if not as_json:
        for config, _, prepared, look in ready:
            _print_summary(config.node.site, prepared.summary)
            checks_cli.show_concerns(look)
    if not (yes or as_json) and may_ask():
        sites = ", ".join(config.node.site for config in configs)
        if not typer.confirm(f"Approve this study at {sites}?", err=True):
            say("Not approved. Nothing was written.")
            raise typer.Exit(EXIT_CHECK_SAID_NO)
    for config, keys, prepared, _ in ready:
        with _naming(config.node.site, several=len(nodes) > 1):
            confirm(config, keys, prepared, now=utc_now())
            vault = Vault(config)
            vault.clear_strikes(prepared.summary.study)
            vault.close()
        _say_approved(config)
    if as_json:
        rows = [
            {"site": c.node.site, **vars(prepared.summary), "look": [f.as_json() for f in look]}
            for c, _, prepared, look in ready
        ]
        print_json("solblom.node.approve/1", {"approvals": rows})


def _say_approved(config: "NodeConfig") -> None:
    from solblom_client.node_notes import OLDER_SETTINGS, has_older_settings

    say(f"{config.node.site}: approved")
    if has_older_settings(config):  # this command has read node.toml of now, and the vault has not
        say(f"LOOK: {OLDER_SETTINGS}")


def _load_nodes(nodes: list[Path]) -> "list[NodeConfig]":
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config

    configs = []
    for node in nodes:
        with _naming(str(node), several=len(nodes) > 1):
            configs.append(load_node_config(node))
            check_user(configs[-1])
    return configs


@contextmanager
def _naming(name: str, *, several: bool) -> Iterator[None]:
    """Let an error say which of several nodes it is about."""
    try:
        yield
    except SolblomError as error:
        raise named(error, name) if several else error from None


def _print_summary(site: str, summary: "ApprovalSummary") -> None:
    from rich.table import Table

    from solblom_client.approvals.words import printable

    console = out()
    console.print(f"{site}: {printable(summary.title)}", style="bold", markup=False)
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in summary.lines():
        style = "bold yellow" if label in ("WARNING", "ADVARSEL") else ""
        table.add_row(Text(label, style=style), Text(text, style=style))
    console.print(table)
    console.print()


@app.command("fingerprint")
@command
def show_fingerprints(
    node: Path = typer.Argument(Path("node.toml"), help="node.toml, or its folder"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print the fingerprints of this node's keys and of those it trusts, to be compared by phone."""
    from solblom_client.keys import read_node_keys
    from solblom_client.policy import load_node_config
    from solblom_protocol.keys.cli import print_fingerprints
    from solblom_protocol.keys.public_keys import fingerprints, read_fingerprints

    config = load_node_config(node)
    own = fingerprints(read_node_keys(config.state).public(config.node.site))
    rows: list[dict[str, Any]] = [{"whose": "this node", "file": None, **own}]
    trusted = [("coordinator", config.coordinator.key)]
    trusted += [("researcher", file) for file in config.policy.study_signers]
    trusted += [("issuer of permits", file) for file in config.permit.issuers]
    for whose, file in trusted:
        if config.path(file).is_file():
            rows.append({"whose": whose, "file": file, **read_fingerprints(config.path(file))})
        else:
            say(f"{file} is not there yet: no {whose} is trusted by it.")
    if as_json:
        print_json("solblom.node.fingerprint/1", {"site": config.node.site, "keys": rows})
        return
    for row in rows:
        where = f", {row['file']}" if row["file"] else ""
        print_fingerprints(f"{row['name']}  ({row['whose']}{where})", row)
    say("Compare each with its owner on a number that you know. All groups must agree.")


@app.command("revoke")
@command
def revoke_study(
    study: str = typer.Argument(..., help="The study's digest (sha256:…)"),
    node: Path = NODE_OPTION,
) -> None:
    """Withdraw this hospital's approval and wipe the study's noise root."""
    from solblom_client.approvals.approval import revoke
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision import Decision
    from solblom_client.log.once import log_once
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.vault import utc_now

    config = load_node_config(node)
    check_user(config)
    revoke(config, study)
    log_once(config, read_node_keys(config.state), Decision("revoked", study=study), now=utc_now())
    say("Withdrawn. Later orders of this study are refused (SB-203).")


@app.command("exchange")
@command
def exchange(
    node: Path = typer.Argument(Path("node.toml"), help="node.toml, or its folder"),
    again: bool = typer.Option(
        False, "--again", help="Answer orders once more whose replies were lost on the way"
    ),
    watch_seconds: float | None = typer.Option(
        None, "--watch", help="Go on, with so many seconds between passes, until interrupted"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Rounds by file: answer the sealed orders in the inbox with sealed replies in the outbox."""
    import time

    from solblom_client.link.exchange import exchange_once
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.service.pausing import stopped_by_a_pause
    from solblom_client.vault import Vault

    config = load_node_config(node)
    check_user(config)
    vault = Vault(config)
    try:
        while True:
            try:
                if vault.rules.others_are_ready:  # the hospital has changed node.toml
                    config, vault = _opened_anew(node, vault)
                with stopped_by_a_pause(config, partial(attrgetter("at_work"), vault)):
                    report = exchange_once(config, vault, again=again)
            except ConfigurationError as error:
                if watch_seconds is None:
                    raise
                show_error(error, as_json=as_json)  # a share that is away comes back
                time.sleep(watch_seconds)
                continue
            if as_json:
                print_json("solblom.node.exchange/1", {"site": config.node.site, **vars(report)})
            else:
                _print_pass(config.node.site, report, quiet=watch_seconds is not None)
            if watch_seconds is None:
                return
            time.sleep(watch_seconds)
    finally:
        vault.close()


def _opened_anew(node: Path, vault: "Vault") -> "tuple[NodeConfig, Vault]":
    """Open a vault by the rules of now, then close the one of before: where that fails, both stay as they were.

    Raises:
        ConfigurationError, IntegrityError: it cannot be opened.
    """
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.vault import Vault

    config = load_node_config(node)
    check_user(config)
    newer = Vault(config)
    vault.close()
    return config, newer


def _print_pass(site: str, report: "PassReport", *, quiet: bool) -> None:
    """Say what a pass did; a watching node says nothing about passes without news."""
    if report.answered or not quiet:
        say(f"{site}: {len(report.answered)} answered, {len(report.known)} answered before")
    if quiet:
        return
    for name in report.held:
        say(f"  {name}: waits for a person, or for the hours: solblom node outbox list")
    for name in report.waiting:
        say(f"  {name}: not whole yet, or damaged: waiting for the rest")
    for name, reason in report.left_alone.items():
        say(f"  {name!a}: {reason}: left alone")


@ledger_app.command("show")
@command
def ledger_show(
    node: Path = typer.Argument(Path("node.toml"), help="node.toml, or its folder"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show what this hospital's patients have spent and what is left."""
    from solblom_client.budget.ledger import STATE_FILE, open_ledger
    from solblom_client.policy import load_node_config
    from solblom_client.state import VaultState

    config = load_node_config(node)
    state = VaultState(config.state / STATE_FILE)
    data = ledger_report(config, open_ledger(config, state))
    state.close()
    if as_json:
        print_json("solblom.node.ledger.show/1", data)
        return
    _print_ledger(data)


def _study_report(
    entries: "list[Entry]", ledger: "Ledger", policy: "PolicyTable"
) -> dict[str, Any]:
    """Return what one study has cost, and how many more rounds the lifetime admits."""
    from solblom_client.budget.ledger import more_rounds
    from solblom_models.accountant import format_epsilon, patient_epsilon

    events = [entry.event for entry in entries]
    alone = [event.alone() for event in events]
    return {
        "study": entries[0].study,
        "epsilon": format_epsilon(patient_epsilon(events, policy.delta)),
        "epsilon_alone": format_epsilon(patient_epsilon(alone, policy.delta)),
        "rounds": sum(1 for e in entries if e.kind == "train"),
        "releases": sum(1 for e in entries if e.kind != "train"),
        "more_rounds": more_rounds(ledger, events[0], policy),
    }


def ledger_report(config: "NodeConfig", ledger: "Ledger") -> dict[str, Any]:
    """Return spent, reserved and left, over the lifetime and by study, as decimal strings."""
    from solblom_client.budget.ledger import remaining
    from solblom_models.accountant import format_epsilon, rdp_epsilon

    ledger.check_anchor()
    policy, entries = config.policy, ledger.entries()

    def lifetime(chosen: "list[Entry]") -> float:
        return rdp_epsilon([e.event for e in chosen], policy.delta, order=ledger.filter_order)

    spent = lifetime([e for e in entries if e.status == "spent"])
    everything = lifetime(entries)
    studies = sorted({entry.study for entry in entries})
    return {
        "site": config.node.site,
        "budget": f"{policy.epsilon_budget:g}",
        "delta": format_delta(policy.delta),
        "spent": format_epsilon(spent),
        "reserved": format_epsilon(everything - spent if everything != spent else 0.0),
        "left": remaining(policy.epsilon_budget, everything),
        "anchor": "compared" if config.node.anchor else "none: set node.anchor to see rollbacks",
        "accountant": f"RDP at order {ledger.filter_order} over the lifetime; PLD per study",
        "studies": [
            _study_report([e for e in entries if e.study == study], ledger, policy)
            for study in studies
        ],
        "events": [
            {
                "study": e.study,
                "run": e.run,
                "kind": e.kind,
                "round": e.round,
                "status": e.status,
                "event": e.event.to_json(),
                "reserved_at": e.reserved_at,
            }
            for e in entries
        ],
    }


def _print_ledger(data: dict[str, Any]) -> None:
    from rich.table import Table

    console = out()
    console.print(
        f"Privacy budget of {data['site']} (lifetime, delta {data['delta']})", style="bold"
    )
    console.print(
        f"  budget {data['budget']}   spent {data['spent']}   "
        f"reserved {data['reserved']}   left {data['left']}"
    )
    console.print(f"  accountant: {data['accountant']}")
    console.print(f"  anchor: {data['anchor']}")
    more_column = "more such rounds\nthe lifetime allows"
    table = Table("study", "rounds\ncharged", "releases\ncharged", "epsilon", more_column)
    for row in data["studies"]:
        more = str(row["more_rounds"])
        charged = (str(row["rounds"]), str(row["releases"]))
        table.add_row(row["study"][:19], *charged, row["epsilon"], more)
    console.print(table)
