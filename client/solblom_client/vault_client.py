"""The link's side of the vault's door: sealed bytes in and out, over a unix socket. Loads no torch and no data code."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from solblom_client.vault_pb2 import DescribeRequest, Description, SealedOrder, SealedReply
from solblom_protocol.errors import SolblomError

SERVICE = "solblom.vault.v1.Vault"
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own limit
MAX_PATH_BYTES = 107  # of a unix socket, by the kernel
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
SHORT_SECONDS = 5.0


class VaultUnavailableError(SolblomError):
    """The vault's process cannot be asked; nothing in it comes from patient data."""


@dataclass(frozen=True)
class VaultDescription:
    """What a vault says of itself."""

    site: str
    recipient: str
    isolation_level: str
    isolation_notes: tuple[str, ...]
    working: bool


class VaultClient:
    """Asks the vault behind a socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=(*OPTIONS, *_RECONNECT))
        self._process: Any = self._channel.unary_unary(
            f"/{SERVICE}/Process",
            request_serializer=SealedOrder.SerializeToString,
            response_deserializer=SealedReply.FromString,
        )
        self._describe: Any = self._channel.unary_unary(
            f"/{SERVICE}/Describe",
            request_serializer=DescribeRequest.SerializeToString,
            response_deserializer=Description.FromString,
        )

    def process(self, sealed: bytes) -> bytes:
        """Return the sealed reply to a sealed order; takes as long as the vault works.

        Raises:
            VaultUnavailableError: SB-611, there is no vault, or it ended while it worked.
        """
        reply: SealedReply = self._call(self._process, SealedOrder(sealed=sealed), None)
        return reply.sealed

    def describe(self) -> VaultDescription:
        """Return what the vault says of itself, also while it works.

        Raises:
            VaultUnavailableError: SB-611.
        """
        found: Description = self._call(self._describe, DescribeRequest(), SHORT_SECONDS)
        return VaultDescription(
            site=found.site,
            recipient=found.recipient,
            isolation_level=found.isolation_level,
            isolation_notes=tuple(found.isolation_notes),
            working=found.working,
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: Any, request: Any, timeout_seconds: float | None) -> Any:
        check_socket(self._socket)
        try:
            return method(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            raise VaultUnavailableError("SB-611", _why(self._socket, code)) from None


def check_socket(path: Path) -> None:
    """Refuse a path at which no vault can be.

    Raises:
        VaultUnavailableError: SB-611, with the reason.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise VaultUnavailableError("SB-611", f"There is no socket at {path}") from None
    except OSError as error:
        raise VaultUnavailableError("SB-611", f"{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise VaultUnavailableError("SB-611", f"{path} is not a socket")
    if not os.access(path, os.R_OK | os.W_OK):
        raise VaultUnavailableError(
            "SB-611",
            f"This user may not use {path}",
            "Put the link's user into the group of the vault's socket",
        )


def _why(path: Path, code: grpc.StatusCode | None) -> str:
    if code == grpc.StatusCode.UNAVAILABLE:
        return f"The vault behind {path} does not answer, or ended while it worked"
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"The message is larger than the vault behind {path} takes"
    return f"The vault behind {path} failed ({'' if code is None else code.name})"
