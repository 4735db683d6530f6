"""Attacks on the network transport, against a stock SuperLink and the real front, link and vault.

Who is not enrolled gets nowhere, who is enrolled gets no further than its own messages, and who owns
the control plane runs no code at a hospital.
"""

import contextlib
import os
import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.task_identity import TaskIdentity

from security.real_network import (
    RealNetwork,
    bundle,
    code_of,
    key_header,
    real_network,
    start_lonely_link,
    wait_for,
)
from solblom_client.link.errors import LinkError
from solblom_client.link.fleet import FleetConnection, FleetSettings
from solblom_client.link.transport_key import public_transport_pem
from solblom_server.coordinator import create_coordinator
from solblom_server.service.front import FLEET_CALLS, MAX_BODY_BYTES
from solblom_server.service.front_connection import HEAD_SECONDS
from solblom_server.service.front_process import CONNECTIONS

MIB = 1024**2


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNetwork]:
    with real_network(tmp_path_factory.mktemp("attacks"), sites=("north", "south")) as made:
        wait_for(lambda: all(row.node_id for row in made.lab.database.links().values()))
        yield made


def test_an_enrolled_node_connects_beats_and_leaves(network: RealNetwork) -> None:
    """The honest round trip that the attacks are measured against."""
    connection = network.connection(network.key("north"))
    node_id = connection.connect()
    assert node_id == network.lab.database.links()["north"].node_id
    connection.heartbeat()
    assert connection.next_head() is None
    with network.control() as control:
        assert [node.online for node in control.nodes() if node.node_id == node_id] == [True]
    assert connection.connect(node_id) == node_id  # again, as after an unclean death
    connection.leave()
    connection.close()


def test_an_unregistered_key_gets_nowhere(network: RealNetwork) -> None:
    connection = network.connection(ec.generate_private_key(ec.SECP256R1()))
    assert code_of(connection.connect) == "SB-625"
    connection.node_id = network.lab.database.links()["north"].node_id or 0
    assert code_of(connection.next_head) == "SB-625"
    assert code_of(connection.heartbeat) == "SB-625"
    assert code_of(lambda: connection.fab_hash(1)) == "SB-625"
    connection.close()


def test_a_removed_hospital_is_out_within_seconds_and_stays_out(network: RealNetwork) -> None:
    name, key = network.enrol_guest()
    connection = network.connection(key)
    node_id = connection.connect()
    assert connection.next_head() is None
    network.lab.coordinator.remove(name)
    wait_for(lambda: is_refused(connection), 10.0)
    assert code_of(connection.next_head) == "SB-625"
    assert code_of(connection.heartbeat) == "SB-625"
    assert code_of(lambda: connection.connect(node_id)) == "SB-625"
    with network.control() as control:
        pem = public_transport_pem(key).encode()
        assert pem.strip() not in {node.key.strip() for node in control.nodes() if node.online}
    connection.close()


def test_an_enrolled_key_cannot_use_another_nodes_number(network: RealNetwork) -> None:
    _, key = network.enrol_guest()
    other = network.lab.database.links()["north"].node_id or 0
    victim = network.connection(network.key("north"))
    victim.connect()
    connection = network.connection(key)
    connection.connect()
    connection.node_id = other
    calls = {
        "heartbeat": connection.heartbeat,
        "pull": connection.next_head,
        "run": lambda: connection.fab_hash(1),
        "object": lambda: connection.fetch(1, ObjectTree(object_id="0" * 64)),
        "leave": connection.leave,
        "push": lambda: connection.send(reply_of(other), seconds=0.0),
    }
    assert {name: code_of(call) for name, call in calls.items()} == dict.fromkeys(calls, "SB-625")
    pem = public_transport_pem(network.key("north")).encode()
    activate = ActivateNodeRequest(public_key=pem, heartbeat_interval=60)
    activated = code_of(lambda: connection._call(connection._client.ActivateNode, activate))
    assert activated == "SB-625"
    victim.heartbeat()
    with network.control() as control:
        assert [node.online for node in control.nodes() if node.node_id == other] == [True]
    for used in (victim, connection):
        used.close()


