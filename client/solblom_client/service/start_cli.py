"""`solblom node start`, `link`, `status`, `pause`, `resume` and `leave`: the node as a service."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from solblom_protocol.console import JSON_OPTION, command, may_ask, out, print_json, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO, EXIT_UNREACHABLE, ConfigurationError

if TYPE_CHECKING:
    from solblom_client.policy import NodeConfig

app = typer.Typer(help="Hospital: run the node", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
ALIVE_SECONDS = 90.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0


@app.command("start")
@command
def start(node: Path = NODE_OPTION) -> None:
    """Run vault and link, each a process of its own, until Ctrl-C. Whichever dies is started again."""
    from solblom_client.policy import load_node_config

    config, stop = load_node_config(node), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *about: stop.set())
    children = {name: _Child(name, node) for name in ("vault", "link")}
    say(
        f"{config.node.site}: starting vault and link. To see them: solblom node status --node {node}"
    )
    if config.coordinator.url is None:
        say(
            "LOOK: node.toml names no address of a coordinator. Rounds by file need no service: "
            "solblom node exchange --watch 60; an invitation with an address: solblom node join"
        )
    try:
        while not stop.wait(0.2):
            for child in children.values():
                child.look_after()
    finally:
        for child in reversed(children.values()):
            child.end()
    say(f"{config.node.site}: stopped")


@app.command("link")
@command
def link(node: Path = NODE_OPTION) -> None:
    """Run the link alone, in the foreground: the network half, without any access to patient data."""
    from solblom_client.link.process import run_link
    from solblom_client.policy import load_node_config

    def on_start(started: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *about: started.stop())

    run_link(load_node_config(node), on_start=on_start)


@app.command("status")
@command
def status(node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show whether vault and link run, how far the vault is cut off, and any trouble. Exit 6: not connected."""
    from solblom_client.policy import load_node_config

    found = node_status(load_node_config(node))
    if as_json:
        print_json("solblom.node.status/1", found)
    else:
        _print_status(found)
    if found["link"]["state"] not in ("connected", "paused"):
        raise typer.Exit(EXIT_UNREACHABLE)


@app.command("pause")
@command
def pause(node: Path = NODE_OPTION) -> None:
    """Answer no order from now on, by network or by file; the one at work ends within ten seconds, its charge stays."""
    from solblom_client.policy import load_node_config
    from solblom_client.service.pausing import pause as stop

    config = load_node_config(node)
    for missed in stop(config):
        say(f"Not told: {missed}")
    _note(config, "paused")
    say(
        f"{config.node.site} is paused. Runs wait for it or go on without it. To go on: solblom node resume"
    )


@app.command("resume")
@command
def resume(node: Path = NODE_OPTION) -> None:
    """Answer orders again."""
    from solblom_client.policy import load_node_config
    from solblom_client.service.pausing import resume as go_on

    config = load_node_config(node)
    go_on(config)
    _note(config, "resumed")
    say(f"{config.node.site} answers orders again")


def _note(config: "NodeConfig", event: Literal["paused", "resumed"]) -> None:
    """Log who stopped the node, where this user is the one who writes the log; the vault notes what it refuses."""
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision import Decision
    from solblom_client.log.once import log_once
    from solblom_client.vault import utc_now

    try:
        is_ours = config.state.stat().st_uid == os.geteuid()
    except OSError:
        return
    if is_ours:
        log_once(config, read_node_keys(config.state), Decision(event), now=utc_now())


@app.command("leave")
@command
def leave(
    node: Path = NODE_OPTION,
    yes: bool = typer.Option(False, "--yes", "-y", help="Leave without asking"),
) -> None:
    """Leave the federation: forget the coordinator's key and the transport key. Ledger and log stay."""
    from solblom_client.link.transport_key import FILE
    from solblom_client.policy import load_node_config

    config = load_node_config(node)
    if not yes and may_ask() and not typer.confirm(f"Shall {config.node.site} leave?", err=True):
        raise typer.Exit(EXIT_CHECK_SAID_NO)
    for path in (
        config.path(config.coordinator.key),
        config.path(config.coordinator.ca_file or "coordinator-ca.pem"),
        config.path(config.link.state) / FILE,
        config.path(config.link.state) / "node-id",
    ):
        path.unlink(missing_ok=True)
    say(
        f"{config.node.site} has left: no order opens here any more. Restart nothing; stop `solblom node start`."
    )
    say("Tell the operator, who removes you with: solblom coordinator remove " + config.node.site)


