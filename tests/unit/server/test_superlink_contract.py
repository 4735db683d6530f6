"""Flower's private names that superlink.py and the grids touch: each is there, and is what we take it for.

A stock SuperLink that is started, asked and given runs: tests/security/test_network_attacks.py.
"""

import ast
import inspect
import subprocess
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import flwr
import grpc
import httpx
import pytest
from flwr.app import Context, Message, Metadata
from flwr.common import constant
from flwr.proto import control_pb2, fab_pb2, fleet_pb2, node_pb2, run_pb2
from flwr.serverapp import Grid
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.run import Run
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

import solblom_server
from solblom_protocol.messages.flower import FAB_HASH, build_fab
from solblom_server.service.front import (
    BINARY_HEADERS,
    FLEET_CALLS,
    STATUSES,
    TEXT_HEADERS,
    rpc_name,
)
from solblom_server.service.superlink import EVERYDAY, GRPC_DOOR
from solblom_server.transports.grids.fleet import FleetGrid, _Wire, look_again_soon

SERVER = Path(solblom_server.__file__).parent
PUBLIC = ("flwr.app", "flwr.serverapp")
PRIVATE_PLACES = {"superlink.py", "courier.py", "local.py", "fleet.py"}
FIELDS: dict[Any, set[str]] = {
    control_pb2.RegisterNodeRequest: {"public_key", "name"},
    control_pb2.RegisterNodeResponse: {"node_id"},
    control_pb2.UnregisterNodeRequest: {"node_id"},
    control_pb2.ListNodesRequest: set(),
    control_pb2.ListNodesResponse: {"nodes_info"},
    control_pb2.StartRunRequest: {"fab", "override_config"},
    control_pb2.StartRunResponse: {"run_id"},
    control_pb2.StopRunRequest: {"run_id"},
    control_pb2.ListRunsRequest: {"run_id"},
    control_pb2.ListRunsResponse: {"run_dict"},
    fab_pb2.Fab: {"hash_str", "content"},
    node_pb2.NodeInfo: {"public_key", "node_id", "status"},
    run_pb2.Run: {"status", "fab_hash"},
    run_pb2.RunStatus: {"status", "sub_status"},
}
CALLS = ("RegisterNode", "UnregisterNode", "ListNodes", "StartRun", "StopRun", "ListRuns")


def imports(path: Path) -> list[tuple[str, str]]:
    return [
        (node.module or "", name.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr")
        for name in node.names
    ]


def test_flwr_has_the_version_that_was_measured() -> None:
    assert flwr.__version__ == version("flwr") == "1.41.0"


def test_private_names_of_flwr_are_used_in_few_places() -> None:
    places = {
        path.name
        for path in SERVER.rglob("*.py")
        for module, _ in imports(path)
        if module not in PUBLIC
    }
    assert places <= PRIVATE_PLACES


@pytest.mark.parametrize("path", sorted(SERVER.rglob("*.py")), ids=lambda path: path.name)
def test_every_name_that_is_imported_from_flwr_exists(path: Path) -> None:
    missing = [pair for pair in imports(path) if not hasattr(import_module(pair[0]), pair[1])]
    assert missing == []


@pytest.mark.parametrize("kind", list(FIELDS), ids=lambda kind: kind.__name__)
def test_a_message_of_the_protocol_has_the_fields_that_are_used(kind: Any) -> None:
    assert set(FIELDS[kind]) <= set(kind.DESCRIPTOR.fields_by_name)


def test_a_runs_setting_can_hold_a_name() -> None:
    request = control_pb2.StartRunRequest()
    request.override_config["run"].string = "lab-1"
    assert request.override_config["run"].string == "lab-1"


@pytest.mark.parametrize("method", CALLS)
def test_a_call_of_the_control_plane_goes_where_the_front_lets_nobody(method: str) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"", headers={"content-type": PROTOBUF_MEDIA_TYPE})

    client = ControlHttpClient.from_server_address("127.0.0.1:1", True, None, interceptors=[])
    client._client.close()
    client._client = httpx.Client(transport=httpx.MockTransport(answer))
    getattr(client, method)(getattr(control_pb2, f"{method}Request")())
    assert seen[0].method == "POST"
    assert seen[0].url.path.startswith("/v1/control/")
    client.close()


def test_the_control_client_is_made_from_an_address_and_certificates() -> None:
    parameters = list(inspect.signature(ControlHttpClient.from_server_address).parameters)
    assert parameters[:4] == [
        "server_address",
        "insecure",
        "root_certificates",
        "interceptors",
    ]


def test_the_version_headers_are_flowers_own() -> None:
    headers = dict(RuntimeVersionMetadata.from_local_component("flwr").as_metadata())
    assert "1.41.0" in headers.values()


