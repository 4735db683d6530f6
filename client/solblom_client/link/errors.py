"""What can go wrong between a node and its coordinator, by name, with what to do about it."""

import datetime as dt
import ssl
from email.utils import parsedate_to_datetime

import httpx

from solblom_protocol.errors import SolblomError

CLOCK_SECONDS = 60
"""Flower takes a signature from 5 s ahead to 305 s late; a clock this far off is worth a word."""
# OpenSSL's X509_V_ERR numbers.
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64


class LinkError(SolblomError):
    """The network half of the node could not do its work; nothing in it comes from patient data."""


def explain(error: Exception, url: str, proxy: str | None) -> LinkError:
    """Return what an exception of httpx means to the person who runs the node."""
    if isinstance(error, LinkError):
        return error
    if isinstance(error, httpx.HTTPStatusError):
        return _status(error.response, url)
    verification = _find(error, ssl.SSLCertVerificationError)
    if isinstance(verification, ssl.SSLCertVerificationError):
        return _certificate(verification, url)
    if isinstance(error, httpx.ProxyError):
        return _proxy(error, proxy)
    if isinstance(error, httpx.TimeoutException):
        return LinkError("SB-620", f"{url} did not answer in time")
    if isinstance(error, httpx.TransportError):
        return LinkError("SB-620", f"{url} cannot be reached{_reason(error, proxy)}")
    return LinkError("SB-627", f"{url} gave an answer that is not Flower's")


def _status(response: httpx.Response, url: str) -> LinkError:
    """Explain an HTTP status."""
    code = response.status_code
    if code in (401, 403) and "html" in response.headers.get("content-type", ""):
        return LinkError(
            "SB-627", f"{url} answered with a page (status {code}): a portal or a proxy"
        )
    if code in (401, 403, 412):
        seconds = _clock_difference(response)
        if code == 401 and abs(seconds) > CLOCK_SECONDS:
            ahead = "ahead of" if seconds > 0 else "behind"
            return LinkError("SB-624", f"This clock is {abs(seconds):.0f} s {ahead} that of {url}")
        if code == 403:
            return LinkError("SB-629", f"{url} has no more use for this: the run has ended")
        return LinkError("SB-625", f"{url} does not know this node (status {code})")
    if code == 407:
        return LinkError("SB-623", "The proxy asks for a password")
    if code in (429, 500, 502, 503, 504):
        return LinkError("SB-620", f"{url} is there, but its service is not (status {code})")
    return LinkError("SB-627", f"{url} answered with status {code}: not a Solblom coordinator")


def _certificate(error: ssl.SSLCertVerificationError, url: str) -> LinkError:
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return LinkError("SB-622", f"The certificate of {url} {when}, says this machine's clock")
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        return LinkError("SB-621", f"The certificate of {url} is for another host")
    return LinkError("SB-621", f"The certificate of {url} comes from an unknown authority")


def _proxy(error: Exception, proxy: str | None) -> LinkError:
    status = str(error)[:3]  # what follows are the proxy's own words: they are not repeated
    if status == "407":
        return LinkError("SB-623", f"The proxy {_without_password(proxy)} asks for a password")
    why = f" (status {status})" if status.isdecimal() else ""
    return LinkError("SB-623", f"The proxy {_without_password(proxy)} refuses{why}")


def _reason(error: Exception, proxy: str | None) -> str:
    """Say why in the operating system's words; they hold an errno, never anything from a message."""
    cause = _find(error, OSError)
    through = f" through the proxy {_without_password(proxy)}" if proxy else ""
    return f"{through}: {cause.strerror or cause}" if isinstance(cause, OSError) else through


def _clock_difference(response: httpx.Response) -> float:
    """Return this clock minus the server's, in seconds; 0 where it does not tell."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError, TypeError):
        return 0.0
    return (dt.datetime.now(dt.UTC) - theirs).total_seconds()


def _without_password(proxy: str | None) -> str:
    """Return a proxy's address without name and password: it may be printed."""
    if proxy is None:
        return ""
    try:
        url = httpx.URL(proxy)
    except httpx.InvalidURL:
        return "in node.toml"
    return f"{url.scheme}://{url.host}{'' if url.port is None else f':{url.port}'}"


def _find(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return the first exception of a kind among an exception and what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
