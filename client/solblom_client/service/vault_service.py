"""The vault as a process: a gRPC server on a unix socket, and on nothing else.

Orders are worked on one at a time; Describe and the health service answer meanwhile. What goes wrong
about an order is a sealed refusal, made by the vault. What goes wrong with a call is a gRPC code and
no text, because gRPC would carry an exception's text, and with it patients, to the other side.

Torch, Opacus and the vault are imported while the server already says NOT_SERVING: a process that is
to be cut off (service/isolation.py) must have been so before.
"""

import contextlib
import datetime as dt
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from solblom_client.keys import read_node_keys
from solblom_client.link.vault_client import OPTIONS, SERVICE, address
from solblom_client.policy import NodeConfig
from solblom_client.service import vault_pb2
from solblom_client.service.isolation import Isolation
from solblom_client.service.pausing import end_when_paused
from solblom_client.service.vault_socket import SOCKET_MODE, SocketPlace
from solblom_client.site_log import SiteLog
from solblom_client.state import hold_writes
from solblom_protocol.errors import ConfigurationError, SolblomError
from solblom_protocol.messages.seal import sealing_key_id

if TYPE_CHECKING:
    from solblom_client.vault import Vault

MOST_ORDERS = 4
"""One at work and those that wait for it; a link sends one at a time, so more is somebody's mistake."""
THREADS = MOST_ORDERS + 4  # the rest answer questions
STOP_SECONDS = 4.0
PERMITS_SECONDS = 600.0
"""How long an order at work may still take once the process is asked to stop."""
HUNG_STATUS = 75  # EX_TEMPFAIL: whoever supervises starts the process again
OUTDATED_STATUS = HUNG_STATUS  # node.toml has changed: it is opened anew
LOOK_SECONDS = 1.0
FALLBACK_SECONDS = 30.0
"""After this much more, a task that lets no other thread run is ended by a thread outside Python."""
_Serving = health_pb2.HealthCheckResponse