def is_refused(connection: FleetConnection) -> bool:
    try:
        connection.next_head()
    except LinkError:
        return True
    return False


def reply_of(node_id: int) -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    asked = Message(RecordDict(), node_id, "train", group_id="1")
    asked.metadata.__dict__["_message_id"] = "0" * 64
    return Message(RecordDict({"solblom": ConfigRecord({"state": "unknown"})}), reply_to=asked)


SERVERAPP = """\
import json, os, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    found = []
    nodes = [n for n in grid.get_node_ids() if n == TARGET]
    for kind in ("train", "query", "evaluate"):
        content = RecordDict({"solblom": ConfigRecord({"order": "0" * 64})})
        asked = list(grid.push_messages([Message(content, n, kind) for n in nodes]))
        ends = time.time() + 20
        while asked and time.time() < ends:
            for reply in grid.pull_messages(asked):
                asked.remove(reply.metadata.reply_to_message_id)
                found.append(reply.error.reason if reply.has_error() else "no error")
            time.sleep(0.1)
    with open("RESULT", "w") as file:
        json.dump(found, file)
"""
CLIENT = """\
with open("MARKER", "a") as file:
    file.write("evil-code-7 was imported")
from flwr.clientapp import ClientApp
app = ClientApp()
"""
PROJECT = """\
[project]
name = "evil-code-7"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "solblom"
[tool.flwr.app.components]
serverapp = "{server}:app"
clientapp = "{client}:app"
[tool.flwr.app.config]
run = ""
"""
LAYOUTS = {
    "its own package": ("evil_server.main", "evil_client.main"),
    "the installed package's name": ("solblom_server.evil", "solblom_client.app"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_code_in_a_run_of_the_control_planes_owner_leaves_no_trace_at_a_hospital(
    network: RealNetwork, tmp_path: Path, layout: str
) -> None:
    """It runs where its owner already is, at the coordinator; the real link answers SB-626 and fetches nothing."""
    server, client = LAYOUTS[layout]
    marker, result = tmp_path / "marker", tmp_path / "result.json"
    target = network.lab.database.links()["south"].node_id
    code = SERVERAPP.replace("TARGET", str(target)).replace("RESULT", str(result))
    files = {
        "pyproject.toml": PROJECT.format(server=server, client=client),
        server.replace(".", "/") + ".py": code,
        client.replace(".", "/") + ".py": CLIENT.replace("MARKER", str(marker)),
        server.partition(".")[0] + "/__init__.py": "",
        client.partition(".")[0] + "/__init__.py": CLIENT.replace("MARKER", str(marker)),
    }
    box = tmp_path / "box"
    link = start_lonely_link(network, "south", box)
    try:
        status = network.home / "sites" / "south" / "link" / "status.json"
        wait_for(lambda: status.is_file() and f'"pid": {link.pid}' in status.read_text())
        wait_for(lambda: '"connected"' in status.read_text())
        run = network.submit(bundle(files))
        wait_for(lambda: result.is_file() or "failed" in network.flower_status(run))
        assert result.read_text() == '["SB-626", "SB-626", "SB-626"]'
        assert link.poll() is None, "the link lives on"
        modules = Path(f"/proc/{link.pid}/maps").read_text()
        assert "torch" not in modules
    finally:
        link.terminate()
        assert link.wait(30) == 0
    assert not marker.exists(), "code of a bundle was imported"
    for place in (box, network.home / "sites" / "south"):
        for path in place.rglob("*"):
            assert "evil" not in path.name
            assert not path.is_file() or b"evil" not in path.read_bytes(), f"{path} holds its words"
    assert [path.name for path in (box / "tmp").iterdir()] == []
    assert list((box / "flower").rglob("*.py")) == []


CLOSED = [
    *(f"/v1/control/{call}" for call in ("start-run", "list-nodes", "register-node", "stop-run")),
    *(f"/v1/runtime/{call}" for call in ("acquire-task", "pull-task-input", "push-messages")),
    *(f"/v1/fleet/{call}" for call in ("register-node", "unregister-node", "get-fab")),
    *("/health", "/docs", "/redoc", "/openapi.json", "/", "/v1", "/v1/fleet", "/v1/fleet/"),
    "/v1/fleet/../control/start-run",
    "/v1/fleet/get-run/../../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet/%2E%2E%2Fcontrol%2Fstart-run",
    "/v1/fleet/..%2fcontrol%2fstart-run",
    "/v1/fleet/get-run%2f..%2f..%2fcontrol%2fstart-run",
    "//v1/control/start-run",
    "//v1/fleet/get-run",
    "/v1//fleet/get-run",
    "/v1/fleet//get-run",
    "/v1/fleet/./get-run",
    "/v1/fleet/get-run/",
    "/v1/fleet/get-run%0a",
    "/v1/fleet/get-run%0d%0aX: y",
    "/v1/fleet/get-run%00",
    "/v1/fleet/get-run;x",
    "/v1/fleet/get-run%3fx",
    "/V1/FLEET/GET-RUN",
    "/v1/fleet/get-run.json",
    "/v1/fleet/{call}",
    "https://127.0.0.1/v1/control/start-run",
    "http://example.org/v1/control/start-run",
    "*",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", CLOSED)
def test_the_public_port_serves_no_other_path(network: RealNetwork, path: str, method: str) -> None:
    """Not even to an enrolled key, which is sent along. 400: the words are no HTTP at all."""
    for version in ("1.1", "1.0"):
        head = f"{method} {path.replace(' ', '%20')} HTTP/{version}\r\nhost: 127.0.0.1\r\n".encode()
        rest = b"content-type: application/protobuf\r\ncontent-length: 0\r\n\r\n"
        status = network.send(head + key_header(network.key("north")) + rest)
        assert status in (404, 400), (status, path)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_the_calls_of_nodes_are_posted_and_nothing_else(network: RealNetwork, method: str) -> None:
    head = f"{method} /v1/fleet/get-run HTTP/1.1\r\nhost: x\r\n".encode()
    assert network.send(head + key_header(network.key("north")) + b"\r\n") == 404


@pytest.mark.parametrize("call", FLEET_CALLS)
def test_every_call_wants_an_enrolled_key_and_then_its_signature(
    network: RealNetwork, call: str
) -> None:
    head = f"POST /v1/fleet/{call} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode()
    rest = b"content-type: application/protobuf\r\ncontent-length: 0\r\n\r\n"
    stranger = ec.generate_private_key(ec.SECP256R1())
    enrolled = key_header(network.key("north"))
    assert network.send(head + rest) == 412
    assert network.send(head + b"flwr-public-key: %%%\r\n" + rest) == 412
    assert network.send(head + key_header(stranger) + rest) == 412
    assert network.send(head + enrolled + key_header(stranger) + rest) == 412
    assert network.send(head + key_header(stranger) + enrolled + rest) == 412
    assert network.send(head + enrolled + rest) == 401  # the key is known, the signature missing
    odd = b"flwr-timestamp: \xe9\xff\r\nflwr-signature: \xe9\r\n"
    assert network.send(head + enrolled + odd + rest) == 401


@pytest.mark.parametrize(
    "host", ["x/v1/control/list-nodes?", "x/v1/control/list-nodes#", "x@y", "[::1", "", "a b"]
)
def test_the_host_header_chooses_no_path(network: RealNetwork, host: str) -> None:
    head = f"POST /v1/fleet/get-run HTTP/1.1\r\nhost: {host}\r\n".encode()
    rest = b"content-type: application/protobuf\r\ncontent-length: 0\r\n\r\n"
    assert network.send(head + key_header(network.key("north")) + rest) in (400, 401)


def post(key: bytes, more: bytes) -> bytes:
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    return head + b"content-type: application/protobuf\r\n" + key + more


def test_a_body_over_sixteen_mebibytes_is_refused_whole_or_in_chunks(network: RealNetwork) -> None:
    key, body = key_header(network.key("north")), bytes(17 * MIB)
    assert len(body) > MAX_BODY_BYTES
    whole = b"content-length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n" % MIB + bytes(MIB) + b"\r\n" for _ in range(17))
    chunked = b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    for sent in (whole, chunked):
        assert network.send(post(key, sent)) == 413
        assert network.send(post(b"", sent)) == 412


def test_a_request_in_a_requests_body_is_not_obeyed(network: RealNetwork) -> None:
    """Lengths that contradict each other end the connection; Flower never sees a second request."""
    before = network.runs()
    inner = b"POST /v1/control/start-run HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    key = key_header(network.key("north"))
    for lengths in (
        b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"content-length: 0\r\ncontent-length: 30\r\n\r\n",
        b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ):
        assert network.send(post(key, lengths + inner)) in (400, 401, 412)
    assert network.runs() == before


def test_endless_headers_are_cut_off(network: RealNetwork) -> None:
    """Whoever reaches the port may send; memory must not grow with what they send."""
    front = Path(f"/proc/{network.status()['front']}/status")

    def kib() -> int:
        line = next(li for li in front.read_text().splitlines() if li.startswith("VmRSS"))
        return int(line.split()[1])

    before = kib()
    for junk in (b"x: " + b"a" * 32 * MIB, b"".join(b"x%d: y\r\n" % n for n in range(500_000))):
        status = network.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + junk + b"\r\n\r\n")
        assert status in (0, 400, 431), status
    assert kib() - before < 16 * 1024, "the front kept what it refused"
    assert network.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") == 404, "it still serves"


def test_silent_connections_shut_nobody_out(network: RealNetwork) -> None:
    """Anybody may open as many as the front takes; those who say nothing, or drip, are gone within ten seconds."""
    context = ssl.create_default_context(cafile=network.authority)
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

    def opened() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", network.port), 20)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    honest = network.connection(network.key("north"))
    silent = [opened() for _ in range(CONNECTIONS)]
    try:
        for line in silent[::2]:
            line.sendall(request[:-2])  # a head that does not end
        wait_for(lambda: network.send(request) == 404, 2 * HEAD_SECONDS + 10)
        assert honest.connect(network.lab.database.links()["north"].node_id or 0)
        with contextlib.suppress(ConnectionError):
            assert silent[0].recv(100) == b"", "a head that does not end is not waited for"
    finally:
        for line in silent:
            line.close()
        honest.close()


def test_a_node_that_pins_an_authority_speaks_to_no_other_coordinator_of_that_name(
    network: RealNetwork, tmp_path: Path
) -> None:
    """The second one has the same name, address and kind of certificate, of its own authority."""
    create_coordinator(
        tmp_path / "second",
        name="simulation",
        entropy=lambda label: os.urandom(32),
        address=f"127.0.0.1:{network.port}",
    )
    pinned = tmp_path / "second" / "tls" / "authority.pem"
    connection = FleetConnection(FleetSettings(network.url, pinned, None, network.key("north")))
    assert code_of(connection.connect) == "SB-621"
    connection.close()


def test_plain_http_and_old_tls_get_no_answer(network: RealNetwork) -> None:
    with socket.create_connection(("127.0.0.1", network.port), 5) as plain:
        plain.sendall(b"GET /v1/fleet/get-run HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not plain.recv(1000).startswith(b"HTTP")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old = ssl.create_default_context(cafile=network.authority)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", network.port), 5) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_front_is_the_only_public_port(network: RealNetwork) -> None:
    """SuperLink listens on loopback only; what it serves there is Flower's whole control plane."""
    pid = network.status()["superlink"]
    tables = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    port = f"{int(network.status()['superlink_port']):04X}"
    listening = {row[1] for row in tables if row[3] == "0A" and row[1].endswith(f":{port}")}
    assert listening == {f"0100007F:{port}"}
