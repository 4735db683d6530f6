"""The link's side of the vault's socket: sealed bytes in, sealed bytes out. Loads neither torch nor data code.

What goes wrong is said from here, by looking at the socket: the vault's process sends a code and no text.
"""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from grpc_health.v1 import health_pb2

from solblom_client.service import vault_pb2
from solblom_protocol.errors import SolblomError
from solblom_protocol.messages.seal import MAX_SEALED_BYTES

SERVICE = "solblom.vault.v1.Vault"
HEALTH = "grpc.health.v1.Health"
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own limit
MAX_ORDER_BYTES = min(MAX_SEALED_BYTES, MAX_MESSAGE_BYTES - 16)  # 16: protobuf's tag and length
SHORT_SECONDS = 5.0
"""How long a question may take that the vault answers also while it works."""
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_OWN_CONNECTION = (
    ("grpc.use_local_subchannel_pool", 1),  # no waiting because of an earlier vault's end
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)

Call = Callable[[bytes, float | None], bytes]


class VaultUnavailableError(SolblomError):
    """The vault's process cannot be asked; nothing in it comes from patient data."""


@dataclass(frozen=True)
class Description:
    """What a vault's process says of itself.

    Attributes:
        site: the hospital's name in the federation.
        recipient: identity of the key to which orders are sealed.
        isolation_level: how far the process is cut off, as it measured: network-namespace+seccomp,
            network-namespace, seccomp or none.
        isolation_notes: what hospital IT should know about that, in words.
        working: an order is at work.
    """

    site: str
    recipient: str
    isolation_level: str
    isolation_notes: tuple[str, ...]
    working: bool


class VaultClient:
    """Asks the vault behind a socket. May be used by several threads; holds no connection in between."""

    def __init__(self, socket: Path) -> None:
        self._path = socket.absolute()
        self._lock = threading.Lock()
        self._open: set[grpc.Channel] = set()
        self._closed = False

    def process(self, sealed: bytes) -> bytes:
        """Return the sealed reply to a sealed order; takes as long as the vault works.

        Raises:
            VaultUnavailableError: SB-611, no vault answers, or it ended at work; SB-614, too large.
        """
        if len(sealed) > MAX_ORDER_BYTES:
            raise VaultUnavailableError(
                "SB-614", f"The order has {len(sealed)} bytes; a socket carries {MAX_ORDER_BYTES}"
            )
        order = vault_pb2.SealedOrder(sealed=sealed).SerializeToString()
        reply = self._call(f"/{SERVICE}/Process", order, seconds=None)
        answer: vault_pb2.SealedReply = vault_pb2.SealedReply.FromString(reply)
        return answer.sealed

    def describe(self) -> Description:
        """Return what the vault says of itself, also while it works.

        Raises:
            VaultUnavailableError: SB-611.
        """
        found = vault_pb2.Description.FromString(
            self._call(f"/{SERVICE}/Describe", b"", seconds=SHORT_SECONDS)
        )
        return Description(
            site=found.site,
            recipient=found.recipient,
            isolation_level=found.isolation_level,
            isolation_notes=tuple(found.isolation_notes),
            working=found.working,
        )

    def ready(self) -> bool:
        """Tell whether the vault takes orders: it is there, and neither starting nor stopping."""
        question = health_pb2.HealthCheckRequest(service=SERVICE).SerializeToString()
        try:
            answer = self._call(f"/{HEALTH}/Check", question, seconds=SHORT_SECONDS)
        except VaultUnavailableError:
            return False
        status: int = health_pb2.HealthCheckResponse.FromString(answer).status
        return status == int(health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Let go of calls that are waiting; there are none afterwards."""
        with self._lock:
            self._closed, channels = True, tuple(self._open)
        for channel in channels:
            channel.close()

    def _call(self, method: str, message: bytes, *, seconds: float | None) -> bytes:
        """Call over a connection of its own: about a millisecond, and never in an old one's state."""
        reach(self._path)
        channel = grpc.insecure_channel(address(self._path), options=(*OPTIONS, *_OWN_CONNECTION))
        with self._lock:
            if self._closed:
                raise VaultUnavailableError("SB-611", _CLOSED)
            self._open.add(channel)
        try:
            reply: bytes = channel.unary_unary(method)(message, timeout=seconds)
        except grpc.RpcError as error:
            raise self._explain(error, method) from None
        except ValueError:  # closed by another thread before the call began
            raise VaultUnavailableError("SB-611", _CLOSED) from None
        finally:
            with self._lock:
                self._open.discard(channel)
            channel.close()
        return reply

    def _explain(self, error: Any, method: str) -> VaultUnavailableError:
        """Say what a code of gRPC means here; the text beside it is gRPC's own and is left out."""
        code, working = error.code(), method.endswith("/Process")
        messages = {
            grpc.StatusCode.UNAVAILABLE: (
                "The vault ended while it worked on the order"
                if working
                else f"The vault behind {self._path} ended before it answered"
            ),
            grpc.StatusCode.FAILED_PRECONDITION: f"The vault behind {self._path} is still starting",
            grpc.StatusCode.DEADLINE_EXCEEDED: f"The vault behind {self._path} says nothing for "
            f"{SHORT_SECONDS:.0f} s",
            grpc.StatusCode.CANCELLED: _CLOSED,
            grpc.StatusCode.RESOURCE_EXHAUSTED: f"Too many orders, or too large a message, wait at {self._path}",
        }
        message = messages.get(code, f"The vault behind {self._path} failed inside ({code.name})")
        return VaultUnavailableError("SB-611", message, _HINTS.get(code))


_CLOSED = "This connection to the vault was closed"
_HINTS = {
    grpc.StatusCode.UNAVAILABLE: "Wait until it runs again: the same order then gets its answer, and is charged once",
    grpc.StatusCode.FAILED_PRECONDITION: "Wait some seconds: it loads its libraries",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Wait until the orders at work are answered",
}


def address(path: Path) -> str:
    """Return gRPC's name for a unix socket, whatever letters its path has."""
    return f"unix:{quote(str(path))}"


def reach(path: Path) -> None:
    """Check that somebody listens at a socket, and say exactly why not.

    Raises:
        VaultUnavailableError: SB-611.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(SHORT_SECONDS)
            probe.connect(str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise VaultUnavailableError(
            "SB-611", f"There is no socket at {path}: the vault does not run"
        ) from None
    except PermissionError:
        raise VaultUnavailableError(
            "SB-611",
            f"This user may not use the vault's socket {path}",
            "Put the user into the group that owns the socket and its folder",
        ) from None
    except ConnectionRefusedError:
        raise VaultUnavailableError(
            "SB-611", f"Nobody listens at {path}: the vault has ended, or it is no socket"
        ) from None
    except OSError as error:
        raise VaultUnavailableError(
            "SB-611", f"The vault's socket {path} cannot be used: {error.strerror or error}"
        ) from None
