"""The one public port: passes the Fleet calls that a hospital's node needs to the SuperLink, and nothing else.

A stock SuperLink serves its control plane on the same port as its fleet calls: whoever reaches it may
start code on every hospital (measured: facts of flwr 1.41). So it listens on loopback, and this
filter stands before it. `deploy/nginx.conf` may stand before it.

Passed: nine calls, POST only, of keys that are enrolled. What a removed hospital sends ends here.
Requests come over HTTP and go on over gRPC, where a SuperLink has less work with a model
(docs/adr/0009). Nothing of a request goes on but its body and six headers.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

FLEET_CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "pull-object",
    "push-object",
    "confirm-message-received",
    "get-run",
)
"""Not published: register-node, unregister-node (the operator enrols), get-fab (nodes fetch no code)."""
PATHS = frozenset(f"/v1/fleet/{call}" for call in FLEET_CALLS)
KEY_HEADER = "flwr-public-key"
MAX_BODY_BYTES = 16 * 1024**2  # Flower's chunks have 5 MiB
UNKNOWN_KEY = 412  # what Flower says to a key that it does not know
UNSIGNED = 401  # and to one without a signature
UPSTREAM_SECONDS = 60.0
PROTOBUF = "application/protobuf"
BINARY_HEADERS = (KEY_HEADER, "flwr-signature")
TEXT_HEADERS = (
    "flwr-timestamp",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-component-name",
)
STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.INTERNAL: 500,
}
"""What Flower says over gRPC, as it says it over HTTP; anything else is 503, and is tried again."""

Metadata = list[tuple[str, str | bytes]]
MayPass = Callable[[bytes], bool]
"""Tells whether a transport key (raw bytes as Flower sends them) belongs to an enrolled hospital."""


@dataclass(frozen=True)
class FrontSettings:
    """Where the SuperLink's gRPC door is (host:port on loopback), and the authority to believe there."""

    upstream: str
    authority: Path


def create_front(settings: FrontSettings, may_pass: MayPass) -> Starlette:
    """Return the filter as an ASGI application."""
    upstream: list[Upstream] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with _channel(settings) as channel:
            upstream.append(Upstream(channel))
            yield

    async def pass_on(request: Request) -> Response:
        if request.scope["path"] not in PATHS:  # a route's pattern lets a line feed follow
            return Response("Not Found", status_code=404, media_type="text/plain")
        if not may_pass(_key(request)):
            return Response(status_code=UNKNOWN_KEY)
        try:
            body = await _read(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return Response(status_code=413)
        metadata = _metadata(request)
        if metadata is None:
            return Response(status_code=UNSIGNED)
        # Not request.url: it is made with the Host header, which the sender chooses.
        return await upstream[0].ask(request.scope["path"], body, metadata)

    routes = [Route(path, pass_on, methods=["POST"]) for path in sorted(PATHS)]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={405: _not_found})
    app.router.redirect_slashes = False
    return app


def _channel(settings: FrontSettings) -> grpc.aio.Channel:
    """Return the connection to the SuperLink's gRPC door; it comes back by itself after a restart."""
    return grpc.aio.secure_channel(
        settings.upstream,
        grpc.ssl_channel_credentials(settings.authority.read_bytes()),
        options=(
            ("grpc.max_send_message_length", 2 * MAX_BODY_BYTES),
            ("grpc.max_receive_message_length", 2 * MAX_BODY_BYTES),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ),
    )


class Upstream:
    """The SuperLink's calls, by the path of the request that asks for them; bodies pass unread."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._calls = {
            f"/v1/fleet/{call}": channel.unary_unary(f"/flwr.proto.Fleet/{rpc_name(call)}")
            for call in FLEET_CALLS
        }

    async def ask(self, path: str, body: bytes, metadata: Metadata) -> Response:
        """Pass a call on; return the SuperLink's answer as Flower says it over HTTP, without its words."""
        try:
            answer = await self._calls[path](body, metadata=metadata, timeout=UPSTREAM_SECONDS)
        except grpc.aio.AioRpcError as error:
            return Response(status_code=STATUSES.get(error.code(), 503))
        return Response(answer, media_type=PROTOBUF)


def rpc_name(call: str) -> str:
    """Return Flower's gRPC name of a call: `push-object` is `PushObject`."""
    return "".join(word.capitalize() for word in call.split("-"))


def _not_found(request: Request, error: Exception) -> Response:
    """Say the same to a wrong method as to a wrong path."""
    return Response("Not Found", status_code=404, media_type="text/plain")


def _key(request: Request) -> bytes:
    """Return the one key that a request names; nothing where it names two: Flower might read the other."""
    values = request.headers.getlist(KEY_HEADER)
    try:
        return base64.b64decode(values[0], validate=True) if len(values) == 1 else b""
    except (binascii.Error, ValueError):
        return b""


async def _read(request: Request) -> bytes | None:
    """Return the body; None when it is larger than any call needs."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _metadata(request: Request) -> Metadata | None:
    """Return what Flower reads, under its names for gRPC; None where a value is none that Flower writes."""
    found: Metadata = []
    for raw, value in request.headers.raw:
        name = raw.decode("latin-1")
        try:
            if name in BINARY_HEADERS:
                found.append((f"{name}-bin", base64.b64decode(value, validate=True)))
            elif name in TEXT_HEADERS:
                found.append((name, value.decode("ascii")))
        except (binascii.Error, ValueError):
            return None
    return found
