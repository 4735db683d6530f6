"""`solblom node vault`: the half of the node that sees patient data, in the foreground, cut off from every network."""

import os
import signal
import threading
from pathlib import Path

import typer

from solblom_protocol.console import command

app = typer.Typer(help="Hospital: the vault", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
GIB = 1024**3


@app.command("vault")
@command
def vault(node: Path = NODE_OPTION) -> None:
    """Run the vault alone, in the foreground: it answers sealed orders on a unix socket and has no network."""
    from solblom_client.policy import load_node_config
    from solblom_client.service.isolation import Isolation, isolate, require, writable_data
    from solblom_client.service.vault_socket import claim

    config = load_node_config(node)
    os.umask(0o077)
    place = claim(config.path(config.vault.socket))
    # Before gRPC and torch are loaded: what they start must be cut off too.
    reached = isolate(memory_bytes=int(config.vault.memory_gib * GIB))
    if config.vault.isolation == "required":
        require(reached)
    data = {dataset.name: config.path(dataset.source) for dataset in config.dataset}
    isolation = Isolation(reached.level, (*reached.notes, *writable_data(data)))
    from solblom_client.service.vault_service import serve

    stop = threading.Event()

    def ready() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *about: stop.set())
        notes = "".join(f"; {note}" for note in isolation.notes)
        said = f"{config.node.site}: vault on {place.path}, cut off by {isolation.level}{notes}"
        typer.echo(said, err=True)  # one line, however long: for the journal

    serve(config, isolation, place, stop=stop, on_ready=ready)
