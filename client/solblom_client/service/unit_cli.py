"""`solblom node unit systemd|podman|apptainer`: print the services of this node, or write them into a folder."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from solblom_protocol.console import JSON_OPTION, command, print_json, say
from solblom_protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from solblom_client.policy import NodeConfig

app = typer.Typer(help="Hospital: service units", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
KINDS = ("systemd", "podman", "apptainer")


@app.command("unit")
@command
def unit(
    kind: str = typer.Argument(..., help="systemd, podman or apptainer"),
    node: Path = NODE_OPTION,
    into: Path | None = typer.Option(None, "--out", help="Write the files into this folder"),
    solblom: Path | None = typer.Option(
        None, "--solblom", help="systemd: the command to be started (default: that of this Python)"
    ),
    ids: int = typer.Option(
        7301, "--ids", help="podman: number of the vault's user; the next two are link and group"
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Print the units or the image of vault and link, their users and the owners of their files."""
    from solblom_client.policy import load_node_config
    from solblom_protocol.keys.key_files import write_new

    if kind not in KINDS:
        raise ConfigurationError(
            "SB-108", f"Units for {kind} are not there", f"There are: {', '.join(KINDS)}"
        )
    config = load_node_config(node)
    file = node / "node.toml" if node.is_dir() else node
    made, places = _made(kind, config, file, solblom=solblom, ids=ids)
    if into is not None:
        for name, text in made.items():
            mode = 0o755 if name.endswith(".sh") else 0o644
            write_new(into / name, text.encode(), mode=mode)
            say(f"Wrote {into / name}, for {places[name]}")
    if as_json:
        body = {"site": config.node.site, "kind": kind, "files": made}
        print_json("solblom.node.unit/1", body)
    elif into is None:
        for name, text in made.items():
            sys.stdout.write(f"# ---- {places[name]}: {_name_there(name)}\n{text}\n")


def _made(
    kind: str, config: "NodeConfig", file: Path, *, solblom: Path | None, ids: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Return name → text, and name → where it belongs; say what will not work there."""
    from solblom_client import __version__
    from solblom_client.service.container_units import (
        APPTAINER_PLACES,
        PODMAN_PLACES,
        apptainer_files,
        podman_files,
    )
    from solblom_client.service.units import PLACES, hidden_paths, systemd_files

    if kind == "podman":
        made = podman_files(config, file, version=__version__, first_id=ids)
        return made, PODMAN_PLACES
    if kind == "apptainer":
        return apptainer_files(config, file), APPTAINER_PLACES
    program = solblom or Path(sys.executable).parent / "solblom"
    for path in dict.fromkeys(hidden_paths(config, file, program)):
        say(f"{path} lies where services do not look: move it, for example below /srv or /var/lib")
    if not os.access(program, os.X_OK):
        say(f"There is no program at {program}: give --solblom")
    return systemd_files(config, file, program), PLACES


def _name_there(name: str) -> str:
    return name.replace(".sysusers", "").replace(".tmpfiles", "")
