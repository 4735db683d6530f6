"""`solblom node vault`: the half of the node that sees patient data, in the foreground, cut off from every network."""

import signal
import threading
from pathlib import Path

import typer

from solblom_protocol.console import command, say
from solblom_protocol.errors import ConfigurationError

app = typer.Typer(help="Hospital: the vault", add_completion=False)
NODE_OPTION = typer.Option(Path("node.toml"), "--node", help="node.toml, or its folder")
GIB = 1024**3


@app.command("vault")
@command
def vault(node: Path = NODE_OPTION) -> None:
    """Run the vault alone, in the foreground: it answers sealed orders on a unix socket and has no network."""
    from solblom_client.isolation import NONE, Isolation, can_write, isolate
    from solblom_client.policy import load_node_config

    config = load_node_config(node)
    # Before torch is loaded: a process with threads cannot enter a user namespace.
    reached = isolate(memory_bytes=int(config.vault.memory_gib * GIB))
    if reached.level == NONE and config.vault.isolation == "required":
        raise ConfigurationError("SB-612", f"The vault is not cut off: {'; '.join(reached.notes)}")
    data = [config.path(dataset.path) for dataset in config.dataset]
    isolation = Isolation(reached.level, (*reached.notes, *can_write(data)))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *about: stop.set())
    from solblom_client.vault_service import serve

    def ready(path: Path) -> None:
        say(f"{config.node.site}: vault ready on {path}, cut off by: {isolation.level}")
        for note in isolation.notes:
            say(f"  {note}")

    serve(config, isolation, stop=stop, on_ready=ready)
