"""One real coordinator for the attacks: its service, a stock SuperLink and the front, processes on loopback."""

import base64
import contextlib
import hashlib
import io
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab

from network_lab import NetworkLab
from solblom_client.link.errors import LinkError
from solblom_client.link.fleet import FleetConnection, FleetSettings
from solblom_client.link.link import Link, LinkStatus
from solblom_client.link.transport_key import public_transport_pem, read_transport_key
from solblom_client.policy import NodeConfig, load_node_config
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_server.service.superlink import Control

SECONDS = 60.0


@dataclass
class RealNetwork:
    """A federation whose service runs; hospitals are started by the tests."""

    lab: NetworkLab
    guests: int = 0
    links: list[tuple[Link, threading.Thread]] = field(default_factory=list)
    statuses: dict[str, list[LinkStatus]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.lab.home

    @property
    def authority(self) -> Path:
        return self.home / "tls" / "authority.pem"

    @property
    def port(self) -> int:
        """The public one."""
        address = str(self.status()["address"])
        return int(address.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "service.json").read_text())
        return found

    @contextlib.contextmanager
    def control(self) -> Iterator[Control]:
        """The control plane, as somebody with access to the coordinator's loopback has it."""
        control = Control(self.home, int(self.status()["superlink_port"]))
        try:
            yield control
        finally:
            control.close()

    def config(self, site: str) -> NodeConfig:
        return load_node_config(self.home / "sites" / site)

    def key(self, site: str) -> ec.EllipticCurvePrivateKey:
        return read_transport_key(self.config(site))

    def connection(self, key: ec.EllipticCurvePrivateKey) -> FleetConnection:
        return FleetConnection(FleetSettings(self.url, self.authority, None, key))

    def enrol_guest(self) -> tuple[str, ec.EllipticCurvePrivateKey]:
        """Enrol a hospital that has keys and nothing else; return its name and transport key."""
        self.guests += 1
        name, key = f"guest-{self.guests}", ec.generate_private_key(ec.SECP256R1())
        signing, sealing = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        keys = PublicKeys(name, signing.public_key(), sealing.public_key())
        self.lab.coordinator.enrol(keys, transport_key=public_transport_pem(key))
        wait_for(lambda: self.lab.database.links()[name].node_id is not None)
        time.sleep(1.1)  # the front reads the list of keys once a second
        return name, key

    def runs(self) -> set[int]:
        """Return Flower's runs."""
        with self.control() as control:
            return set(control._client.ListRuns(ListRunsRequest()).run_dict)

    def submit(self, fab: bytes) -> int:
        """Hand any bundle to Flower, past our own commands."""
        digest = hashlib.sha256(fab).hexdigest()
        with self.control() as control:
            request = StartRunRequest(fab=Fab(hash_str=digest, content=fab))
            return int(control._client.StartRun(request).run_id)

    def flower_status(self, run: int) -> str:
        with self.control() as control:
            return control.status(run)

    def start_link(self, site: str, connection: Any, vault: Any) -> Link:
        """Let a real link run on a thread; what it says of itself is kept."""
        link = Link(connection, vault, report=self.statuses.setdefault(site, []).append)
        thread = threading.Thread(target=link.run, daemon=True)
        thread.start()
        self.links.append((link, thread))
        return link

    def stop_links(self) -> None:
        for link, _ in self.links:
            link.stop()
        for _, thread in self.links:
            thread.join(20)
            assert not thread.is_alive()
        self.links.clear()

    def send(self, request: bytes, *, seconds: float = 20.0) -> int:
        """Send bytes to the public port over TLS; return the status of the answer, 0 for none."""
        context = ssl.create_default_context(cafile=self.authority)
        with (
            socket.create_connection(("127.0.0.1", self.port), seconds) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            with contextlib.suppress(OSError):  # it may answer, and hang up, before it has all
                line.sendall(request)
            answer = b""
            with contextlib.suppress(OSError):
                while b"\r\n" not in answer and (more := line.recv(1 << 16)):
                    answer += more
        words = answer.split(b"\r\n")[0].split()
        return int(words[1]) if len(words) > 1 else 0


@contextlib.contextmanager
def real_network(folder: Path, **settings: Any) -> Iterator[RealNetwork]:
    """Create a federation and start its service; end everything afterwards, by process id."""
    lab = NetworkLab(folder / "home", **settings)
    lab.create()
    network = RealNetwork(lab)
    try:
        lab.start_service()
        wait_for(lambda: (lab.home / "service.json").is_file() and network.status()["front"])
        wait_for(lambda: can_connect(network.port))
        yield network
    finally:
        network.stop_links()
        lab.close()


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(holds: Callable[[], Any], seconds: float = SECONDS) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


def code_of(call: Callable[[], Any]) -> str:
    """Return the code of the LinkError that a call ends in."""
    with pytest.raises(LinkError) as caught:
        call()
    return caught.value.code


def key_header(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the header that names a transport key; a public key is no secret."""
    return b"flwr-public-key: " + base64.b64encode(public_transport_pem(key).encode()) + b"\r\n"


def bundle(files: dict[str, str]) -> bytes:
    """Return a bundle (FAB) with any files in it."""
    listed = "\n".join(
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{8 * len(text.encode())}"
        for name, text in sorted(files.items())
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in {**files, ".info/CONTENT": listed}.items():
            file.writestr(name, text)
    return buffer.getvalue()


def start_lonely_link(network: RealNetwork, site: str, box: Path) -> "subprocess.Popen[bytes]":
    """Start `solblom node link` as its user would; everything that it may write by default lies in `box`."""
    for name in ("home", "flower", "tmp"):
        (box / name).mkdir(parents=True)
    begin = "from solblom_protocol.cli import main; main()"
    words = ["node", "link", "--node", str(network.home / "sites" / site)]
    places = {
        "HOME": str(box / "home"),
        "FLWR_HOME": str(box / "flower"),
        "TMPDIR": str(box / "tmp"),
        "XDG_CACHE_HOME": str(box / "home"),
    }
    with (box / "words.txt").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-B", "-c", begin, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=box,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | places,
        )
