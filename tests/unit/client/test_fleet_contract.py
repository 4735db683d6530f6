"""Flower's private names that the node's fleet.py and link.py touch: each is there, and is what we take it for.

flwr is pinned: a new release is taken in together with this file. A real round trip through a stock
SuperLink (activate, heartbeat, pull, push) runs in tests/security/test_network_attacks.py.
"""

import ast
import inspect
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flwr
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.inflatable import inflatable_object as objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

import solblom_client

CLIENT = Path(solblom_client.__file__).parent
CALLS = {
    "ActivateNode": "activate-node",
    "DeactivateNode": "deactivate-node",
    "SendNodeHeartbeat": "send-node-heartbeat",
    "PullMessages": "pull-messages",
    "PushMessages": "push-messages",
    "GetRun": "get-run",
    "PullObject": "pull-object",
    "PushObject": "push-object",
    "ConfirmMessageReceived": "confirm-message-received",
}
FIELDS: dict[Any, set[str]] = {
    fleet_pb2.ActivateNodeRequest: {"public_key", "heartbeat_interval"},
    fleet_pb2.ActivateNodeResponse: {"node_id"},
    fleet_pb2.DeactivateNodeRequest: {"node_id"},
    fleet_pb2.PullMessagesRequest: {"node"},
    fleet_pb2.PullMessagesResponse: {"messages_list", "message_object_trees"},
    fleet_pb2.PushMessagesRequest: {
        "node",
        "messages_list",
        "message_object_trees",
        "clientapp_runtime_list",
    },
    fleet_pb2.PushMessagesResponse: {"objects_to_push", "session_id"},
    heartbeat_pb2.SendNodeHeartbeatRequest: {"node", "heartbeat_interval"},
    heartbeat_pb2.SendNodeHeartbeatResponse: {"success"},
    message_pb2.ConfirmMessageReceivedRequest: {"node", "run_id", "message_object_id"},
    message_pb2.ObjectTree: {"object_id", "children"},
    message_pb2.PullObjectRequest: {"node", "run_id", "object_id"},
    message_pb2.PullObjectResponse: {"object_found", "object_available", "object_content"},
    message_pb2.PushObjectRequest: {
        "node",
        "run_id",
        "session_id",
        "object_id",
        "object_content",
    },
    message_pb2.PushObjectResponse: {"stored"},
    message_pb2.Metadata: {"run_id"},
    node_pb2.Node: {"node_id"},
    run_pb2.GetRunRequest: {"node", "run_id"},
    run_pb2.GetRunResponse: {"run"},
    run_pb2.Run: {"fab_hash"},
}


def message(content: RecordDict) -> Message:
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    made = Message(content, 2, "train", group_id="1")
    made.metadata.__dict__["_message_id"] = "1"
    return made


def order(data: bytes) -> Message:
    array = Array(dtype="uint8", shape=(len(data),), stype="solblom.sealed", data=data)
    return message(RecordDict({"solblom": ArrayRecord({"sealed": array})}))


def test_flwr_has_the_version_that_was_measured() -> None:
    assert flwr.__version__ == version("flwr") == "1.41.0"


def test_only_fleet_touches_private_names_of_flwr() -> None:
    """Public are flwr.app, flwr.clientapp and flwr.serverapp; ObjectTree is the one type that passes through."""
    allowed = {("link.py", "flwr.proto.message_pb2")}
    found = set()
    for path in CLIENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("flwr.") and module not in ("flwr.app", "flwr.clientapp"):
                found.add((path.name, module))
    assert {(name, module) for name, module in found if name != "fleet.py"} <= allowed