def test_the_superlink_has_the_options_that_it_is_started_with() -> None:
    program = Path(sys.executable).parent / "flower-superlink"
    told = subprocess.run(
        [str(program), "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for option in (
        "--host",
        "--port",
        "--ssl-ca-certfile",
        "--ssl-certfile",
        "--ssl-keyfile",
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ):
        assert option in told


def test_a_grid_of_flower_has_the_methods_that_couriers_fill() -> None:
    abstract = set(Grid.__abstractmethods__)
    assert abstract <= {name for name in dir(FleetGrid) if not name.startswith("_")}
    assert not FleetGrid.__abstractmethods__


def test_flowers_grid_yields_a_reply_once_it_has_it_whole_and_raises_what_we_catch() -> None:
    """FleetGrid reads with one thread a message: it needs one call that takes ids, and httpx's errors."""
    assert list(inspect.signature(HttpGrid.pull_messages).parameters) == ["self", "message_ids"]
    assert list(inspect.signature(HttpGrid.push_messages).parameters) == ["self", "messages"]
    source = inspect.getsource(HttpGrid.pull_messages)
    assert "ConfirmMessageReceived" in source
    assert "httpx.HTTPStatusError" in source


def test_an_empty_run_and_the_process_wide_identity_are_where_couriers_take_them() -> None:
    assert Run.create_empty(run_id=5).run_id == 5
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (1, 1, 1)


def test_messages_and_metadata_keep_their_ids_where_couriers_write_them() -> None:
    from flwr.app import RecordDict

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    message = Message(RecordDict(), 2, "train", group_id="1")
    message.metadata.__dict__["_message_id"] = "m"
    assert isinstance(message.metadata, Metadata)
    assert message.metadata.message_id == "m"
    assert {"run_config", "node_config"} <= set(Context.__dataclass_fields__)


def test_the_bundle_without_code_is_the_one_that_hospitals_know() -> None:
    """Its hash is on both sides; a change is a change of the protocol."""
    assert len(build_fab()) < 2000
    assert FAB_HASH == "5609d53e82666772746a1f26888b2c82feb9a544f43067fd5bd90dfa8fafa045"


def test_everyday_lines_of_the_log_are_flowers_words() -> None:
    """What is left out of log/superlink.txt is chosen by these words: of requests, never of trouble."""
    handlers = import_module("flwr.superlink.servicer.fleet.fleet_handlers")
    source = inspect.getsource(handlers)
    for mark in EVERYDAY:
        if mark.startswith(b"[Fleet."):
            assert mark.decode() in source


def test_flower_looks_for_a_replys_parts_again_at_once_and_not_after_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Flower's own pauses every round takes over a second longer, and a reply cut off blocks for minutes."""
    monkeypatch.setattr(pull_objects, "__kwdefaults__", dict(pull_objects.__kwdefaults__))
    assert {"initial_backoff", "backoff_cap", "max_time", "max_tries_per_object"} <= set(
        pull_objects.__kwdefaults__
    )
    look_again_soon()
    calls: list[float] = []

    def pull(name: str) -> bytes:
        calls.append(time.monotonic())
        if len(calls) < 4:
            raise ObjectUnavailableError(name)
        return b"part"

    assert pull_objects(["a" * 64], pull) == {"a" * 64: b"part"}
    assert calls[-1] - calls[0] < 0.8
    bound = inspect.signature(pull_objects).bind([], pull)
    bound.apply_defaults()
    assert bound.arguments["max_time"] == 60.0
    assert bound.arguments["max_concurrent_pulls"] == 1


def test_a_nodes_reply_is_looked_for_seldom_until_three_quarters_of_its_usual_time(
    tmp_path: Path,
) -> None:
    """Each look is a request that keeps the SuperLink from carrying models; a late look costs a round."""
    grid = FleetGrid(cast(Any, None), [7], tmp_path)
    wire = _Wire("order", 7, "message", is_question=False)
    assert grid._pull_pause(wire, 0.0) == 0.1
    grid._usual_seconds[7] = 8.0
    assert [grid._pull_pause(wire, waited) for waited in (0.0, 5.5, 6.0, 7.5)] == [
        1.0,
        0.5,
        0.12,
        0.15,
    ]
    question = _Wire("order", 7, "message", is_question=True)
    assert grid._pull_pause(question, 0.0) == 0.1
    grid._usual_seconds[7] = 1.6
    assert grid._pull_pause(wire, 0.0) == 0.2


def test_each_call_of_the_front_has_flowers_grpc_name_and_takes_the_same_message() -> None:
    """The front passes bodies unread: a call with another message would be misread."""
    methods = fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].methods_by_name
    for call in FLEET_CALLS:
        assert methods[rpc_name(call)].input_type.name == f"{rpc_name(call)}Request"


def test_the_front_says_what_flower_says_over_http() -> None:
    """The link reads statuses: 412 unknown, 401 not signed, 403 the run has ended."""
    pairs = {(spec.status_code, spec.http_status_code) for spec in API_ERROR_MAP.values()}
    assert set(STATUSES.items()) <= pairs
    for code, status in pairs - {(grpc.StatusCode.INVALID_ARGUMENT, 415)}:
        assert STATUSES.get(code, 503) == status or code.name in ("UNIMPLEMENTED", "ALREADY_EXISTS")


def test_the_fronts_headers_are_those_that_flower_reads_over_grpc() -> None:
    assert {f"{name}-bin" for name in BINARY_HEADERS} == {
        constant.PUBLIC_KEY_HEADER,
        constant.SIGNATURE_HEADER,
    }
    versions = RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
    assert set(TEXT_HEADERS) == {constant.TIMESTAMP_HEADER, *(name for name, _ in versions)}


def test_flowers_grpc_door_opens_by_the_variable_that_we_set() -> None:
    assert GRPC_DOOR == {constant.FLWR_INTERNAL_GRPC_FLEET_API: "1"}
