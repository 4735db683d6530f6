"""The vault as a process: a gRPC server on a unix socket, and on nothing else.

It answers one order at a time and can be asked meanwhile whether it lives. What goes wrong inside is
a sealed refusal; what goes wrong with the call is a gRPC code without a word.
"""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from solblom_client.isolation import Isolation
from solblom_client.policy import NodeConfig
from solblom_client.vault import Vault
from solblom_client.vault_client import MAX_PATH_BYTES, OPTIONS, SERVICE
from solblom_client.vault_pb2 import DescribeRequest, Description, SealedOrder, SealedReply
from solblom_protocol.errors import ConfigurationError

THREADS = 4  # one for the order at work, the others for questions
STOP_SECONDS = 10.0
HUNG_STATUS = 75  # EX_TEMPFAIL: whoever supervises may start it again
_WATCH_SECONDS = 1.0


class VaultService:
    """The two calls of vault.proto."""

    def __init__(self, vault: Vault, site: str, isolation: Isolation) -> None:
        self._vault, self._site, self._isolation = vault, site, isolation
        self._order = threading.Lock()
        self.working_since: float | None = None

    def process(self, request: SealedOrder, context: grpc.ServicerContext) -> SealedReply:
        """Answer one order; another one waits."""
        with self._order:
            if not context.is_active():
                context.abort(grpc.StatusCode.CANCELLED, "")  # nobody waits for it any more
            self.working_since = time.monotonic()
            try:
                return SealedReply(sealed=self._vault.process(request.sealed))
            finally:
                self.working_since = None

    def describe(self, request: DescribeRequest, context: grpc.ServicerContext) -> Description:
        """Say what this vault is."""
        return Description(
            site=self._site,
            recipient=self._vault.recipient,
            isolation_level=self._isolation.level,
            isolation_notes=list(self._isolation.notes),
            working=self.working_since is not None,
        )

    def handler(self) -> grpc.GenericRpcHandler:
        """Return both calls as gRPC wants them."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Process": grpc.unary_unary_rpc_method_handler(
                    _wordless(self.process),
                    request_deserializer=SealedOrder.FromString,
                    response_serializer=SealedReply.SerializeToString,
                ),
                "Describe": grpc.unary_unary_rpc_method_handler(
                    _wordless(self.describe),
                    request_deserializer=DescribeRequest.FromString,
                    response_serializer=Description.SerializeToString,
                ),
            },
        )


def serve(
    config: NodeConfig,
    isolation: Isolation,
    *,
    stop: threading.Event,
    on_ready: Callable[[Path], None],
) -> None:
    """Serve until `stop`; the process ends with HUNG_STATUS when an order takes over `vault.order_minutes`.

    Raises:
        ConfigurationError: SB-610, the socket cannot be used.
    """
    path = config.path(config.vault.socket)
    _make_room(path)
    service = VaultService(Vault(config), config.node.site, isolation)
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((service.handler(),))
    checks.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    if server.add_insecure_port(f"unix:{path}") == 0:
        raise ConfigurationError("SB-610", f"{path} cannot be made a socket")
    path.chmod(0o660)
    server.start()
    warm_up()
    checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    on_ready(path)
    while not stop.wait(_WATCH_SECONDS):
        since = service.working_since
        if since is not None and time.monotonic() - since > 60 * config.vault.order_minutes:
            os._exit(HUNG_STATUS)  # threads cannot be ended; the reservation stays and is paid
    checks.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    server.stop(STOP_SECONDS).wait(STOP_SECONDS)
    path.unlink(missing_ok=True)


def warm_up() -> None:
    """Load what the first round would wait for: torch, Opacus, and torch's first optimizer step (3 s)."""
    import torch

    import solblom_client.gradients  # noqa: F401 - brings Opacus

    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.1).step()


def _wordless(call: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    """Let no exception's text reach gRPC, which would send it to the other side."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(request, context)
        except Exception:
            context.abort(grpc.StatusCode.INTERNAL, "")

    return answer


def _make_room(path: Path) -> None:
    """Make the socket's folder; take away a socket that nobody listens on.

    Raises:
        ConfigurationError: SB-610, something else is there, or another vault listens.
    """
    if len(os.fsencode(path.absolute())) > MAX_PATH_BYTES:
        raise ConfigurationError(
            "SB-610",
            f"The path of vault.socket has {len(os.fsencode(path.absolute()))} bytes; "
            f"a socket's may have {MAX_PATH_BYTES}: {path.absolute()}",
            "Give a short path in vault.socket, such as /run/solblom/vault.sock",
        )
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError("SB-610", f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise ConfigurationError(
        "SB-610", f"Another vault listens on {path}", "Stop it first; one node has one vault"
    )
