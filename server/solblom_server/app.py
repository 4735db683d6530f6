"""The Flower ServerApp: wiring only. It opens the coordinator's folder and runs the rounds of one run."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from solblom_protocol.layout import pack
from solblom_protocol.study import parse_document
from solblom_server.coordinator import Coordinator
from solblom_server.exchange import RunContext
from solblom_server.releases import run_releases
from solblom_server.rounds import initial_model, run_rounds
from solblom_server.runs import stored_payload

app = ServerApp()
ADDRESS_PREFIX = "address."


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and releases of `run` in the folder `home`; `address.<site>` gives each site's Flower node id."""
    home = Path(str(context.run_config["home"]))
    coordinator = Coordinator.open(home)
    database = coordinator.database()
    row = database.run(str(context.run_config["run"]))
    document = parse_document(stored_payload(row.envelope))
    roster = set(row.roster.split(","))
    nodes = {node.name: node for node in coordinator.nodes() if node.name in roster}
    addresses = {
        key.removeprefix(ADDRESS_PREFIX): int(value)
        for key, value in context.run_config.items()
        if key.startswith(ADDRESS_PREFIX)
    }
    try:
        run = RunContext(
            grid=grid,
            coordinator=coordinator,
            database=database,
            run=row.id,
            document=document,
            nodes=nodes,
            addresses=addresses,
            layout=initial_model(document)[1],
            folder=home / "runs" / row.id,
        )
        state = run_rounds(run)
        run_releases(run, pack([state.final_model()]))
    finally:
        database.close()
