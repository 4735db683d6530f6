"""Simulated hospitals behind two couriers: in this process (`local`), or processes of their own behind folders."""

import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from solblom_client.app import app, forget_vaults, open_vault
from solblom_client.policy import load_node_config
from solblom_protocol.errors import RunError
from solblom_protocol.studies.study import StudyDocument
from solblom_server.database import Database
from solblom_server.transports.files import FileTransport
from solblom_server.transports.grids.files import FileGrid
from solblom_server.transports.grids.local import LocalGrid, LocalNode
from solblom_server.transports.network import NetworkTransport
from solblom_simulation.hospitals import node_files


class _Simulated:
    """One machine plays all hospitals: exact metrics exist, and everything says `simulation`."""

    simulation = True
    _nodes: list[Path]

    def evaluate(
        self,
        document: StudyDocument,
        weights: bytes,
        sites: Collection[str],
        left_out: dict[str, str],
    ) -> dict[str, Any] | None:
        """Return exact metrics: allowed because one machine plays all hospitals."""
        from solblom_simulation.evaluation import evaluate_nodes

        return evaluate_nodes(self._nodes, document, weights, sites, left_out)


class LocalTransport(_Simulated):
    """The simulated hospitals of a home folder, behind the local grid."""

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

    def close(self) -> None:
        """Close the hospitals' ledgers."""
        for node in self._nodes:
            open_vault(str(node.resolve())).close()
        forget_vaults()


class SimulatedFiles(_Simulated, FileTransport):
    """Simulated hospitals behind folders, each a process of its own that this one starts and ends."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._nodes = node_files(home)
        self._processes = {node.parent.name: _start_node(node) for node in self._nodes}
        self.grid = FileGrid(self.folders, before_pull=self._check_processes)

    def close(self) -> None:
        """End the hospitals' processes, by id."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(timeout=30)

    def _check_processes(self) -> None:
        """Notice when a hospital's process has ended, instead of waiting for it.

        Raises:
            RunError: SB-505.
        """
        for site, process in self._processes.items():
            if process.poll() is not None:
                raise RunError(
                    "SB-505",
                    f"The process of {site} ended with status {process.returncode}",
                    "Its own output stands in state/log/exchange.txt of its folder",
                )


class SimulatedNetwork(_Simulated, NetworkTransport):
    """Simulated hospitals over a real network on loopback: a coordinator's service, and two processes a hospital.

    Nothing is started before a run is followed: Flower's ServerApp opens this transport too, to
    evaluate.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._nodes = node_files(home)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def follow(self, database: Database, run: str, rounds: int) -> str:
        """Start everything, then wait until the run has ended.

        Raises:
            RunError: SB-505, a process ended.
        """
        log = self._home / "log" / "service.txt"
        words = ["coordinator", "start", "--home", str(self._home)]
        self._processes = {"coordinator": _start(log, words)}
        for node in self._nodes:
            log = node.parent / "state" / "log" / "node.txt"
            self._processes[node.parent.name] = _start(log, ["node", "start", "--node", str(node)])
        return super().follow(database, run, rounds)

    def close(self) -> None:
        """End every process, by id."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            process.wait(timeout=60)


def _start_node(node: Path) -> "subprocess.Popen[bytes]":
    """Start `solblom node exchange --watch` for one hospital; its output stays in its own folder."""
    log = node.parent / "state" / "log" / "exchange.txt"
    return _start(log, ["node", "exchange", str(node), "--watch", "0.2"])


def _start(log: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    """Start one of our own commands; its output goes to a log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = "from solblom_protocol.cli import main; main()"
    command = [sys.executable, "-P", "-c", start, *words]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def start_local(home: Path) -> LocalTransport:
    """Return the local transport of a home folder."""
    return LocalTransport(home)
