"""The node's side of Flower's Fleet API: the only file of the node that touches flwr's private names.

Pinned to flwr 1.41.0; `tests/unit/client/test_fleet_contract.py` fails when one of them moves. Flower's
own connection ends the process when TLS stumbles, and its node process starts code that arrives. This
one does neither: it moves messages, and every failure is a LinkError that says what to do.

Outbound HTTPS only. What travels is sealed (privacy.md rule 11): Flower's node signature covers a
timestamp, so against a man in the middle with a trusted certificate only the seal protects.
"""

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Array, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_id,
    get_object_tree,
    get_object_type_from_object_content,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from solblom_client.link.errors import LinkError, explain
from solblom_protocol.messages.seal import MAX_SEALED_BYTES

HEARTBEAT_SECONDS = 60.0
"""How often Flower is told to expect us: it calls a node offline after twice as long without a word."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, UPLOAD_SECONDS = 0.02, 0.5, 10.0
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
MAX_OBJECTS = (
    MAX_SEALED_BYTES // 1_000_000
)  # chunks have 5 MB; a tree with more objects is no order
FRAME_BYTES = 1024 * 1024  # what Flower's records add around the sealed bytes, generously

R = TypeVar("R")


@dataclass(frozen=True)
class FleetSettings:
    """Where the coordinator answers and how to get there; `certificates`: PEM file of its authority."""

    url: str
    certificates: Path | None
    proxy: str | None
    key: EllipticCurvePrivateKey


class _VersionHeaders:
    """Tell Flower's version; flwr's own interceptor would end the process on a mismatch."""

    def __init__(self) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(self._headers)
        response = call_next(context)
        kind = response.headers.get("content-type", "").split(";")[0].strip()
        # An empty page of a portal would read as "no message" for ever.
        if response.is_success and kind != PROTOBUF_MEDIA_TYPE:
            where = context.request.url
            raise LinkError("SB-627", f"{where.host} answers with {kind[:40] or 'no content type'}")
        return response


class FleetConnection:
    """Messages of one node, over one warm HTTPS connection. Methods raise LinkError and nothing else."""

    def __init__(self, settings: FleetSettings) -> None:
        self._settings = settings
        self._public = public_key_to_bytes(settings.key.public_key())
        self._client = FleetHttpClient(
            settings.url,
            interceptors=[
                _VersionHeaders(),
                NodeAuthHttpInterceptor(settings.key, settings.key.public_key()),
            ],
            verify=True,
        )
        self._client._client.close()
        # Our own: no redirects to elsewhere, no proxy from the environment, the hospital's own authority.
        self._client._client = httpx.Client(
            verify=_tls(settings.certificates),
            proxy=settings.proxy,
            trust_env=False,
            follow_redirects=False,
            timeout=TIMEOUT,
        )
        self.node_id = 0

    def connect(self, known_id: int = 0) -> int:
        """Say that the node is there; return its id. `known_id`: from an earlier time, still online perhaps.

        A heartbeat under a known id works from any state; activation is refused while Flower still
        believes in the process that died.

        Raises:
            LinkError.
        """
        if known_id:
            self.node_id = known_id
            try:
                self.heartbeat()
            except LinkError as error:
                if error.code != "SB-625":
                    raise
            else:
                return known_id
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        self.node_id = int(self._call(self._client.ActivateNode, request).node_id)
        if self.node_id == 0:
            raise LinkError("SB-627", f"{self._settings.url} gave this node no number")
        return self.node_id

    def heartbeat(self) -> None:
        """Say that the node is still there.

        Raises:
            LinkError.
        """
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        if not self._call(self._client.SendNodeHeartbeat, request).success:
            raise LinkError("SB-625", "The coordinator does not know this node")

    def leave(self) -> None:
        """Say that the node goes away.

        Raises:
            LinkError.
        """
        self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))

    def fab_hash(self, run_id: int) -> str:
        """Return the SHA-256 of the bundle that a run names; the bundle itself is never fetched.

        Raises:
            LinkError.
        """
        request = GetRunRequest(node=self._node, run_id=run_id)
        return str(self._call(self._client.GetRun, request).run.fab_hash)

    def next_head(self) -> tuple[int, ObjectTree] | None:
        """Return (run, objects) of the next message; None when there is none. Flower gives it once only.

        Raises:
            LinkError.
        """
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        run_id = int(response.messages_list[0].metadata.run_id)
        return run_id, response.message_object_trees[0]

    def fetch(self, run_id: int, tree: ObjectTree) -> Message:
        """Return a message whose objects are named by their digests. May be repeated until `confirm`.

        Raises:
            LinkError: SB-627 the objects are too large, or not what their names say.
        """
        names = [item.object_id for item in iterate_object_tree(tree)]
        if len(names) > MAX_OBJECTS:
            raise LinkError("SB-627", f"A message has {len(names)} parts, over {MAX_OBJECTS}")
        contents: dict[str, bytes] = {}
        total = 0
        for name in names:
            if name in contents:
                continue
            content = self._pull_object(run_id, name)
            total += len(content)
            if total > MAX_SEALED_BYTES + FRAME_BYTES:
                raise LinkError("SB-627", f"A message has over {MAX_SEALED_BYTES} bytes")
            if get_object_id(content) != name:
                raise LinkError("SB-627", "A part of a message is not what its digest says")
            contents[name] = content
        try:
            _check_arrays(contents)
            message = inflate_object_from_contents(tree.object_id, contents)
        except LinkError:
            raise
        except Exception:  # whatever flwr finds wrong in bytes from outside
            raise LinkError("SB-627", "A message cannot be read") from None
        if not isinstance(message, Message):
            raise LinkError("SB-627", "What arrived is no message")
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def confirm(self, run_id: int, message: Message) -> None:
        """Say that a message arrived whole, so that Flower may forget it.

        Raises:
            LinkError.
        """
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run_id, message_object_id=message.metadata.message_id
        )
        self._call(self._client.ConfirmMessageReceived, request)

    def send(self, reply: Message, *, seconds: float) -> bool:
        """Send a reply; False when Flower had no use for it (the run ended, or it has another reply).

        Raises:
            LinkError: may be repeated with the same reply.
        """
        run_id = reply.metadata.run_id
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            tree = get_object_tree(reply)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            response = self._call(self._client.PushMessages, request)
            wanted = set(response.objects_to_push)
            # In the order in which Flower pulls them: it finds each part when it asks.
            names = dict.fromkeys(part.object_id for part in iterate_object_tree(tree))
            for name in (n for n in names if n in wanted):
                content = objects[name].deflate()
                if not self._push_object(run_id, response.session_id, name, content):
                    return False
        return bool(response.objects_to_push)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    def _pull_object(self, run_id: int, name: str) -> bytes:
        """Return a part of a message; its head may be there before it is, so look again soon."""
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=name)
        ends, pause = time.monotonic() + UPLOAD_SECONDS, FIRST_RETRY_SECONDS
        while True:
            response = self._call(self._client.PullObject, request)
            if not response.object_found:
                raise LinkError("SB-629", "A part of the message is gone")
            if response.object_available:
                return response.object_content
            if time.monotonic() > ends:
                raise LinkError("SB-620", "A part of the message is not there yet")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY_SECONDS)

    def _push_object(self, run_id: int, session: str, name: str, content: bytes) -> bool:
        request = PushObjectRequest(
            node=self._node,
            run_id=run_id,
            session_id=session,
            object_id=name,
            object_content=content,
        )
        return bool(self._call(self._client.PushObject, request).stored)

    def _call(self, method: Callable[[Any], R], request: Any) -> R:
        """Make one call.

        Raises:
            LinkError: whatever went wrong, by name.
        """
        try:
            return method(request)
        except Exception as error:
            raise explain(error, self._settings.url, self._settings.proxy) from None


def _check_arrays(contents: dict[str, bytes]) -> None:
    """Refuse arrays that are larger than what came: an array may name one chunk a million times.

    Raises:
        LinkError: SB-627.
    """
    total = 0
    for content in contents.values():
        if get_object_type_from_object_content(content) != Array.__qualname__:
            continue
        children = get_object_children_ids_from_object_content(content)
        named = json.loads(get_object_body(content, Array))["arraychunk_ids"]
        total += sum(len(contents[children[number]]) for number in named)
        if total > MAX_SEALED_BYTES + FRAME_BYTES:
            raise LinkError("SB-627", f"A message would grow over {MAX_SEALED_BYTES} bytes")


def _tls(certificates: Path | None) -> ssl.SSLContext:
    """Return a context that checks certificate and host name; TLS 1.2 at least.

    Raises:
        LinkError: SB-621.
    """
    try:
        context = ssl.create_default_context(cafile=None if certificates is None else certificates)
    except (OSError, ssl.SSLError):
        raise LinkError(
            "SB-621", f"The authority's certificates in {certificates} cannot be read"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
