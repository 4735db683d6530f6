"""`solblom node check`: is this node fit to run, and are its data fit for a study."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, read_given, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO, SolblomError

if TYPE_CHECKING:
    from solblom_client.checks.finding import Finding
    from solblom_client.checks.preflight import Preflight
    from solblom_client.policy import NodeConfig

app = typer.Typer(help="Hospital: check a node", add_completion=False)
MARKS = {"ok": "[green]ok[/]", "attention": "[yellow]attention[/]", "stop": "[bold red]STOP[/]"}


@app.command("check")
@command
def check(
    node: Path = typer.Argument(Path("node.toml"), help="node.toml, or its folder"),
    study: Path | None = typer.Option(
        None, "--study", help="A signed study (….signed.json): check the data by its contract too"
    ),
    outside: Path | None = typer.Option(
        None, "--outside", help="New file with one light a check, signed, that may be sent"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check this node, and with --study whether its data fit. The report stays inside. Exit 1: a check says no."""
    from solblom_client.checks.finding import Finding, Light, worst
    from solblom_client.checks.node_check import check_node
    from solblom_client.checks.traffic_light import write_traffic_light
    from solblom_client.keys import read_node_keys
    from solblom_client.policy import load_node_config
    from solblom_client.vault import utc_now

    try:
        config = load_node_config(node)
    except SolblomError as error:
        no = Finding("node.toml", Light.STOP, error.message, error.hint)
        _show(None, None, (no,), as_json=as_json)
        raise typer.Exit(EXIT_CHECK_SAID_NO) from None
    now, digest, title = utc_now(), None, None
    found = Finding("node.toml", Light.OK, "valid"), *check_node(config, now=now)
    if study is not None:
        seen = _study(config, read_given(study), now)
        digest, title, found = seen.study, seen.title, (*found, *seen.findings)
    _show(config.node.site, title, found, as_json=as_json, study=digest)
    if outside is not None:
        from solblom_protocol.keys.key_files import write_new

        key = read_node_keys(config.state).signing
        data = write_traffic_light(found, site=config.node.site, study=digest, key=key, now=now)
        write_new(outside, data, mode=0o644)
        say(
            f"Wrote {outside}: one light a check and no number. Whether it is sent is for you to say."
        )
    if worst(found) is Light.STOP:
        raise typer.Exit(EXIT_CHECK_SAID_NO)


def _study(config: "NodeConfig", envelope: bytes, now: dt.datetime) -> "Preflight":
    """Check a study, as far as the node's keys can be read: without them nothing of it is looked at."""
    from solblom_client.checks.finding import Checklist
    from solblom_client.checks.preflight import STUDY_CHECKS, Preflight, preflight
    from solblom_client.keys import read_node_keys

    try:
        keys = read_node_keys(config.state)
    except SolblomError:  # the check of the keys says so
        return Preflight(None, None, Checklist(STUDY_CHECKS).findings())
    return preflight(config, keys, envelope, now=now)


def show_concerns(found: "tuple[Finding, ...]") -> None:
    """Print what a person should look at before approving a study."""
    from rich.text import Text

    console = out()
    for finding in found:
        line = f"  LOOK  {finding.name}: {finding.text}"
        console.print(Text(line, style="bold yellow"))
        for more in (*finding.details, *([f"-> {finding.todo}"] if finding.todo else [])):
            console.print(f"        {more}", markup=False)


def _show(
    site: str | None,
    title: str | None,
    found: "tuple[Finding, ...]",
    *,
    as_json: bool,
    study: str | None = None,
) -> None:
    from solblom_client.checks.finding import Light, worst

    light = worst(found)
    if as_json:
        body = {"site": site, "study": study, "title": title, "ok": light is not Light.STOP}
        checks = [finding.as_json() for finding in found]
        print_json("solblom.node.check/1", {**body, "light": str(light), "checks": checks})
        return
    from rich.markup import escape
    from rich.table import Table

    console = out()
    console.print(site or "node", style="bold", markup=False, end="")
    console.print(f": {title}" if title else "", markup=False)
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        lines = [finding.text, *(f"  {line}" for line in finding.details)]
        if finding.todo:
            lines.append(f"-> {finding.todo}")
        table.add_row(MARKS[finding.light], finding.name, escape("\n".join(lines)))
    console.print(table)
    said = {
        Light.OK: "ready",
        Light.ATTENTION: "ready; look at what is yellow",
        Light.STOP: "not ready",
    }
    say(f"{site or 'The node'} is {said[light]}. This report may hold counts: it stays inside.")
