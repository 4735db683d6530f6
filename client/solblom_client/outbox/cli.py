"""`solblom node outbox …`: what waits for a person, and what has left this hospital."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import ConfigurationError
from solblom_verify.wording import format_delta

if TYPE_CHECKING:
    from solblom_client.outbox.outbox import HeldAnswer
    from solblom_client.policy import NodeConfig

app = typer.Typer(
    help="Answers that wait for a person, and the record of what left",
    no_args_is_help=True,
    add_completion=False,
)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
ANSWER = typer.Argument(..., help="The answer: the first digits of its request, as in the list")
BY_OPTION = typer.Option(..., "--by", help="Your name: it stands in the log of decisions")


@app.command("list")
@command
def list_answers(
    node: Path = NODE_OPTION,
    everything: bool = typer.Option(False, "--all", help="Also those that were decided about"),
    as_json: bool = JSON_OPTION,
) -> None:
    """List the answers that wait for a person (policy.release = "manual")."""
    from solblom_client.outbox.outbox import Outbox

    config = _config(node)
    outbox = Outbox.of(config)
    held, broken = [h for h in outbox.all() if everything or h.status == "waiting"], outbox.broken()
    if as_json:
        rows = [_row(answer) for answer in held]
        data = {"site": config.node.site, "answers": rows, "broken": broken}
        print_json("solblom.node.outbox.list/1", data)
        return
    if not held:
        say(f"{config.node.site}: no answer waits for a person")
    for answer in held:
        said = f"{answer.request[7:19]}  {answer.status:<9} {answer.kind} {answer.round} of {answer.run}"
        said += f"  {answer.size_bytes} bytes, epsilon {answer.epsilon}, since {answer.made}"
        out().print(said, markup=False, highlight=False, soft_wrap=True)
    for name in broken:
        said = f"WRONG: the record {name} cannot be read; its answer stays inside"
        out().print(said, style="bold red", markup=False, highlight=False, soft_wrap=True)


@app.command("show")
@command
def show(answer: str = ANSWER, node: Path = NODE_OPTION, as_json: bool = JSON_OPTION) -> None:
    """Show what an answer holds, what it costs and where it would go."""
    from rich.table import Table

    from solblom_client.outbox.outbox import Outbox

    config = _config(node)
    held = Outbox.of(config).named(answer)
    if as_json:
        print_json("solblom.node.outbox.show/1", {"site": config.node.site, **_row(held)})
        return
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _facts(config, held):
        table.add_row(label, text)
    out().print(table)


@app.command("release")
@command
def release(
    answer: str = ANSWER,
    by: str = BY_OPTION,
    node: Path = NODE_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Let the coordinator have an answer. Approval, dates and consent are checked again, now and when it leaves."""
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision_log import open_decisions
    from solblom_client.outbox.outbox import release as let_go
    from solblom_client.vault import utc_now

    with _alone(node) as (config, _):
        keys = read_node_keys(config.state)
        log = open_decisions(config, keys)
        held = let_go(config, keys, log, answer, by=by, now=utc_now())
    if as_json:
        print_json("solblom.node.outbox.release/1", {"site": config.node.site, **_row(held)})
    say(
        f"Released. It leaves when the coordinator asks again: {held.kind} {held.round} of {held.run}"
    )


@app.command("reject")
@command
def reject(
    answer: str = ANSWER,
    by: str = BY_OPTION,
    node: Path = NODE_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Erase an answer for good. The coordinator learns SB-220; the charge stays."""
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision_log import open_decisions
    from solblom_client.outbox.outbox import reject as erase
    from solblom_client.vault import utc_now

    with _alone(node) as (config, state):
        log = open_decisions(config, read_node_keys(config.state))
        held = erase(config, log, answer, state=state, by=by, now=utc_now())
    if as_json:
        print_json("solblom.node.outbox.reject/1", {"site": config.node.site, **_row(held)})
    say(f"Rejected and erased: {held.kind} {held.round} of {held.run}. Its charge stays.")


@app.command("statement")
@command
def statement(
    node: Path = NODE_OPTION,
    lang: str = typer.Option("en", "--lang", help="no (bokmål) or en"),
    html: Path | None = typer.Option(None, "--html", help="Write a page to print"),
    as_json: bool = JSON_OPTION,
) -> None:
    """What left this hospital, for its data protection officer: from ledger, receipts and log of decisions only."""
    from solblom_client.outbox.statement import collect_statement, statement_html, statement_lines

    if lang not in ("no", "en"):
        raise ConfigurationError("SB-103", f"--lang is no or en, not {lang}")
    with _opened(node) as (config, state):
        found = collect_statement(config, state)
    if html is not None:
        html.write_text(statement_html(found, lang), encoding="utf-8")
        say(f"Written: {html}")
    if as_json:
        print_json("solblom.node.outbox.statement/1", found.to_json())
    elif html is None:
        for line in statement_lines(found, lang):
            out().print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _alone(node: Path) -> "Iterator[tuple[NodeConfig, Any]]":
    """Give configuration and state while no order is at work: it is waited for."""
    with _opened(node) as (config, state), state.exclusive():
        yield config, state


@contextmanager
def _opened(node: Path) -> "Iterator[tuple[NodeConfig, Any]]":
    """Give configuration and state."""
    from solblom_client.budget.ledger import STATE_FILE
    from solblom_client.node import check_user
    from solblom_client.state import VaultState

    config = _config(node)
    check_user(config)
    state = VaultState(config.state / STATE_FILE)
    try:
        yield config, state
    finally:
        state.close()


def _config(node: Path) -> "NodeConfig":
    from solblom_client.policy import load_node_config

    return load_node_config(node)


def _row(held: "HeldAnswer") -> dict[str, Any]:
    return {k: v for k, v in held.model_dump(mode="json").items() if k != "schema_"}


def _facts(config: "NodeConfig", held: "HeldAnswer") -> list[tuple[str, str]]:
    """Return what a person reads before deciding."""
    tensors = [f"{t['name']} {tuple(t['shape'])}" for t in held.tensors]
    under_masks = "under masks: the numbers say nothing by themselves"
    decided = [] if held.by is None else [("decided", f"{held.decided} by {held.by}")]
    return [
        ("status", held.status),
        *decided,
        ("study", held.study),
        ("run", f"{held.run}, {held.kind} {held.round}"),
        ("bytes", f"{held.size_bytes}, sealed {held.sealed_bytes}"),
        ("tensors", "; ".join(tensors) or "none: counts with noise"),
        ("norm", held.norm or (under_masks if held.kind == "train" else "counts have none")),
        ("largest value", held.largest or "-"),
        (
            "epsilon",
            f"{held.epsilon} for this one alone, at delta {format_delta(config.policy.delta)}",
        ),
        ("outside epsilon", ", ".join(held.outside_epsilon) or "nothing"),
        # Families, where an event has what it costs one patient of them.
        ("families" if "patient_steps" in held.event else "patients", f"{held.patients} (a band)"),
        ("goes to", f"the coordinator's key {held.destination}"),
        ("digest", held.update),
        ("waiting since", held.made),
    ]
