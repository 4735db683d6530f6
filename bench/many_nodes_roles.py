"""The processes of `many_nodes.py`: a coordinator that measures itself, and one process for all hospitals.

python bench/many_nodes_roles.py CASE.json RESULT.json

The coordinator is the product's `start_run` over the product's grids. Hospitals behind files are passes of
`exchange_once`, one hospital after another for ever; hospitals behind a pipe are the product's vaults, called by the
local grid's nodes through the pipe. What is read here is the kernel's (`/proc`): peak and present memory, CPU seconds.
"""

import datetime as dt
import gc
import json
import multiprocessing
import os
import re
import resource
import sqlite3
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flwr.app import Context, Message

from solblom_client.app import open_vault
from solblom_client.link.exchange import exchange_once
from solblom_client.policy import load_node_config
from solblom_protocol.studies.study import StudyDocument
from solblom_server.coordinator import DATABASE_FILE
from solblom_server.rounds import runs
from solblom_server.transports.files import FileTransport
from solblom_server.transports.grids.local import LocalGrid, LocalNode
from solblom_server.transports.grids.sealed import sealed_bytes, sealed_content
from solblom_server.transports.transports import PROGRESS
from solblom_simulation.federation import LocalTransport
from solblom_simulation.hospitals import node_files

TABLES = ("orders", "replies", "charges", "rounds")
IDLE_SECONDS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Case:
    """One federation to measure. `courier`: in-process, piped or files; `disk_at`: rounds after which disk is read."""

    courier: str
    nodes: int
    rounds: int
    home: str
    study: str
    disk_at: tuple[int, ...] = ()


@dataclass
class Watched:
    """What the coordinator saw of itself at the end of each round; seconds since the start of the run."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    nodes_cpu: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    disk: dict[int, dict[str, int]] = field(default_factory=dict)


def memory_mb(name: str) -> float:
    """Return `VmHWM` (peak since it was reset) or `VmRSS` of this process in megabytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the kernel does not tell {name}")
    return int(found[1]) * 1024 / 1e6


def reset_peak() -> None:
    """Let `VmHWM` begin anew at the present memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def own_cpu_seconds() -> float:
    """Return CPU seconds of this process, kernel included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_seconds_of(process: int) -> float:
    """Return CPU seconds of another process, kernel included."""
    words = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def folder_bytes(folder: Path) -> int:
    """Return the bytes that the files of a folder take on disk."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += 512 * path.lstat().st_blocks if path.is_file() else 0
        except FileNotFoundError:  # carried away meanwhile
            continue
    return found


def disk(home: Path) -> dict[str, int]:
    """Return bytes on disk by part of a coordinator's folder, bytes and rows of the database's tables, and objects."""
    found = {
        "database_file": sum(p.stat().st_size for p in home.glob(f"{DATABASE_FILE}*")),
        "exchange": folder_bytes(home / "exchange"),
        "exchange_files": sum(1 for p in (home / "exchange").rglob("*") if p.is_file()),
        "runs": folder_bytes(home / "runs"),
        "hospitals": folder_bytes(home / "sites"),
    }
    connection = sqlite3.connect(f"file:{home / DATABASE_FILE}?mode=ro", uri=True)
    for table in TABLES:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        lengths = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
        row = connection.execute(f"SELECT count(*), sum({lengths}) FROM {table}").fetchone()  # noqa: S608
        found[f"{table}_rows"], found[f"{table}_bytes"] = int(row[0]), int(row[1] or 0)
    connection.close()
    found["python_objects"] = len(gc.get_objects())
    return found


def serve_pipe(connection: Connection, home: str) -> None:
    """Answer sealed orders of all hospitals until told to stop; the process of the hospitals."""
    while (node := connection.recv()) is not None:
        connection.send_bytes(open_vault(node).process(connection.recv_bytes()))
    _leave(connection)


def serve_files(connection: Connection, home: str) -> None:
    """Pass over all hospitals' inboxes until told to stop; the process of the hospitals."""
    nodes = [str(node.resolve()) for node in node_files(Path(home))]
    configs = {node: load_node_config(Path(node)) for node in nodes}
    while not connection.poll(IDLE_SECONDS):
        for node in nodes:
            exchange_once(configs[node], open_vault(node))
    connection.recv()
    _leave(connection)