class VaultService:
    """The two calls of vault.proto. Until `open`, it takes no orders."""

    def __init__(self, config: NodeConfig, isolation: Isolation) -> None:
        self._config, self._isolation = config, isolation
        self._recipient = sealing_key_id(read_node_keys(config.state).sealing.public_key())
        self._log = SiteLog(config.state / "log" / "vault.jsonl")
        self._vault: Vault | None = None
        self._places = threading.BoundedSemaphore(MOST_ORDERS)
        self._order = threading.Lock()
        self._since: float | None = None

    @property
    def working_seconds(self) -> float | None:
        """How long the present order has been at work; None where there is none."""
        since = self._since
        return None if since is None else time.monotonic() - since

    def is_at_work(self) -> bool:
        """Tell whether an order is at work."""
        return self._since is not None

    def open(self, vault: "Vault") -> None:
        """Take orders from now on."""
        self._vault = vault

    def process(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one order; others wait until it is done."""
        if self._vault is None:
            raise _CallError(grpc.StatusCode.FAILED_PRECONDITION)
        with self._place(), self._order:
            if not context.is_active():
                raise _CallError(grpc.StatusCode.CANCELLED)  # nobody waits for it any more
            with self._at_work():
                sealed = vault_pb2.SealedOrder.FromString(message).sealed
                reply = self._vault.process(sealed)
        return bytes(vault_pb2.SealedReply(sealed=reply).SerializeToString())

    def describe(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        """Say what this vault is."""
        vault_pb2.DescribeRequest.FromString(message)
        described = vault_pb2.Description(
            site=self._config.node.site,
            recipient=self._recipient,
            isolation_level=self._isolation.level,
            isolation_notes=list(self._isolation.notes),
            working=self._since is not None,
        )
        return bytes(described.SerializeToString())

    def handler(self) -> grpc.GenericRpcHandler:
        """Return both calls as gRPC wants them: bytes in, bytes out, so that nothing is read outside `_answer`."""
        calls = {"Process": self.process, "Describe": self.describe}
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._wordless(call))
            for name, call in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def end_when_hung(self, stop: threading.Event) -> None:
        """End the process when an order is at work for longer than `vault.order_minutes`.

        A thread that hangs cannot be ended. The reservation stays, so nothing is spent unnoticed.
        """
        limit_seconds = 60 * self._config.vault.order_minutes
        while not stop.wait(min(1.0, limit_seconds / 10)):
            seconds = self.working_seconds
            if seconds is not None and seconds > limit_seconds:
                with contextlib.suppress(Exception):
                    self._log.write("order-hung", now=_now(), seconds=round(seconds))
                with contextlib.suppress(Exception):  # it ends either way; the charge stays
                    if self._vault is not None:
                        self._vault.give_up()
                os._exit(HUNG_STATUS)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise _CallError(grpc.StatusCode.RESOURCE_EXHAUSTED)
        try:
            yield
        finally:
            self._places.release()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Note since when an order is at work, and arm the second watchdog, which needs no lock of Python's."""
        limit_seconds = 60 * self._config.vault.order_minutes + FALLBACK_SECONDS
        faulthandler.dump_traceback_later(limit_seconds, exit=True, file=2)
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            faulthandler.cancel_dump_traceback_later()

    def _wordless(
        self, call: Callable[[bytes, grpc.ServicerContext], bytes]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return call(message, context)
            except _CallError as error:
                code = error.code
            except DecodeError:
                code = grpc.StatusCode.INVALID_ARGUMENT
            except BaseException as error:
                self._note(error)
                code = grpc.StatusCode.INTERNAL
            context.abort(code, "")
            return b""  # not reached: abort raises

        return answer

    def _note(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            self._log.write_failure("call failed", error, now=_now(), known_sender=False)


class _CallError(Exception):
    """A call cannot be answered; only the code leaves."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


def serve(
    config: NodeConfig,
    isolation: Isolation,
    place: SocketPlace,
    *,
    stop: threading.Event,
    on_ready: Callable[[], None],
) -> None:
    """Answer calls until `stop` is set; `on_ready` is called once orders are taken.

    Raises:
        SystemExit: OUTDATED_STATUS, the hospital has changed its rules.
        ConfigurationError: SB-109 no keys; SB-610 the socket cannot be made.
        IntegrityError: SB-402 the ledger, or SB-406 the log cannot be trusted.
    """
    service, checks, status = VaultService(config, isolation), health.HealthServicer(), 0
    server = _start(service, checks, place)
    ended = threading.Event()
    watchdog = threading.Thread(target=service.end_when_hung, args=(ended,), daemon=True)
    watchdog.start()
    at_work = service.is_at_work
    threading.Thread(target=end_when_paused, args=(config, at_work, ended), daemon=True).start()
    try:
        vault = _open_vault(config)
        vault.end_permits()
        service.open(vault)
        threading.Thread(target=_end_permits, args=(vault, ended), daemon=True).start()
        _set_health(checks, _Serving.SERVING)
        on_ready()
        while not stop.wait(LOOK_SECONDS):
            if not service.is_at_work() and vault.rules.others_are_ready:
                status = OUTDATED_STATUS
                break
    finally:
        _set_health(checks, _Serving.NOT_SERVING)
        server.stop(STOP_SECONDS).wait(STOP_SECONDS + 1)
        ended.set()
        place.release()
    if service.working_seconds is not None:
        # What is being written is finished; the rest of the order is worked on when it comes again.
        from solblom_client.budget.ledger import STATE_FILE

        hold_writes(config.state / STATE_FILE, seconds=STOP_SECONDS)
        os._exit(status)
    vault.close()
    if status:
        raise SystemExit(status)


def _start(service: VaultService, checks: health.HealthServicer, place: SocketPlace) -> grpc.Server:
    """Return a server that answers questions, and is not ready for orders yet."""
    server = grpc.server(ThreadPoolExecutor(THREADS, "call"), options=OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((service.handler(),))
    _set_health(checks, _Serving.NOT_SERVING)
    before = os.umask(0o777 & ~SOCKET_MODE)  # from its first moment the socket is closed to others
    try:
        server.add_insecure_port(address(place.path))
    except RuntimeError:
        raise ConfigurationError("SB-610", f"{place.path} cannot be made a socket") from None
    finally:
        os.umask(before)
    server.start()
    return server


def _end_permits(vault: "Vault", ended: threading.Event) -> None:
    """Wipe noise roots when their permits end, orders or none (privacy.md rule 12)."""
    while not ended.wait(PERMITS_SECONDS):
        with contextlib.suppress(SolblomError):  # the next order, or hour, meets the same trouble
            vault.end_permits()


def _set_health(checks: health.HealthServicer, status: Any) -> None:
    """Set the health of the whole process (the empty name) and of the one service."""
    for name in ("", SERVICE):
        checks.set(name, status)


def _open_vault(config: NodeConfig) -> "Vault":
    """Load what the first round would wait for, then open the vault.

    Torch loads its compiler at the first step of the first optimiser, which takes seconds. So does the first look at
    a large source of consent; later ones cost what changed since.

    Raises:
        ConfigurationError, IntegrityError: the vault cannot be opened.
    """
    import torch

    from solblom_client.cohorts.cohort import read_consent_now
    from solblom_client.vault import Vault

    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    optimizer.step()
    optimizer.zero_grad()
    vault = Vault(config)
    with contextlib.suppress(
        SolblomError
    ):  # a source that stops the rounds does not stop the vault
        read_consent_now(config, now=_now())
    return vault


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
