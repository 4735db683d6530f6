"""`solblom node log …`: check, read, shorten and pass on the hospital's log of decisions."""

import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say, show_error
from solblom_protocol.errors import EXIT_INTEGRITY, ConfigurationError

if TYPE_CHECKING:
    from solblom_client.policy import NodeConfig

app = typer.Typer(
    help="The log of every decision of this node", no_args_is_help=True, add_completion=False
)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
FORWARD_SECONDS = 2.0


@app.command("verify")
@command
def verify(node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Recompute the log's hash tree and compare it with the signed checkpoints. Exit 5: it does not hold."""
    from dataclasses import asdict

    from solblom_client.keys import read_node_keys
    from solblom_client.log.check import verify_log
    from solblom_client.log.decision_log import log_place

    config = _config(node)
    report = verify_log(log_place(config), read_node_keys(config.state).signing.public_key())
    not_checked = ["whether the node wrote down everything", "whether its key was stolen"]
    if report.anchored is None:
        not_checked.append("a copy of the checkpoint beside an anchor: there is none")
    if as_json:
        data = asdict(report) | {"ok": not report.problems, "not_checked": not_checked}
        print_json("solblom.node.log.verify/1", {"site": config.node.site, **data})
    else:
        console = out()
        kept = f", of which {report.first} were pruned" if report.first else ""
        console.print(f"{config.node.site}: {report.size} decisions{kept}", markup=False)
        console.print(f"  root {report.root}", markup=False)
        for problem in report.problems:
            console.print(f"  WRONG: {problem}", style="bold red", markup=False)
        if not report.problems:
            console.print("  every entry is as it was signed", markup=False)
        console.print(f"  not checked: {'; '.join(not_checked)}", markup=False)
    if report.problems:
        raise typer.Exit(EXIT_INTEGRITY)


@app.command("show")
@command
def show(
    node: Path = NODE_OPTION,
    last: int = typer.Option(20, "--last", min=1, help="So many of the newest"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print the newest decisions."""
    from solblom_client.log.decision_log import log_place, read_entries

    config = _config(node)
    entries = [json.loads(entry) for entry in read_entries(log_place(config), last=last)]
    if as_json:
        print_json("solblom.node.log.show/1", {"site": config.node.site, "entries": entries})
        return
    for entry in entries:
        out().print(_line(entry), markup=False, highlight=False, soft_wrap=True)


@app.command("prune")
@command
def prune(node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Forget decisions older than log.retention_days; what is kept stays verifiable."""
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision_log import open_decisions
    from solblom_client.node import check_user
    from solblom_client.vault import utc_now

    config, now = _config(node), utc_now()
    check_user(config)
    log = open_decisions(config, read_node_keys(config.state))
    gone = log.prune(now - dt.timedelta(days=config.log.retention_days), now=now)
    if as_json:
        print_json("solblom.node.log.prune/1", {"site": config.node.site, "pruned": gone})
    say(
        f"{config.node.site}: {gone} decisions older than {config.log.retention_days} days are gone"
    )


@app.command("accept")
@command
def accept(
    node: Path = NODE_OPTION,
    by: str = typer.Option(..., "--by", help="Your name: it stands in the log of decisions"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Go on from the log as it stands: it was restored or lost, and you know why. Keep the old checkpoints first."""
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision_log import open_decisions
    from solblom_client.node import check_user
    from solblom_client.vault import utc_now

    config = _config(node)
    check_user(config)
    log = open_decisions(config, read_node_keys(config.state))
    log.accept(by=by, now=utc_now())
    log.close()
    if as_json:
        print_json("solblom.node.log.accept/1", {"site": config.node.site, "by": by})
    say(f"{config.node.site}: the log goes on from what stands there, on the word of {by}")


@app.command("forward")
@command
def forward(
    node: Path = NODE_OPTION,
    once: bool = typer.Option(False, "--once", help="Send what is there, then end"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Send decisions to the site's syslog (log.syslog in node.toml), RFC 5424, each at least once."""
    from solblom_client.log.decision_log import log_place
    from solblom_client.log.syslog import forward as send_all
    from solblom_client.log.syslog import receiver
    from solblom_client.node import check_user

    config = _config(node)
    check_user(config)
    if config.log.syslog is None:
        raise ConfigurationError("SB-103", "node.toml names no log.syslog")
    while True:
        try:
            with receiver(config.log.syslog) as send:
                count = send_all(log_place(config), send)
        except (ConfigurationError, OSError) as error:
            trouble = (
                error
                if isinstance(error, ConfigurationError)
                else ConfigurationError("SB-103", f"log.syslog: {error.strerror or 'no answer'}")
            )
            if once:
                raise trouble from None
            show_error(trouble, as_json=as_json)  # a receiver that is away comes back
            count = 0
        if once:
            if as_json:
                print_json("solblom.node.log.forward/1", {"site": config.node.site, "sent": count})
            say(f"{config.node.site}: {count} decisions sent to {config.log.syslog}")
            return
        time.sleep(FORWARD_SECONDS)


def _config(node: Path) -> "NodeConfig":
    from solblom_client.policy import load_node_config

    return load_node_config(node)


def _line(entry: dict[str, Any]) -> str:
    shown = ("kind", "round", "run", "code", "outside", "by", "what", "times")
    facts = [f"{name} {entry[name]}" for name in shown if name in entry]
    facts += [f"{name} {entry[name][7:19]}" for name in ("study", "order") if name in entry]
    return f"{entry['seq']:>6}  {entry['time']}  {entry['event']:<14}  {', '.join(facts)}"
