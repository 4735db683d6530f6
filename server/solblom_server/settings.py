"""solblom.toml: the few settings of a coordinator."""

import socket
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.home import MARKER
from solblom_protocol.toml_file import parse, read_toml

# A host name, an IPv4 address, or an IPv6 address in brackets; then a port.
_ADDRESS = r"^([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,39}\]):[0-9]{1,5}$"
Address = Annotated[str, Field(pattern=_ADDRESS)]

EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Hosts that mean every interface, and where this machine itself finds what listens there."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FederationTable(_Table):
    """Name of the federation."""

    name: str


class NetworkTable(_Table):
    """Where hospitals reach the coordinator."""

    address: Address  # as hospitals write it: fl.example.no:8443
    listen: Address | None = None  # where the service listens; None: every interface, same port


class Settings(_Table):
    """solblom.toml, checked."""

    federation: FederationTable
    network: NetworkTable | None = None


def read_settings(home: Path) -> Settings:
    """Read a coordinator's settings.

    Raises:
        ConfigurationError: SB-101, SB-102 or SB-103.
    """
    return parse(Settings, read_toml(home / MARKER), source=MARKER)


def read_network(home: Path) -> NetworkTable:
    """Return where this coordinator answers.

    Raises:
        ConfigurationError: SB-103, it has no address.
    """
    network = read_settings(home).network
    if network is None:
        raise ConfigurationError(
            "SB-103",
            "This coordinator has no address: hospitals reach it by file only",
            "Make one that has: solblom coordinator init … --address fl.example.no:8443",
        )
    return network


def split_address(address: str) -> tuple[str, int]:
    """Return (host, port); an IPv6 host without its brackets.

    Raises:
        ConfigurationError: SB-103.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ConfigurationError("SB-103", f"{address} is not HOST:PORT with a port up to 65535")
    return host.strip("[]"), int(port)


def listens_at(network: NetworkTable) -> tuple[str, int]:
    """Return (host, port) on which the service listens; 0.0.0.0 where `listen` names none.

    Raises:
        ConfigurationError: SB-103.
    """
    if network.listen is not None:
        return split_address(network.listen)
    return "0.0.0.0", split_address(network.address)[1]  # noqa: S104 - hospitals come from anywhere


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])
