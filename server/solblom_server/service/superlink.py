"""A stock flower-superlink on loopback, and its control plane: flwr's private names of the coordinator stand here.

Its state lives in memory and is worth nothing: ours is the durable one (database.py). After every
start the hospitals' transport keys are registered anew and open runs are submitted again.

Pinned to flwr 1.41.0; `tests/unit/server/test_superlink_contract.py` fails when a name moves.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from solblom_protocol.errors import RunError
from solblom_protocol.messages.flower import FAB_HASH, RUN_KEY, build_fab
from solblom_server.service.certificates import FOLDER as TLS

R = TypeVar("R")
HOME_VARIABLE = "SOLBLOM_HOME"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Nothing phones home, and nothing is installed because a message says so."""
GRPC_DOOR = {"FLWR_INTERNAL_GRPC_FLEET_API": "1"}
"""Flower opens its fleet's gRPC door only where this says so (docs/adr/0009)."""
LOG_BYTES = 16 * 1024**2
EVERYDAY = (b'" 200', b"[Fleet.P", b"[Fleet.C", b"[Fleet.G", b"[Fleet.S", b"ControlServicer.List")
"""Lines of every request: left out, or the log grew with every round."""


@dataclass(frozen=True)
class FleetNode:
    """A node as Flower sees it: raw transport key (PEM bytes), id, and whether it is online."""

    key: bytes
    node_id: int
    online: bool


def start_superlink(home: Path, port: int, fleet_port: int) -> "subprocess.Popen[bytes]":
    """Start a SuperLink in a session of its own; its words go to log/superlink.txt.

    At `port` it serves everything over HTTP, at `fleet_port` the fleet's calls over gRPC: a model takes
    less work there (docs/adr/0009).

    Raises:
        RunError: SB-632, it is not installed beside this Python.
    """
    program = Path(sys.executable).parent / "flower-superlink"
    found = str(program) if program.is_file() else shutil.which("flower-superlink")
    if found is None:
        raise RunError("SB-632", "flower-superlink is not installed beside this Python")
    tls = home / TLS
    command = [
        found,
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--fleet-api-address", f"127.0.0.1:{fleet_port}"),
        *("--ssl-ca-certfile", str(tls / "authority.pem")),
        *("--ssl-certfile", str(tls / "inside.pem"), "--ssl-keyfile", str(tls / "inside.key")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    flower = home / "flower"
    flower.mkdir(mode=0o700, exist_ok=True)
    own = {
        "PATH": path,
        "FLWR_HOME": str(flower.resolve()),
        HOME_VARIABLE: str(home.resolve()),
    }
    process = subprocess.Popen(  # noqa: S603 - Flower's own program, arguments are ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | QUIET | GRPC_DOOR | own,
    )
    log = home / "log" / "superlink.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=_keep_log, args=(process, log), daemon=True).start()
    return process


def _keep_log(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Write what a SuperLink says to a file that does not grow for ever; everyday lines are left out."""
    written, file = 0, log.open("ab")
    for line in process.stdout or ():
        if any(mark in line for mark in EVERYDAY):
            continue
        written += file.write(line)
        file.flush()
        if written > LOG_BYTES:
            file.close()
            log.replace(log.with_suffix(".1.txt"))
            written, file = 0, log.open("ab")
    file.close()


class Control:
    """The control plane of our own SuperLink."""

    def __init__(self, home: Path, port: int) -> None:
        certificates = (home / TLS / "authority.pem").read_bytes()
        self._url = f"https://127.0.0.1:{port}"
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{port}", False, certificates, interceptors=[_VersionHeaders()]
        )

    def is_ready(self) -> bool:
        """Tell whether the SuperLink answers."""
        try:
            return self._client._client.get(f"{self._url}/health", timeout=2.0).is_success
        except httpx.HTTPError:
            return False

    def register(self, key: bytes, name: str) -> int:
        """Let a transport key in; return its Flower node id.

        Raises:
            RunError: SB-632.
        """
        request = RegisterNodeRequest(public_key=key, name=name)
        return int(_call(self._client.RegisterNode, request).node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a node out.

        Raises:
            RunError: SB-632.
        """
        _call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[FleetNode]:
        """Return all nodes that are registered.

        Raises:
            RunError: SB-632.
        """
        response = _call(self._client.ListNodes, ListNodesRequest())
        return [
            FleetNode(bytes(node.public_key), int(node.node_id), node.status == "online")
            for node in response.nodes_info
        ]

    def start(self, run: str) -> int:
        """Submit the bundle without code for one of our runs; return Flower's run id.

        Raises:
            RunError: SB-632.
        """
        request = StartRunRequest(fab=Fab(hash_str=FAB_HASH, content=build_fab()))
        request.override_config[RUN_KEY].string = run
        run_id = int(_call(self._client.StartRun, request).run_id)
        if run_id == 0:
            raise RunError("SB-632", "Flower did not accept the run")
        return run_id

    def stop(self, run_id: int) -> None:
        """End one of Flower's runs.

        Raises:
            RunError: SB-632.
        """
        _call(self._client.StopRun, StopRunRequest(run_id=run_id))

    def status(self, run_id: int) -> str:
        """Return what Flower says of a run: its status and sub-status.

        Raises:
            RunError: SB-632.
        """
        runs = _call(self._client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict
        status = runs[run_id].status
        return f"{status.status}:{status.sub_status}"

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class _VersionHeaders:
    def __init__(self) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component("flwr").as_metadata())

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        context.request.headers.update(self._headers)
        return call_next(context)


def _call(method: Callable[[Any], R], request: Any) -> R:
    try:
        return method(request)
    except Exception as error:
        detail = error.response.text[:200] if isinstance(error, httpx.HTTPStatusError) else ""
        raise RunError(
            "SB-632", f"The SuperLink said no: {type(error).__name__} {detail}"
        ) from None


def end_process(process: "subprocess.Popen[bytes]", *, seconds: float = 10.0) -> None:
    """End a process that we started, with its session: kindly, then for certain."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=seconds)
