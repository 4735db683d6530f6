"""`--transport local`: coordinator and all hospitals in this process, through Flower's Grid and ClientApps."""

from pathlib import Path
from typing import Any

from solblom_client.app import app, open_vault
from solblom_client.policy import load_node_config
from solblom_protocol.errors import RunError
from solblom_protocol.study import StudyDocument
from solblom_server.grids.local import LocalGrid, LocalNode
from solblom_simulation.hospitals import node_files


class LocalTransport:
    """The simulated hospitals of a home folder, behind the local grid."""

    simulation = True

    def __init__(self, home: Path) -> None:
        self._nodes = node_files(home)
        if not self._nodes:
            raise RunError("SB-505", f"{home} has no simulated hospitals in its folder `sites`")
        sites = [load_node_config(node).node.site for node in self._nodes]
        self.addresses = {site: number for number, site in enumerate(sites, start=1)}
        self.grid = LocalGrid(
            {
                number: LocalNode(app, {"node-config": str(node.resolve())})
                for number, node in enumerate(self._nodes, start=1)
            }
        )

    def evaluate(self, document: StudyDocument, weights: bytes) -> dict[str, Any] | None:
        """Return exact metrics: allowed because one machine plays all hospitals."""
        from solblom_simulation.evaluation import evaluate, read_site

        return evaluate(document, weights, [read_site(node, document) for node in self._nodes])

    def close(self) -> None:
        """Close the hospitals' ledgers."""
        for node in self._nodes:
            open_vault(str(node.resolve())).close()
        open_vault.cache_clear()


def start_local(home: Path) -> LocalTransport:
    """Return the local transport of a home folder."""
    return LocalTransport(home)
