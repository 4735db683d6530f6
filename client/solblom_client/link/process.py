"""The link as a process: opens its few files, connects, and reports its status to a file."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from solblom_client.link.transport_key import read_transport_key
from solblom_client.policy import NodeConfig
from solblom_protocol.errors import ConfigurationError
from solblom_verify.canonical import read_file

STATUS_FILE = "status.json"
ID_FILE = "node-id"
PAUSE_FILE = "paused"
STATUS_SECONDS = 1.0
MAX_STATUS_BYTES = 64 * 1024
_SAID: dict[str, type | tuple[type, ...]] = {
    "state": str,
    "node_id": int,
    "code": str,
    "trouble": str,
    "working_on": str,
    "last_contact": (int, float),
    "orders": int,
    "replies": int,
    "pid": int,
    "written": (int, float),
}


class StatusFile:
    """Writes what the link says of itself, whole or not at all, at most once a second for the same state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: tuple[str, str | None, str | None] | None = None
        self._at = 0.0

    def __call__(self, status: Any) -> None:
        """Write a LinkStatus."""
        key = (status.state, status.code, status.working_on)
        if key == self._written and time.monotonic() - self._at < STATUS_SECONDS:
            return
        self._written, self._at = key, time.monotonic()
        with contextlib.suppress(OSError):  # a full disk must not stop the link
            data = asdict(status) | {"pid": os.getpid(), "written": time.time()}
            _replace(self._folder / STATUS_FILE, json.dumps(data))
            if status.node_id:
                _replace(self._folder / ID_FILE, str(status.node_id))


def run_link(config: NodeConfig, *, on_start: Callable[[Any], None]) -> None:
    """Connect and carry orders until the link is stopped; `on_start` is given the link.

    Raises:
        ConfigurationError: SB-628 no address; SB-103 an address that cannot be one; SB-109 no transport key.
        LinkError: SB-621, the authority's file cannot be read.
    """
    from solblom_client.link.fleet import FleetConnection, FleetSettings
    from solblom_client.link.link import Link
    from solblom_client.link.vault_client import VaultClient

    url, folder = config.coordinator.url, config.path(config.link.state)
    if url is None:
        raise ConfigurationError("SB-628", "node.toml names no coordinator.url")
    ca_file = config.coordinator.ca_file
    check_addresses(url, config.coordinator.proxy)
    settings = FleetSettings(
        url=url.rstrip("/"),
        certificates=None if ca_file is None else config.path(ca_file),
        proxy=config.coordinator.proxy,
        key=read_transport_key(config),
    )
    connection, vault = FleetConnection(settings), VaultClient(config.path(config.vault.socket))
    link = Link(
        connection,
        vault,
        known_id=_known_id(folder),
        paused=lambda: is_paused(config),
        report=StatusFile(folder),
    )
    on_start(link)
    try:
        link.run()
    finally:
        connection.close()
        vault.close()


def check_addresses(url: str, proxy: str | None) -> None:
    """Refuse addresses that httpx would take for others. What a proxy's setting holds is never repeated.

    Raises:
        ConfigurationError: SB-103.
    """
    if not _has_scheme_and_host(url, ("https",)):
        raise ConfigurationError(
            "SB-103", "coordinator.url must be https://HOST:PORT, and nothing else"
        )
    if proxy is not None and not _has_scheme_and_host(proxy, ("http", "https")):
        raise ConfigurationError(
            "SB-103", "coordinator.proxy must be http://HOST:PORT or http://NAME:PASSWORD@HOST:PORT"
        )


def _has_scheme_and_host(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        port_is_good = parts.port != 0  # raises where it is no number up to 65535
    except ValueError:
        return False
    alone = parts.path in ("", "/") and not parts.query and not parts.fragment
    return parts.scheme in schemes and bool(parts.hostname) and alone and port_is_good


def pause_file(config: NodeConfig) -> Path:
    """Return the marker that pauses this node: nothing is answered while it is there."""
    return config.path(config.link.state) / PAUSE_FILE


def is_paused(config: NodeConfig) -> bool:
    """Tell whether the hospital has paused this node.

    Raises:
        ConfigurationError: SB-103, this user cannot see it.
    """
    try:
        return pause_file(config).exists()
    except OSError as error:
        raise ConfigurationError(
            "SB-103",
            f"{pause_file(config)} cannot be looked at ({error.strerror}), so nobody knows whether the node is paused",
            "Let this user open the folder link.state of node.toml",
        ) from None


def read_status(config: NodeConfig) -> dict[str, Any]:
    """Return what the link said last; empty when it never ran, or names no state.

    The half with a network writes this file: no link is followed, a pipe not waited for, and a member of another kind,
    or with signs that would steer a terminal, is left out.
    """
    path = config.path(config.link.state) / STATUS_FILE
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_file(path, max_bytes=MAX_STATUS_BYTES))
        if isinstance(found, dict):
            said = {name: value for name, value in found.items() if _can_be_said(name, value)}
            return said if "state" in said else {}
    return {}


def _can_be_said(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, _SAID.get(name, ())):
        return False
    if isinstance(value, str):
        return value.isprintable()
    return isinstance(value, int | float) and abs(value) < 2**63  # neither infinite nor no number


def _known_id(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int((folder / ID_FILE).read_text("ascii"))
    return 0


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="ascii")
    partial.replace(path)
