"""The Flower ServerApp: wiring only."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from solblom_server.coordinator import Coordinator
from solblom_server.rounds.conduct import conduct, conduct_over_network

app = ServerApp()
ADDRESS_PREFIX = "address."


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run `run`.

    Called in our own process, `home` names the coordinator's folder and `address.<site>` each site's
    node. Started by a SuperLink, the folder stands in SOLBLOM_HOME: run settings are shown to hospitals.
    """
    run = str(context.run_config["run"])
    if "home" not in context.run_config:
        conduct_over_network(Path(os.environ["SOLBLOM_HOME"]), run, grid)
        return
    addresses = {
        key.removeprefix(ADDRESS_PREFIX): int(value)
        for key, value in context.run_config.items()
        if key.startswith(ADDRESS_PREFIX)
    }
    conduct(Coordinator.open(Path(str(context.run_config["home"]))), run, grid, addresses)
