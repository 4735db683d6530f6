"""`solblom node clock`: the newest moment that the node has seen, and how a person puts it right."""

from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, out, print_json, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO

app = typer.Typer(help="Hospital: the node's clock", add_completion=False)


@app.command("clock")
@command
def clock(
    node: Path = typer.Argument(Path("node.toml"), help="node.toml, or its folder"),
    accept: bool = typer.Option(
        False, "--accept", help="This machine's clock is right now: forget a later moment"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show the newest moment that this node has seen. Exit 1: this machine's clock is behind it."""
    from solblom_client.budget.ledger import STATE_FILE
    from solblom_client.clock import accept_clock, is_behind, latest_time
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision import Decision
    from solblom_client.log.once import log_once
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config
    from solblom_client.state import VaultState
    from solblom_client.vault import utc_now
    from solblom_protocol.messages.message import timestamp

    config, now = load_node_config(node), utc_now()
    check_user(config)
    state = VaultState(config.state / STATE_FILE)
    try:
        latest = latest_time(state)
        behind = is_behind(state, now)
        if accept:
            accept_clock(state, now)
    finally:
        state.close()
    seen = None if latest is None else timestamp(latest)
    if accept:
        log_once(config, read_node_keys(config.state), Decision("clock-accepted"), now=now)
    data = {"site": config.node.site, "now": timestamp(now), "seen": seen, "behind": behind}
    if as_json:
        print_json("solblom.node.clock/1", data | {"accepted": accept})
    else:
        out().print(f"now {timestamp(now)}   newest seen {seen or 'none'}", markup=False)
        if accept:
            say("Accepted. It stands in the log of decisions.")
        elif behind:
            say("The clock is behind: every order is refused (SB-206). Set it, or see --accept.")
    if behind and not accept:
        raise typer.Exit(EXIT_CHECK_SAID_NO)
