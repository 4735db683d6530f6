"""`solblom node unit systemd`: print the services of this node, or write them into a folder."""

import os
import sys
from pathlib import Path

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, say
from solblom_protocol.errors import ConfigurationError

app = typer.Typer(help="Hospital: service units", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
KINDS = ("systemd",)


@app.command("unit")
@command
def unit(
    kind: str = typer.Argument(..., help="systemd"),
    node: Path = NODE_OPTION,
    into: Path | None = typer.Option(None, "--out", help="Write the files into this folder"),
    solblom: Path | None = typer.Option(
        None, "--solblom", help="The command to be started (default: that of this Python)"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print the systemd units of vault and link, their users and the owners of their files."""
    from solblom_client.policy import load_node_config
    from solblom_client.units import PLACES, hidden_paths, systemd_files
    from solblom_protocol.key_files import write_new

    if kind not in KINDS:
        raise ConfigurationError(
            "SB-108", f"Units for {kind} are not there yet", f"There are: {', '.join(KINDS)}"
        )
    config = load_node_config(node)
    file = node / "node.toml" if node.is_dir() else node
    program = solblom or Path(sys.executable).parent / "solblom"
    made = systemd_files(config, file, program)
    for path in dict.fromkeys(hidden_paths(config, file, program)):
        say(f"{path} lies where services do not look: move it, for example below /srv or /var/lib")
    if not os.access(program, os.X_OK):
        say(f"There is no program at {program}: give --solblom")
    if into is not None:
        for name, text in made.items():
            write_new(into / name, text.encode(), mode=0o644)
            say(f"Wrote {into / name}, for {PLACES[name]}")
    if as_json:
        print_json("solblom.node.unit/1", {"site": config.node.site, "files": made})
    elif into is None:
        for name, text in made.items():
            sys.stdout.write(f"# ---- {PLACES[name]}/{_name_there(name)}\n{text}\n")


def _name_there(name: str) -> str:
    return name.replace(".sysusers", "").replace(".tmpfiles", "")
