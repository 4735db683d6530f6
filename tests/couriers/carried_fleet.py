"""The network courier with Flower played by its stand-in: real FleetGrid, real links, real vaults, in one process."""

import threading
from pathlib import Path
from typing import Any

from flwr.supercore.task_identity import TaskIdentity

from couriers.stand_in import FlowerStandIn, NodeDoor
from solblom_client.link.link import Link
from solblom_client.policy import load_node_config
from solblom_client.vault import Vault
from solblom_server.transports.grids.fleet import FleetGrid
from solblom_simulation.hospitals import node_files

FIRST_ASK_SECONDS = 0.4


class CarriedFleet:
    """A transport whose hospitals are links on threads; `flower` may be told to misbehave."""

    simulation = True

    def __init__(self, home: Path, flower: FlowerStandIn | None = None) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        configs = [load_node_config(node) for node in node_files(home)]
        self.addresses = {config.node.site: 100 + n for n, config in enumerate(configs)}
        self.flower = flower or FlowerStandIn(self.addresses.values())
        self.heard: list[tuple[int, str, str | None]] = []
        self.grid: Any = FleetGrid(
            self.flower,
            self.addresses.values(),
            home / "spool",
            report=lambda node, state, code: self.heard.append((node, state, code)),
            first_ask_seconds=FIRST_ASK_SECONDS,
        )
        self.vaults = {config.node.site: Vault(config) for config in configs}
        self.links = {
            site: Link(NodeDoor(self.flower, self.addresses[site]), vault)
            for site, vault in self.vaults.items()
        }
        self.threads = {
            site: threading.Thread(target=link.run, daemon=True)
            for site, link in self.links.items()
        }
        for site in self.threads:
            self.start_node(site)

    def start_node(self, site: str) -> None:
        """Let a hospital's link begin."""
        self.threads[site].start()

    def evaluate(self, *about: object) -> None:
        """Give no exact metric."""

    def close(self) -> None:
        """End the links, then the vaults."""
        for link in self.links.values():
            link.stop()
        for thread in self.threads.values():
            if thread.ident is not None:
                thread.join(20)
        for vault in self.vaults.values():
            vault.close()
