"""A coordinator and hospitals, each in a network namespace: each sees the cables that it has, and nothing else.

Every hospital has one cable, to the coordinator; there is no other interface and no default route.
Names hold this process's id. Everything is ended by process id and removed by name.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

START = "from solblom_protocol.cli import main; main()"
QUIET = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
COORDINATOR = "coordinator"
ADDRESS = "10.77.0.1"
PORT = 8443
_CONNECT = """
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError as error:
    print(errno.errorcode.get(error.errno, "ETIMEDOUT"))
else:
    print("open")
"""
_OPEN_PORTS = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as one:
        one.settimeout(3)
        if one.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""


def why_not() -> str | None:
    """Return why namespaces cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "ss", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    name = f"sb{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"ip netns does not work here: {made.stderr.strip()}"
    cable = ("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    tried = subprocess.run(["ip", "-n", name, *cable], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None if tried.returncode == 0 else f"no veth pairs here: {tried.stderr.strip()}"


def ip(*words: str) -> str:
    return subprocess.run(
        ["ip", *words], capture_output=True, text=True, check=True, timeout=20
    ).stdout


@dataclass
class Premises:
    """The coordinator's place and the hospitals', with their cables and the processes that run there.

    `alone` are hospitals without any cable.
    """

    folder: Path
    sites: tuple[str, ...]
    alone: tuple[str, ...] = ()
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def create(self) -> None:
        """Make the namespaces, and lay the cables."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (COORDINATOR, *self.sites, *self.alone):
            ip("netns", "add", self.namespace(name))
            ip("-n", self.namespace(name), "link", "set", "lo", "up")
        for site in self.sites:
            near, far = self.namespace(COORDINATOR), self.namespace(site)
            cable = ("type", "veth", "peer", "name", "eth0", "netns", far)
            ip("-n", near, "link", "add", site, *cable)
            ends = (
                (near, site, ADDRESS, self.address(site)),
                (far, "eth0", self.address(site), ADDRESS),
            )
            for namespace, device, own, peer in ends:
                ip("-n", namespace, "addr", "add", own, "peer", peer, "dev", device)
                ip("-n", namespace, "link", "set", device, "up")

    def namespace(self, name: str) -> str:
        return f"sb{os.getpid()}-{name}"

    def address(self, site: str) -> str:
        """Return the address of a hospital's end of its cable."""
        return f"10.77.0.{11 + self.sites.index(site)}"

    def inside(self, name: str, *words: str) -> list[str]:
        """Return a command line that runs in somebody's place, under the process id that it is started with."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(name)}", "--", *words]

    def run(self, name: str, *words: str) -> str:
        """Run a program in somebody's place; return what it prints."""
        done = subprocess.run(
            self.inside(name, *words),
            cwd=self.folder,
            env=os.environ | QUIET,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def solblom(self, name: str, *words: str) -> str:
        """Run one of our commands in somebody's place."""
        return self.run(name, sys.executable, "-c", START, *words)

    def start(self, label: str, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start one of our commands in somebody's place; its words go to <label>.txt."""
        with (self.folder / f"{label}.txt").open("ab") as output:
            process = subprocess.Popen(
                self.inside(name, sys.executable, "-c", START, *words),
                cwd=self.folder,
                env=os.environ | QUIET,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.processes[label] = process
        return process

    def words(self, label: str) -> str:
        """Return what a command that was started has said."""
        return (self.folder / f"{label}.txt").read_text()

    def connect(self, name: str, host: str, port: int) -> str:
        """Try a TCP connection from somebody's place; return `open`, or the error's name."""
        return self.connect_from(f"/run/netns/{self.namespace(name)}", host, port)

    def connect_from(self, namespace: str, host: str, port: int) -> str:
        """Try a TCP connection from a namespace that is given by its file."""
        program = (sys.executable, "-c", _CONNECT, host, str(port))
        done = subprocess.run(
            ["nsenter", f"--net={namespace}", "--", *program],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return done.stdout.strip()

    def open_ports(self, name: str, host: str) -> set[int]:
        """Try every TCP port of a host from somebody's place; return those that answer."""
        found = self.run(name, sys.executable, "-c", _OPEN_PORTS, host)
        return {int(word) for word in found.split()}

    def listening(self, name: str) -> set[str]:
        """Return the TCP sockets that listen in somebody's place, as address:port."""
        lines = self.run(name, "ss", "-ltnH").splitlines()
        return {line.split()[3] for line in lines}

    def cut(self, site: str) -> None:
        """Cut a hospital's cable."""
        ip("-n", self.namespace(COORDINATOR), "link", "set", site, "down")

    def mend(self, site: str) -> None:
        """Mend a hospital's cable: a veth that was down keeps its address and loses no route to its peer."""
        ip("-n", self.namespace(COORDINATOR), "link", "set", site, "up")

    def end(self, label: str) -> None:
        """End a process that we started, kindly, then for certain."""
        process = self.processes.pop(label)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def close(self) -> None:
        """End what runs and take everything away; no trouble with one keeps another."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for label in list(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.end(label)
        for name in (COORDINATOR, *self.sites, *self.alone):
            if Path(f"/run/netns/{self.namespace(name)}").exists():
                for pid in ip("netns", "pids", self.namespace(name)).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                ip("netns", "del", self.namespace(name))


def wait_until(what: str, is_so: Callable[[], bool], *, seconds: float, every: float = 0.1) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > ends:
            raise TimeoutError(f"After {seconds:.0f} s: {what}")
        time.sleep(every)


def interfaces(pid: int) -> list[str]:
    """Return the names of the network interfaces that a process sees."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]


def process_status(pid: int) -> dict[str, str]:
    """Return /proc/<pid>/status as a table."""
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\t(.*)$", text, re.M))