def _leave(connection: Connection) -> None:
    connection.send({"peak_mb": memory_mb("VmHWM"), "cpu_seconds": own_cpu_seconds()})
    connection.close()


class Hospitals:
    """The process of all hospitals, as the coordinator's process holds it."""

    def __init__(self, home: Path, courier: str) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would share the coordinator's memory
        self.connection, theirs = spawn.Pipe()
        serve = serve_files if courier == "files" else serve_pipe
        self.process = spawn.Process(target=serve, args=(theirs, str(home)))
        self.process.start()
        theirs.close()

    def cpu_seconds(self) -> float:
        """Return the CPU seconds it has used."""
        return cpu_seconds_of(int(self.process.pid or 0))

    def ask(self, message: Message, context: Context) -> Message:
        """Play Flower's ClientApp: bytes out through the pipe, bytes in."""
        self.connection.send(str(context.node_config["node-config"]))
        self.connection.send_bytes(sealed_bytes(message.content) or b"")
        return Message(sealed_content(self.connection.recv_bytes()), reply_to=message)

    def stop(self) -> dict[str, float]:
        """End the process; return what it said about itself."""
        self.connection.send(None)
        told: dict[str, float] = self.connection.recv()
        self.process.join(timeout=60)
        return told


class PipedTransport(LocalTransport):
    """The local grid, its nodes in another process."""

    simulation = True

    def __init__(self, home: Path, hospitals: Hospitals) -> None:
        super().__init__(home)
        self.grid = LocalGrid(
            {
                number: LocalNode(hospitals.ask, {"node-config": str(node.resolve())})
                for number, node in enumerate(self._nodes, start=1)
            }
        )

    def close(self) -> None:
        """Nothing was opened here."""


def _no_evaluation(
    transport: Any,
    document: StudyDocument,
    weights: bytes,
    sites: Collection[str],
    left_out: dict[str, str],
) -> None:
    """Leave out the simulation's exact evaluation: it reads all patients in this process, and no coordinator may."""


def measure(case: Case) -> dict[str, Any]:
    """Run one federation to its model; return what was seen."""
    home, seen = Path(case.home), Watched()
    hospitals = None if case.courier == "in-process" else Hospitals(home, case.courier)

    def closed(number: int, rounds: int, text: str) -> None:
        seen.wall.append(time.perf_counter() - begun)
        seen.cpu.append(own_cpu_seconds() - begun_cpu)
        seen.nodes_cpu.append(hospitals.cpu_seconds() if hospitals else 0.0)
        seen.peak_mb.append(memory_mb("VmHWM"))
        if number in case.disk_at:
            seen.disk[number] = disk(home)
        seen.rss_mb.append(memory_mb("VmRSS"))
        reset_peak()

    def open_transport(name: str, home: Path) -> Any:
        if case.courier == "files":
            return FileTransport(home)
        return LocalTransport(home) if hospitals is None else PipedTransport(home, hospitals)

    token = PROGRESS.set(closed)
    before = memory_mb("VmRSS")
    reset_peak()
    begun, begun_cpu = time.perf_counter(), own_cpu_seconds()
    with (
        patch.object(runs, "open_transport", open_transport),
        patch.object(LocalTransport, "evaluate", _no_evaluation),
    ):
        finished = runs.start_run(
            home, Path(case.study).read_bytes(), transport_name="local", now=dt.datetime.now(dt.UTC)
        )
    PROGRESS.reset(token)
    after = {
        "release_wall": time.perf_counter() - begun - seen.wall[-1],
        "release_cpu": own_cpu_seconds() - begun_cpu - seen.cpu[-1],
        "release_peak_mb": memory_mb("VmHWM"),
        "artefact_bytes": folder_bytes(finished.path),
    }
    told = hospitals.stop() if hospitals else {}
    return {"before_mb": before, **asdict(seen), **after, "hospitals_process": told}


def main() -> None:
    """Run the case in the first file and write the second."""
    values = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    case = Case(**(values | {"disk_at": tuple(values["disk_at"])}))
    Path(sys.argv[2]).write_text(json.dumps(measure(case)), encoding="utf-8")


if __name__ == "__main__":
    main()
