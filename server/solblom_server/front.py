"""The one public port: passes the Fleet calls that a hospital's node needs to the SuperLink, and nothing else.

A stock SuperLink serves its control plane on the same port as its fleet calls: whoever reaches it may
start code on every hospital (measured: facts of flwr 1.41). So it listens on loopback, and this
filter stands before it. `deploy/nginx.conf` may stand before it.

Passed: nine calls, POST only, of keys that are enrolled. What a removed hospital sends ends here.
"""

import base64
import binascii
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
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
_PASSED_IN = (b"content-type", b"accept", b"user-agent")
_PREFIXES_IN = (b"flwr-", b"x-flwr-", b"traceparent")
_PASSED_BACK = ("content-type", "flwr-version-incompatibility-message")

MayPass = Callable[[bytes], bool]
"""Tells whether a transport key (raw bytes as Flower sends them) belongs to an enrolled hospital."""


@dataclass(frozen=True)
class FrontSettings:
    """Where the SuperLink answers (on loopback), and the authority to believe there."""

    upstream: str
    authority: Path


def create_front(settings: FrontSettings, may_pass: MayPass) -> Starlette:
    """Return the filter as an ASGI application."""
    upstream: list[aiohttp.ClientSession] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with _session(settings) as session:
            upstream.append(session)
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
        try:
            # Not request.url: it is made with the Host header, which the sender chooses.
            path = request.scope["path"]
            return await _ask(upstream[0], path, body, _headers(request))
        except (TimeoutError, aiohttp.ClientError):
            return Response(status_code=503)  # the SuperLink is starting

    routes = [Route(path, pass_on, methods=["POST"]) for path in sorted(PATHS)]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={405: _not_found})
    app.router.redirect_slashes = False
    return app


def _session(settings: FrontSettings) -> aiohttp.ClientSession:
    """Return the connections to the SuperLink: no proxy, no cookies, bodies as they come.

    aiohttp and not httpx: its parser is compiled, which halves the front's work for a large model.
    """
    tls = ssl.create_default_context(cafile=settings.authority)
    return aiohttp.ClientSession(
        settings.upstream,
        connector=aiohttp.TCPConnector(ssl=tls, limit=200, keepalive_timeout=3.0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=60.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding", "User-Agent"),
        auto_decompress=False,
        trust_env=False,
    )


async def _ask(
    session: aiohttp.ClientSession, path: str, body: bytes, headers: list[tuple[str, str]]
) -> Response:
    """Pass a call on; return the SuperLink's answer.

    Raises:
        aiohttp.ClientError, asyncio.TimeoutError: it does not answer.
    """
    async with session.post(path, data=body, headers=headers, allow_redirects=False) as answer:
        content = await answer.read()
        back = {k: v for k, v in answer.headers.items() if k.lower() in _PASSED_BACK}
        return Response(content, status_code=answer.status, headers=back)


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


def _headers(request: Request) -> list[tuple[str, str]]:
    """Return what Flower reads, as it came: its own headers, and the kind of content."""
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in request.headers.raw
        if name in _PASSED_IN or name.startswith(_PREFIXES_IN)
    ]
