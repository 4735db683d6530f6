"""A whole federation over a real network on loopback, for tests and benches: service, vaults and links as processes.

Everything is started as its user would start it and ended by process id. `Gate` stands between the
hospitals and the coordinator: it counts bytes, cuts and restores the line.
"""

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import patient_rows, study_document, write_table
from solblom_client.policy import load_node_config
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import sign_study
from solblom_server.coordinator import Coordinator
from solblom_server.database import RunRow
from solblom_server.settings import free_port
from solblom_simulation.hospitals import (
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)

START = "from solblom_protocol.cli import main; main()"
SEED = 11
INJECT = Path(__file__).parent / "inject"


class Gate:
    """A TCP relay that can be cut; counts what passes."""

    def __init__(self, target_port: int) -> None:
        self.port, self._target = free_port(), target_port
        self.sent = self.received = 0  # bytes towards and from the coordinator
        self._open = threading.Event()
        self._open.set()
        self._pairs: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and take no new one."""
        self._open.clear()
        for end in list(self._pairs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Let connections through again."""
        self._open.set()

    def close(self) -> None:
        """End the relay."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                continue
            self._pairs |= {near, far}
            for source, sink, up in ((near, far, True), (far, near, False)):
                threading.Thread(
                    target=self._relay, args=(source, sink), kwargs={"up": up}, daemon=True
                ).start()

    def _relay(self, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if up:
                    self.sent += len(data)
                else:
                    self.received += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._pairs.discard(end)


@dataclass
class NetworkLab:
    """A simulated federation in a folder, reached through a gate."""

    home: Path
    sites: tuple[str, ...] = ("north", "south", "west")
    patients: int = 60
    changes: dict[str, Any] = field(default_factory=dict)
    allow_privacy_off: bool = False
    env: dict[str, str] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)

    def create(self) -> None:
        """Make coordinator, hospitals, study and approvals; nothing runs yet."""
        port = free_port()
        self.gate = Gate(port)
        tables = {}
        self.home.mkdir(parents=True, exist_ok=True)
        for site in self.sites:
            tables[site] = self.home.parent / f"{site}.csv"
            write_table(tables[site], patient_rows(self.patients, site=site))
        policy = SimulationPolicy(allow_privacy_off=self.allow_privacy_off)
        create_federation(
            self.home, seed=SEED, tables=tables, policy=policy, address=f"127.0.0.1:{port}"
        )
        for node in node_files(self.home):
            text = node.read_text(encoding="utf-8")
            text = text.replace(f"https://127.0.0.1:{port}", f"https://127.0.0.1:{self.gate.port}")
            text += '\n[vault]\nsocket = "v.sock"\n'
            node.write_text(text, encoding="utf-8")
        now = dt.datetime.now(dt.UTC)
        key = read_signing_key(self.home / "researcher" / "researcher.key")
        document = study_document(**self.changes)
        self.envelope = sign_study(document, key)
        approve_everywhere(self.home, self.envelope, seed=SEED, now=now)
        self.coordinator = Coordinator.open(self.home)
        self.database = self.coordinator.database()
        self.rounds = document.study.training.rounds

    def start(self, name: str, *words: str) -> None:
        """Start a command as a process of its own; its words go to log/<name>.txt."""
        log = self.home / "log" / f"lab-{name}.txt"
        log.parent.mkdir(exist_ok=True)
        quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(INJECT)}
        with log.open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", START, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | quiet | self.env,
            )
        self.wanted.add(name)

    def start_service(self) -> None:
        """Start the coordinator's service."""
        self.start("service", "coordinator", "start", "--home", str(self.home))

    def start_node(self, site: str) -> None:
        """Start a hospital's vault and link."""
        self.start(site, "node", "start", "--node", str(self.home / "sites" / site))

    def start_all(self) -> None:
        """Start everything."""
        self.start_service()
        for site in self.sites:
            self.start_node(site)

    def look_after(self) -> None:
        """Start again what has died, as systemd would."""
        for name in list(self.wanted):
            if self.processes[name].poll() is not None:
                if name == "service":
                    self.start_service()
                else:
                    self.start_node(name)

    def start_run(self, transport: str = "simulated-network") -> str:
        """Put a run into the database; the service finds it."""
        name = "lab"
        from solblom_server.rounds.runs import read_signed_study

        row = self.database.create_run(
            study=read_signed_study(self.envelope).digest,
            name=name,
            envelope=self.envelope,
            roster=",".join(sorted(self.sites)),
            transport=transport,
            simulation=True,
            now=dt.datetime.now(dt.UTC),
        )
        return row.id

    def wait(self, run: str, *, seconds: float = 300.0, look_after: bool = True) -> RunRow:
        """Wait until a run has ended."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            row = self.database.run(run)
            if row.status not in ("open", "stopping", "evaluating"):
                return row
            if look_after:
                self.look_after()
            time.sleep(0.1)
        raise TimeoutError(f"{run} did not end: {self.database.run(run).status}")

    def closed_rounds(self, run: str) -> int:
        """Return how many rounds are closed."""
        return sum(r.status == "closed" for r in self.database.rounds(run))

    def wait_for_rounds(self, run: str, count: int, *, seconds: float = 300.0) -> None:
        """Wait until so many rounds are closed."""
        ends = time.monotonic() + seconds
        while self.closed_rounds(run) < count:
            if time.monotonic() > ends:
                raise TimeoutError(f"{run} closed {self.closed_rounds(run)} rounds")
            time.sleep(0.02)

    def digest(self, run: str) -> str | None:
        """Return the digest of a run's registered model."""
        return next((m[3] for m in self.database.models() if m[2] == run), None)

    def charges(self) -> dict[str, int]:
        """Return how many events stand in each hospital's ledger."""
        from solblom_client.budget.ledger import STATE_FILE, open_ledger
        from solblom_client.state import VaultState

        found = {}
        for node in node_files(self.home):
            config = load_node_config(node)
            state = VaultState(config.state / STATE_FILE)
            found[config.node.site] = len(open_ledger(config, state).entries())
            state.close()
        return found

    def pids(self) -> dict[str, int]:
        """Return the process ids of the coordinator's parts and of each hospital's halves."""
        status = json.loads((self.home / "service.json").read_text())
        found = {
            "service": status["pid"],
            "superlink": status["superlink"],
            "front": status["front"],
        }
        for site in self.sites:
            for child in children(self.processes[site].pid):
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                for half in ("vault", "link"):
                    if half.encode() in words:
                        found[f"{half} {site}"] = child
        lock = next((self.home / "runs").glob("*/conductor.lock"), None)
        if lock is not None and lock.read_text():
            found["serverapp"] = int(lock.read_text())
        return found

    def close(self) -> None:
        """End everything."""
        self.wanted.clear()
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.database.close()
        self.gate.close()


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


@contextlib.contextmanager
def running(lab: NetworkLab) -> Iterator[NetworkLab]:
    """Create and start a federation; end it afterwards."""
    lab.create()
    try:
        lab.start_all()
        yield lab
    finally:
        lab.close()
