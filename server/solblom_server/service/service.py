"""The coordinator's service: keeps SuperLink and front alive, lets enrolled hospitals in, resumes open runs.

Everything that matters stands in the database, so each part may be killed at any time, this one
included. What an earlier service left running is ended by its process id before anything starts.
"""

import contextlib
import datetime as dt
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from solblom_protocol.errors import RunError
from solblom_server.coordinator import Coordinator
from solblom_server.log.run_log import end_run
from solblom_server.rounds.conduct import is_conducted, lock_path
from solblom_server.service.certificates import renew_certificates
from solblom_server.service.status import LOCK_FILE, STATUS_FILE, read_status
from solblom_server.service.superlink import Control, end_process, start_superlink
from solblom_server.settings import EVERY_INTERFACE, free_port, listens_at, read_network
from solblom_server.transports.network import TRANSPORTS

TICK_SECONDS = 0.5
START_SECONDS = 60.0
RESUBMIT_SECONDS = 40.0
"""A ServerApp imports torch before it takes the run's lock: that long a submitted run is left alone."""

Say = Callable[[str], None]


@dataclass
class _Superlink:
    """One life of the SuperLink: nothing of it outlives the process."""

    process: "subprocess.Popen[bytes]"
    control: Control
    registered: dict[str, tuple[str, int]] = field(default_factory=dict)  # site → (key, node id)
    submitted: dict[str, tuple[int, float]] = field(default_factory=dict)  # run → (Flower's, when)


