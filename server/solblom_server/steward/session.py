"""Who may see the page: whoever has the link that the terminal printed, once; then that browser.

A page on loopback is still reachable: by other people's programs on this machine, and by any web site that a browser
here has open, through forms, images, or a name that is rebound to 127.0.0.1. So a link with a token that works once, a
cookie that no other site can send along, and a Host header that must be this page's own.

Sources: OWASP Session Management Cheat Sheet; RFC 6265bis (HttpOnly, SameSite=Strict); RFC 9110 §15.5.20 (421).
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from threading import Lock

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

COOKIE = "solblom_steward"
TOKEN = "token"  # noqa: S105 - the name of the parameter

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
Next = Callable[[Request], Awaitable[Response]]


class Door:
    """Lets in one browser: the first that brings the token."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self._session: str | None = None
        self._lock = Lock()
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})

    async def guard(self, request: Request, call_next: Next) -> Response:
        """Answer a request, or refuse it; every answer carries the headers that keep a page to itself."""
        response = self._refusal(request) or self._entry(request) or await call_next(request)
        response.headers.update(HEADERS)
        return response

    def _refusal(self, request: Request) -> Response | None:
        # DNS rebinding: a foreign name that leads here carries that name in Host. Two headers are none.
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return PlainTextResponse("This page answers to its own address only.\n", 421)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse(
                "This page only shows: GET and HEAD.\n", 405, {"Allow": "GET, HEAD"}
            )
        return None

    def _entry(self, request: Request) -> Response | None:
        """Return the answer to a request that is not inside; None for one that is."""
        is_inside = self._is_inside(request.cookies.get(COOKIE, ""))
        token = request.query_params.get(TOKEN)
        if token is None:
            return None if is_inside else _closed()
        if request.url.path != "/" or request.method != "GET":
            return _closed()
        if is_inside:
            return RedirectResponse("/", 303)
        session = self._spend(token)
        if session is None:
            return _closed()
        # The token leaves the address line, and with it the browser's history.
        response = RedirectResponse("/", 303)
        # No Secure: this is plain HTTP, and nothing leaves the machine.
        response.set_cookie(COOKIE, session, path="/", httponly=True, samesite="strict")
        return response

    def _is_inside(self, cookie: str) -> bool:
        session = self._session
        return session is not None and hmac.compare_digest(cookie.encode(), session.encode())

    def _spend(self, token: str) -> str | None:
        with self._lock:
            fits = hmac.compare_digest(token.encode(), self.token.encode())
            if not fits or self._session is not None:
                return None
            self._session = secrets.token_urlsafe(32)
            return self._session


def _closed() -> Response:
    return PlainTextResponse(
        "Closed. The link in the terminal works once, in one browser; "
        "for a new one, start `solblom steward serve` again.\n",
        403,
    )
