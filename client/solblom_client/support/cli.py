"""`solblom node support-bundle`: a file for whoever helps from outside, shown before it is written."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, may_ask, out, print_json, say
from solblom_protocol.errors import EXIT_CHECK_SAID_NO, ConfigurationError, SolblomError

if TYPE_CHECKING:
    import datetime as dt

    from solblom_client.policy import NodeConfig

app = typer.Typer(help="Hospital: help from outside", add_completion=False)


@app.command("support-bundle")
@command
def support_bundle(
    into: Path = typer.Option(..., "--out", help="New file: a zip of texts"),
    by: str | None = typer.Option(
        None, "--by", help="Your name: it stands in the log of decisions, not in the file"
    ),
    node: Path = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder"),
    yes: bool = typer.Option(False, "--yes", "-y", help="Write it without asking"),
    as_json: bool = JSON_OPTION,
) -> None:
    """Write what helps a vendor's support: no patient, key, path or host. Shows it all first; sends nothing."""
    from solblom_client.support.gather import gather
    from solblom_client.support.writing import as_text, as_zip
    from solblom_client.vault import utc_now
    from solblom_protocol.keys.key_files import write_new
    from solblom_protocol.messages.message import as_json as plain

    if into.exists():
        raise ConfigurationError("SB-113", f"{into} exists already")
    config, now = _settings(node), utc_now()
    report = gather(config, now=now)
    if as_json:
        print_json("solblom.node.support-bundle/1", {**plain(report), "path": str(into)})
    else:
        out().print(as_text(report), markup=False, highlight=False, end="")
    if not yes:
        _ask(into)
    data = as_zip(report)
    not_logged = _log(config, data, by=by, now=now)
    write_new(into, data)
    if not_logged is not None:
        say(f"NOT LOGGED: {not_logged}. Note by hand that this file was made, and by whom.")
    say(
        f"Wrote {into}, {len(data)} bytes: what was shown, no more. Whether it is sent is for you to say."
    )


def _settings(node: Path) -> "NodeConfig | SolblomError":
    """Return the node's settings, or why there are none: then the file says that, and little else."""
    from solblom_client.node import check_user
    from solblom_client.policy import load_node_config

    try:
        config = load_node_config(node)
    except SolblomError as error:
        say(
            f"node.toml cannot be used ({error.code}): the file will say so, and nothing of the node."
        )
        return error
    check_user(config)
    return config


def _ask(into: Path) -> None:
    """Let a person decide; where none can be asked, nothing is written.

    Raises:
        ConfigurationError: SB-103, there is nobody to ask.
    """
    if not may_ask():
        raise ConfigurationError(
            "SB-103",
            "Nobody can be asked whether this may be written",
            "Read it, then add --yes",
        )
    if not typer.confirm(f"Write this to {into}?", err=True):
        say("Nothing was written.")
        raise typer.Exit(EXIT_CHECK_SAID_NO)


def _log(
    config: "NodeConfig | SolblomError", data: bytes, *, by: str | None, now: "dt.datetime"
) -> str | None:
    """Log what may leave, by its digest, before it exists; return the code where the log cannot take it.

    A node whose log or keys are broken is one that needs help: the file is made all the same, and the person told.
    """
    from solblom_client.keys import read_node_keys
    from solblom_client.log.decision import Decision
    from solblom_client.log.once import log_once

    if isinstance(config, SolblomError):
        return config.code
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    decision = Decision("support-bundle", by=by, file=digest, size=len(data))
    decision.to_json()  # a name that cannot stand there is the caller's mistake, and stops
    try:
        log_once(config, read_node_keys(config.state), decision, now=now)
    except SolblomError as error:
        return error.code
    return None