def node_status(config: "NodeConfig") -> dict[str, Any]:
    """Return what vault and link say of themselves; `paused` is None where this user may not see the link's folder."""
    from solblom_client.link.process import is_paused, read_status
    from solblom_client.link.vault_client import VaultClient, VaultUnavailableError
    from solblom_client.node_notes import notes_of

    said = read_status(config)
    fresh = said and _is_alive(said.get("pid"))
    link = {"state": said["state"] if fresh else "not running"}
    for name in ("code", "trouble", "last_contact", "orders", "replies", "working_on"):
        link[name] = said.get(name)
    paused: bool | None = None
    with contextlib.suppress(ConfigurationError):
        paused = is_paused(config)
    client = VaultClient(config.path(config.vault.socket))
    try:
        described = client.describe()
        vault: dict[str, Any] = {
            "state": "working" if described.working else "ready",
            "isolation": described.isolation_level,
            "notes": list(described.isolation_notes),
        }
    except VaultUnavailableError as error:
        vault = {"state": "not running", "code": error.code, "trouble": error.message}
    finally:
        client.close()
    return {
        "site": config.node.site,
        "coordinator": config.coordinator.url,
        "paused": paused,
        "link": link,
        "vault": vault,
        "to_do": notes_of(config),
    }


def _print_status(found: dict[str, Any]) -> None:
    console, link, vault = out(), found["link"], found["vault"]
    console.print(
        f"{found['site']}{'  PAUSED' if found['paused'] else ''}", style="bold", markup=False
    )
    contact = link["last_contact"]
    when = "" if contact is None else f", last contact {max(0, time.time() - contact):.0f} s ago"
    where = found["coordinator"] or "no address in node.toml: rounds by file"
    console.print(f"  link   {link['state']}{when}  ({where})", markup=False)
    if link["code"] and link["state"] != "connected":
        console.print(f"         {link['code']}: {link['trouble']}", style="yellow", markup=False)
    counts = f"orders {link['orders'] or 0}, replies {link['replies'] or 0}"
    console.print(f"         {counts} since it started", markup=False)
    console.print(f"  vault  {vault['state']}", markup=False)
    if "isolation" in vault:
        console.print(f"         cut off by: {vault['isolation']}", markup=False)
        for note in vault["notes"]:
            console.print(f"         {note}", markup=False)
    else:
        console.print(f"         {vault['code']}: {vault['trouble']}", style="yellow", markup=False)
    for note in found["to_do"]:
        console.print(f"  LOOK   {note}", style="yellow", markup=False)


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True  # it runs, as another user
    except (OSError, TypeError, ValueError, OverflowError):
        return False
    return True


class _Child:
    """One half of the node: started again when it dies, less and less quickly when it keeps dying."""

    def __init__(self, name: str, node: Path) -> None:
        self._name, self._node = name, node
        self._process: subprocess.Popen[bytes] | None = None
        self._pause, self._not_before, self._started = FIRST_PAUSE_SECONDS, 0.0, 0.0

    def look_after(self) -> None:
        """Start the process when it is time to."""
        now = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            say(f"{self._name} ended with status {self._process.returncode}; starting it again")
            lived = now - self._started
            self._pause = FIRST_PAUSE_SECONDS if lived > ALIVE_SECONDS else 2 * self._pause
            self._not_before = now + min(self._pause, LONGEST_PAUSE_SECONDS)
            self._process = None
        if self._process is None and now >= self._not_before:
            words = ["node", self._name, "--node", str(self._node)]
            begin = "from solblom_protocol.cli import main; main()"
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-c", begin, *words], stdin=subprocess.DEVNULL
            )
            self._started = now

    def end(self) -> None:
        """End the process, kindly, then for certain."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=15)