def test_every_name_that_fleet_imports_from_flwr_exists() -> None:
    tree = ast.parse((CLIENT / "link" / "fleet.py").read_text(encoding="utf-8"))
    imported = [
        (node.module, name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr")
        for name in node.names
    ]
    assert len(imported) > 20
    assert [pair for pair in imported if not hasattr(import_module(str(pair[0])), pair[1])] == []


@pytest.mark.parametrize("kind", list(FIELDS), ids=lambda kind: kind.__name__)
def test_a_message_of_the_protocol_has_the_fields_that_are_used(kind: Any) -> None:
    assert set(FIELDS[kind]) <= set(kind.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(("method", "call"), CALLS.items())
def test_a_call_posts_to_the_path_that_the_front_lets_through(method: str, call: str) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"", headers={"content-type": PROTOBUF_MEDIA_TYPE})

    client = FleetHttpClient("https://fl.example.no", verify=True)
    client._client.close()
    client._client = httpx.Client(transport=httpx.MockTransport(answer))
    kinds = {
        "SendNodeHeartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
        "GetRun": run_pb2.GetRunRequest,
        "ConfirmMessageReceived": message_pb2.ConfirmMessageReceivedRequest,
        "PullObject": message_pb2.PullObjectRequest,
        "PushObject": message_pb2.PushObjectRequest,
    }
    kind = kinds.get(method) or getattr(fleet_pb2, f"{method}Request")
    getattr(client, method)(kind())
    assert (seen[0].method, seen[0].url.path) == ("POST", f"/v1/fleet/{call}")
    assert seen[0].headers["content-type"] == PROTOBUF_MEDIA_TYPE
    client.close()


def test_the_client_takes_interceptors_and_keeps_its_connection_where_it_is_replaced() -> None:
    parameters = inspect.signature(FleetHttpClient.__init__).parameters
    assert {"base_url", "interceptors", "verify"} <= set(parameters)
    client = FleetHttpClient("https://fl.example.no", interceptors=[], verify=True)
    assert isinstance(client._client, httpx.Client)
    client.close()
    assert client._client.is_closed
    assert issubclass(FleetHttpClient, ProtobufClient)
    assert {"request", "message"} <= set(ProtobufRequestContext.__dataclass_fields__)


def test_the_signature_covers_a_time_only_so_that_only_the_seal_protects_what_travels() -> None:
    """If Flower ever signs more, the reasons in fleet.py and front.py are to be written anew."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = httpx.Request("POST", "https://fl.example.no/", content=b"body")
    context = ProtobufRequestContext("m", fleet_pb2.PullMessagesRequest(), request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(
        context, lambda given: httpx.Response(200)
    )
    own = {name for name in request.headers if name.startswith("flwr-")}
    assert own == {"flwr-public-key", "flwr-timestamp", "flwr-signature"}
    assert public_key_to_bytes(key.public_key()).startswith(b"-----BEGIN PUBLIC KEY-----")


def test_the_version_headers_are_flowers_own() -> None:
    headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
    assert "1.41.0" in headers.values()
    assert all(name.startswith(("flwr-", "x-flwr-")) for name in headers)


def test_objects_are_named_by_the_sha256_of_their_bytes_and_inflate_to_the_same_message() -> None:
    sent = order(b"sealed" * 1000)
    with objects.no_object_id_recompute():
        nested = objects.get_all_nested_objects(sent)
        tree = objects.get_object_tree(sent)
    contents = {name: item.deflate() for name, item in nested.items()}
    assert all(objects.get_object_id(data) == name for name, data in contents.items())
    assert {item.object_id for item in objects.iterate_object_tree(tree)} == set(contents)
    assert tree.object_id == sent.object_id
    found = inflate_object_from_contents(tree.object_id, dict(contents))
    assert isinstance(found, Message)
    array = found.content.array_records["solblom"]["sealed"]
    assert array.data == b"sealed" * 1000


def test_an_array_lists_its_chunks_by_number_in_its_body() -> None:
    """fleet.py counts them before Flower puts them together: one chunk may be named a million times."""
    array = Array(dtype="uint8", shape=(3,), stype="x", data=b"abc")
    content = array.deflate()
    assert objects.get_object_type_from_object_content(content) == Array.__qualname__
    assert len(objects.get_object_children_ids_from_object_content(content)) == 1
    assert b'"arraychunk_ids": [0]' in objects.get_object_body(content, Array)


def test_a_message_is_pushed_without_its_content() -> None:
    proto = message_to_proto(remove_content_from_message(order(b"sealed" * 1000)))
    assert b"sealed" * 2 not in proto.SerializeToString()
    assert proto.metadata.dst_node_id == 2


def test_a_reply_knows_what_it_answers_and_an_error_holds_one_word() -> None:
    asked = order(b"sealed")
    reply = Message(RecordDict({"solblom": ConfigRecord({"state": "working"})}), reply_to=asked)
    assert reply.metadata.reply_to_message_id == asked.metadata.message_id == "1"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (2, 1)
    error = Message(Error(code=0, reason="SB-202"), reply_to=asked)
    assert error.has_error()
    assert not error.has_content()
    assert error.error.reason == "SB-202"