class Service:
    """Supervises until it is stopped."""

    def __init__(self, home: Path, *, say: Say) -> None:
        self._home, self._say = home, say
        self._database = Coordinator.open(home).database()
        self._address = read_network(home).address
        # Of the SuperLink: the same in all its lives, the front knows the second.
        self._port, self._fleet_port = free_port(), free_port()
        self._stop = threading.Event()
        self._superlink: _Superlink | None = None
        self._front: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()

    def run(self) -> None:
        """Keep everything alive until `stop`.

        Raises:
            RunError: SB-631 it runs already, or the port is taken; SB-632 the SuperLink does not start.
        """
        with _only_service(self._home):
            _end_leftovers(self._home)
            for name in renew_certificates(self._home, now=dt.datetime.now(dt.UTC)):
                self._say(f"Renewed the certificate tls/{name}.pem")
            try:
                self._start_superlink()
                self._start_front()
                self._say(f"Hospitals reach this coordinator at https://{self._address}")
                while not self._stop.wait(TICK_SECONDS):
                    self._tick()
            finally:
                self._end()

    def _tick(self) -> None:
        """Look after everything once; trouble with Flower is said and tried again."""
        link = self._superlink
        if link is None or link.process.poll() is not None:
            self._say("The SuperLink ended; starting another")
            self._start_superlink()
            return
        if self._front is None or self._front.poll() is not None:
            self._say("The front ended; starting another")
            self._start_front()
        try:
            self._register(link)
            self._submit_open_runs(link)
        except RunError as error:
            self._say(f"{error.code}: {error.message}")

    def _start_superlink(self) -> None:
        if self._superlink is not None:
            self._superlink.control.close()
            _end_conductors(self._home)
            end_process(self._superlink.process)
        process = start_superlink(self._home, self._port, self._fleet_port)
        link = _Superlink(process, Control(self._home, self._port))
        self._superlink = link
        self._write_status()
        ends = time.monotonic() + START_SECONDS
        while not link.control.is_ready():
            if process.poll() is not None or time.monotonic() > ends:
                raise RunError(
                    "SB-632", f"It ended with status {process.poll()}, or does not answer"
                )
            time.sleep(0.1)
        self._register(link)

    def _start_front(self) -> None:
        """Start the filter as a process of its own; it is told where the SuperLink is by its status file."""
        log = self._home / "log" / "front.txt"
        start = "from solblom_server.service.front_process import main; main()"
        with log.open("ab") as output:
            self._front = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-c", start, str(self._home.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._write_status()
        _wait_for_front(*listens_at(read_network(self._home)), self._front)

    def _register(self, link: _Superlink) -> None:
        """Let enrolled hospitals in, and removed ones out."""
        wanted = {s: r for s, r in self._database.links().items() if r.route == "network"}
        for site, (key, node_id) in list(link.registered.items()):
            if site not in wanted or wanted[site].transport_key != key:
                link.control.unregister(node_id)
                del link.registered[site]
        for site, row in wanted.items():
            if site not in link.registered:
                node_id = link.control.register(row.transport_key.encode(), site)
                link.registered[site] = (row.transport_key, node_id)
                self._database.set_node_id(site, node_id)

    def _submit_open_runs(self, link: _Superlink) -> None:
        """Hand every open run to Flower that no living process conducts."""
        for row in self._database.unfinished_runs():
            if row.transport not in TRANSPORTS:
                continue
            if row.status == "stopping":
                if not is_conducted(self._home, row.id):
                    reason = "SB-509: Stopped by a person"
                    now = dt.datetime.now(dt.UTC)
                    end_run(
                        Coordinator.open(self._home),
                        self._database,
                        row.id,
                        "stopped",
                        reason,
                        now=now,
                    )
            elif not self._is_under_way(link, row.id):
                link.submitted[row.id] = (link.control.start(row.id), time.monotonic())
                self._say(f"Handed {row.id} to Flower")

    def _is_under_way(self, link: _Superlink, run: str) -> bool:
        if is_conducted(self._home, run):
            return True
        if run not in link.submitted:
            return False
        flower_run, since = link.submitted[run]
        status = link.control.status(flower_run)
        if status.startswith("finished"):
            return False
        if time.monotonic() - since < RESUBMIT_SECONDS and not _was_conducted(
            self._home, run, since
        ):
            return True  # it is still loading
        link.control.stop(flower_run)
        return False

    def _write_status(self) -> None:
        data = {
            "pid": os.getpid(),
            "address": self._address,
            "superlink": None if self._superlink is None else self._superlink.process.pid,
            "superlink_port": self._port,
            "superlink_fleet_port": self._fleet_port,
            "front": None if self._front is None else self._front.pid,
        }
        partial = self._home / f".{STATUS_FILE}"
        partial.write_text(json.dumps(data), encoding="ascii")
        partial.replace(self._home / STATUS_FILE)

    def _end(self) -> None:
        if self._front is not None:
            end_process(self._front)
        _end_conductors(self._home)  # first: a SuperLink waits for those who talk to it
        if self._superlink is not None:
            self._superlink.control.close()
            end_process(self._superlink.process)
        self._database.close()
        (self._home / STATUS_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def _only_service(home: Path) -> Iterator[None]:
    with (home / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError("SB-631", f"The service of {home} runs already") from None
        yield


def _end_leftovers(home: Path) -> None:
    """End what a service that was killed left behind: only processes that carry this folder's marks."""
    left = read_status(home)
    for name in ("superlink", "front"):
        pid = int(left.get(name) or 0)
        with contextlib.suppress(OSError, ValueError, TypeError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(home.resolve()).encode() in words or str(home).encode() in words:
                os.killpg(pid, signal.SIGKILL)
    _end_conductors(home)


def _end_conductors(home: Path) -> None:
    """End ServerApps of a SuperLink that died, by id: they would keep their runs' locks for a minute."""
    for path in (home / "runs").glob("*/conductor.lock"):
        if is_conducted(home, path.parent.name):
            with contextlib.suppress(ValueError, OSError):
                os.kill(int(path.read_text()), signal.SIGKILL)


def _was_conducted(home: Path, run: str, since: float) -> bool:
    """Tell whether a ServerApp has taken the run's lock after it was submitted, and let it go."""
    path = lock_path(home, run)
    age = time.time() - path.stat().st_mtime if path.is_file() else float("inf")
    return age < time.monotonic() - since


def _wait_for_front(host: str, port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the front answers where it listens; that may be one interface only.

    Raises:
        RunError: SB-631, it ended: the port is taken or not allowed.
    """
    import socket

    near = EVERY_INTERFACE.get(host, host)
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RunError(
                "SB-631",
                f"The front cannot listen on {host} port {port}; its words stand in log/front.txt",
            )
        with contextlib.suppress(OSError), socket.create_connection((near, port), 1):
            return
        time.sleep(0.1)
