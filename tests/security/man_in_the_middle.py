"""A hospital's proxy that inspects TLS, turned hostile: it reads everything and changes what it likes.

It ends TLS with a certificate that the node trusts and speaks TLS to the coordinator. Flower's node
signature covers a timestamp only, so it can pull, change, name anew and push in the node's name.
"""

import base64
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, message_pb2
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from solblom_server.transports.grids.sealed import sealed_bytes, wire_content

MEDIA = "application/protobuf"
SESSION = "in the middle"
RAW = b"raw"
"""Returned by a rewriter: flip a byte on the wire and leave the names as they are."""

Rewrite = Callable[[str, bytes], bytes]
"""(site, sealed bytes) → the bytes that travel on instead, or RAW."""


@dataclass
class _Reply:
    """A node's reply while its parts arrive."""

    site: str
    headers: dict[str, str]
    request: Any
    contents: dict[str, bytes] = field(default_factory=dict)


@dataclass
class ManInTheMiddle:
    """The proxy; `sites` tells hospitals by their transport keys (PEM)."""

    upstream: str
    authority: Path
    context: ssl.SSLContext
    sites: dict[bytes, str]
    order: Rewrite = lambda site, sealed: sealed
    reply: Rewrite = lambda site, sealed: sealed
    recorded: list[bytes] = field(default_factory=list)
    orders: list[tuple[str, bytes]] = field(default_factory=list)  # as they came, before any change
    replies: list[tuple[str, bytes]] = field(default_factory=list)
    raw_done: list[str] = field(default_factory=list)
    trouble: list[BaseException] = field(default_factory=list)
    _served: dict[str, bytes] = field(default_factory=dict)
    _original: dict[str, str] = field(default_factory=dict)  # our name of a message → Flower's
    _pending: dict[str, _Reply] = field(default_factory=dict)  # by site
    _flip_pull: set[str] = field(default_factory=set)
    _flip_push: dict[str, str] = field(default_factory=dict)  # session → site

    def __post_init__(self) -> None:
        trusted = ssl.create_default_context(cafile=self.authority)
        self._client = httpx.Client(verify=trusted, trust_env=False, timeout=30)
        middle = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, content = middle.handle(self.path, headers, body)
                self.send_response(status)
                self.send_header("content-type", MEDIA if status == 200 else "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *about: None  # type: ignore[method-assign]
        self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
        self._client.close()

    def handle(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Answer one call of a node."""
        self.recorded += [path.encode(), repr(sorted(headers.items())).encode(), body]
        site = self.sites.get(base64.b64decode(headers.get("flwr-public-key", "")), "")
        try:
            status, content = self._answer(site, path.rpartition("/")[2], headers, body)
        except BaseException as error:
            self.trouble.append(error)
            raise
        self.recorded.append(content)
        return status, content

    def _answer(
        self, site: str, call: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        if call == "push-messages":
            return self._take_reply(site, headers, body)
        if call == "push-object":
            return self._take_part(headers, body)
        if call == "pull-object":
            return self._give_part(site, headers, body)
        if call == "confirm-message-received":
            body = self._with_flowers_name(body)
        status, content = self._forward(call, headers, body)
        if call == "pull-messages" and status == 200:
            content = self._give_order(site, headers, body, content)
        return status, content

    def _forward(self, call: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        kept = {
            name: value
            for name, value in headers.items()
            if name.startswith(("flwr-", "x-flwr-")) or name in ("content-type", "accept")
        }
        url = f"{self.upstream}/v1/fleet/{call}"
        found = self._client.post(url, content=body, headers=kept)
        self.recorded += [body, found.content]
        return found.status_code, found.content

    def _give_order(self, site: str, headers: dict[str, str], body: bytes, content: bytes) -> bytes:
        """Pull an order in the node's name, and give it another one."""
        found = fleet_pb2.PullMessagesResponse.FromString(content)
        if not found.messages_list:
            return content
        node = fleet_pb2.PullMessagesRequest.FromString(body).node
        run_id, tree = found.messages_list[0].metadata.run_id, found.message_object_trees[0]
        parts = {
            item.object_id: self._pull(headers, node, run_id, item.object_id)
            for item in iterate_object_tree(tree)
        }
        message = inflate_object_from_contents(tree.object_id, parts)
        assert isinstance(message, Message)
        sealed = sealed_bytes(message.content) if message.has_content() else None
        if sealed is None:
            return content
        self.orders.append((site, sealed))
        changed = self.order(site, sealed)
        if changed == RAW:
            self._flip_pull.add(site)
            return content
        if changed == sealed:
            return content
        message.content = wire_content(changed)
        with no_object_id_recompute():
            nested = get_all_nested_objects(message)
            self._served |= {name: item.deflate() for name, item in nested.items()}
            self._original[message.object_id] = tree.object_id
            found.message_object_trees[0].CopyFrom(get_object_tree(message))
        return found.SerializeToString()

    def _pull(self, headers: dict[str, str], node: Any, run_id: int, name: str) -> bytes:
        request = message_pb2.PullObjectRequest(node=node, run_id=run_id, object_id=name)
        for _ in range(200):
            status, content = self._forward("pull-object", headers, request.SerializeToString())
            assert status == 200, status
            found = message_pb2.PullObjectResponse.FromString(content)
            if found.object_available:
                return found.object_content
            time.sleep(0.05)  # the coordinator still uploads it
        raise AssertionError("a part never came")

    def _give_part(self, site: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        name = message_pb2.PullObjectRequest.FromString(body).object_id
        if name in self._served:
            answer = message_pb2.PullObjectResponse(
                object_found=True, object_available=True, object_content=self._served[name]
            )
            return 200, answer.SerializeToString()
        status, content = self._forward("pull-object", headers, body)
        if site in self._flip_pull and status == 200:
            found = message_pb2.PullObjectResponse.FromString(content)
            found.object_content = flipped(found.object_content)
            self._flip_pull.discard(site)
            self.raw_done.append(f"order {site}")
            content = found.SerializeToString()
        return status, content

    def _with_flowers_name(self, body: bytes) -> bytes:
        request = message_pb2.ConfirmMessageReceivedRequest.FromString(body)
        ours = request.message_object_id
        request.message_object_id = self._original.get(ours, ours)
        return request.SerializeToString()

    def _take_reply(self, site: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Take a reply in as Flower would; nothing has gone on yet."""
        request = fleet_pb2.PushMessagesRequest.FromString(body)
        names = {item.object_id for item in iterate_object_tree(request.message_object_trees[0])}
        self._pending[site] = _Reply(site, headers, request)
        answer = fleet_pb2.PushMessagesResponse(
            objects_to_push=sorted(names), session_id=f"{SESSION} {site}"
        )
        return 200, answer.SerializeToString()

    def _take_part(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        part = message_pb2.PushObjectRequest.FromString(body)
        reply = self._pending[part.session_id.removeprefix(SESSION).strip()]
        reply.contents[part.object_id] = part.object_content
        tree = reply.request.message_object_trees[0]
        if {item.object_id for item in iterate_object_tree(tree)} == set(reply.contents):
            self._send_on(reply, headers)
        return 200, message_pb2.PushObjectResponse(stored=True).SerializeToString()

    def _send_on(self, reply: _Reply, headers: dict[str, str]) -> None:
        """Push a reply, changed or not, in the node's name."""
        root = reply.request.message_object_trees[0].object_id
        message = inflate_object_from_contents(root, dict(reply.contents))
        assert isinstance(message, Message)
        sealed = sealed_bytes(message.content) if message.has_content() else None
        changed = sealed
        if sealed is not None:
            self.replies.append((reply.site, sealed))
            changed = self.reply(reply.site, sealed)
            if changed != RAW and changed is not None:
                message.content = wire_content(changed)
        facts = message.metadata.__dict__
        asked = facts["_reply_to_message_id"]
        facts["_reply_to_message_id"] = self._original.get(asked, asked)
        with no_object_id_recompute():
            facts["_message_id"] = message.object_id
            parts = {n: o.deflate() for n, o in get_all_nested_objects(message).items()}
            request = fleet_pb2.PushMessagesRequest(
                node=reply.request.node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[0.0],
            )
        status, content = self._forward("push-messages", headers, request.SerializeToString())
        if status != 200:
            return  # the run has ended, say
        answer = fleet_pb2.PushMessagesResponse.FromString(content)
        for number, name in enumerate(answer.objects_to_push):
            part = message_pb2.PushObjectRequest(
                node=reply.request.node,
                run_id=message.metadata.run_id,
                session_id=answer.session_id,
                object_id=name,
                object_content=flipped(parts[name])
                if changed == RAW and number == 0
                else parts[name],
            )
            self._forward("push-object", headers, part.SerializeToString())
        if changed == RAW:
            self.raw_done.append(f"reply {reply.site}")


def flipped(data: bytes) -> bytes:
    """Return the bytes with one bit of the last byte turned."""
    return data[:-1] + bytes([data[-1] ^ 1])
