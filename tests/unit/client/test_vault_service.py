"""The vault's two calls over a real socket, with a vault in place of the real one that does what a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2

from lab import LabHospital
from solblom_client.consent.sources import source_file
from solblom_client.link.vault_client import (
    MAX_ORDER_BYTES,
    SERVICE,
    VaultClient,
    VaultUnavailableError,
    address,
)
from solblom_client.service import vault_service
from solblom_client.service.isolation import Isolation
from solblom_client.service.vault_service import MOST_ORDERS, VaultService
from solblom_client.service.vault_socket import claim
from vault_process import short_folder

PLANTED = "SECRET-PATIENT-0042"
LONG_SECONDS = 60.0


@dataclass
class Door:
    """A service on a socket, and what the vault behind it does."""

    socket: Path
    service: VaultService
    checks: health.HealthServicer
    client: VaultClient
    log: Path
    answer: Callable[[bytes], bytes] = bytes
    orders: list[bytes] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    def process(self, sealed: bytes) -> bytes:
        """The vault's part: note the order, then do what the test wants."""
        self.orders.append(sealed)
        return self.answer(sealed)

    def wait_then_echo(self, sealed: bytes) -> bytes:
        assert self.go_on.wait(LONG_SECONDS)
        return sealed

    def send(self, sealed: bytes, *, client: VaultClient | None = None) -> "Sent":
        """Send an order without waiting for its answer."""
        return Sent(client or self.client, sealed)

    def raw(self, method: str, message: bytes) -> grpc.RpcError:
        """Send any bytes as a message; return the error."""
        with grpc.insecure_channel(address(self.socket)) as channel:
            call = channel.unary_unary(f"/{SERVICE}/{method}")
            with pytest.raises(grpc.RpcError) as error:
                call(message, timeout=LONG_SECONDS)
        return error.value

    def wait_for(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + LONG_SECONDS
        while not condition():
            assert time.monotonic() < ends
            time.sleep(0.01)


class Sent:
    """An order under way in a thread of its own."""

    def __init__(self, client: VaultClient, sealed: bytes) -> None:
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, args=(client, sealed))
        self._thread.start()

    def _run(self, client: VaultClient, sealed: bytes) -> None:
        try:
            self._result = client.process(sealed)
        except VaultUnavailableError as error:
            self._result = error

    def result(self) -> Any:
        self._thread.join(LONG_SECONDS)
        assert not self._thread.is_alive()
        return self._result


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    hospital = LabHospital(tmp_path / "north")
    hospital.vault.close()
    with short_folder() as folder:
        place = claim(folder / "v" / "vault.sock")
        service = VaultService(hospital.config, Isolation("seccomp", ("a note", "and another")))
        checks = health.HealthServicer()
        server = vault_service._start(service, checks, place)
        log = hospital.config.state / "log" / "vault.jsonl"
        client = VaultClient(place.path)
        door = Door(place.path, service, checks, client, log)
        service.open(door)  # type: ignore[arg-type]
        try:
            yield door
        finally:
            door.go_on.set()
            client.close()
            server.stop(0).wait(LONG_SECONDS)
            place.release()


def test_an_order_goes_to_the_vault_and_its_answer_comes_back(door: Door) -> None:
    door.answer = lambda sealed: b"answer to " + sealed
    assert door.client.process(b"order") == b"answer to order"
    assert door.orders == [b"order"]


@pytest.mark.parametrize("size", [0, 5 * 2**20, 70 * 2**20])
def test_a_large_order_and_a_large_answer_pass(door: Door, size: int) -> None:
    assert door.client.process(bytes(size)) == bytes(size)


def test_an_order_that_no_socket_carries_is_refused_before_it_is_sent(door: Door) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_ORDER_BYTES + 1

    with pytest.raises(VaultUnavailableError) as error:
        door.client.process(Huge())
    assert error.value.code == "SB-614"
    assert str(MAX_ORDER_BYTES) in error.value.message
    assert door.orders == []


def test_it_describes_itself(door: Door, tmp_path: Path) -> None:
    described = door.client.describe()
    assert (described.site, described.isolation_level) == ("north", "seccomp")
    assert described.isolation_notes == ("a note", "and another")
    assert described.recipient.startswith("sha256:")
    assert not described.working


def test_it_describes_itself_and_its_health_while_an_order_is_at_work(door: Door) -> None:
    door.answer = door.wait_then_echo
    vault_service._set_health(door.checks, health_pb2.HealthCheckResponse.SERVING)
    sent = door.send(b"slow")
    door.wait_for(lambda: bool(door.orders))
    assert door.client.describe().working
    assert door.client.ready()
    door.go_on.set()
    assert sent.result() == b"slow"
    assert not door.client.describe().working


def test_questions_are_answered_while_as_many_orders_wait_as_may(door: Door) -> None:
    door.answer = door.wait_then_echo
    sent = [door.send(bytes([number])) for number in range(MOST_ORDERS)]
    door.wait_for(lambda: not door.service._places._value)
    assert door.client.describe().working
    with pytest.raises(VaultUnavailableError, match="Too many orders"):
        door.client.process(b"one too many")
    assert len(door.orders) == 1, "one order at a time"
    door.go_on.set()
    assert sorted(s.result() for s in sent) == [bytes([n]) for n in range(MOST_ORDERS)]


def test_an_order_for_which_nobody_waits_any_more_is_not_worked_on(door: Door) -> None:
    door.answer = door.wait_then_echo
    first = door.send(b"first")
    door.wait_for(lambda: bool(door.orders))
    impatient = VaultClient(door.socket)
    second = door.send(b"second", client=impatient)
    door.wait_for(lambda: door.service._places._value == MOST_ORDERS - 2)
    impatient.close()
    assert "was closed" in second.result().message
    time.sleep(0.5)  # the server learns of it
    door.go_on.set()
    assert first.result() == b"first"
    door.wait_for(lambda: door.service._places._value == MOST_ORDERS)
    assert door.orders == [b"first"]


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt, MemoryError])
def test_no_word_of_an_exception_crosses(
    door: Door, kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    def explode(sealed: bytes) -> bytes:
        raise kind(f"row of {PLANTED}")

    door.answer = explode
    message = vault_service.vault_pb2.SealedOrder(sealed=b"order").SerializeToString()
    error: Any = door.raw("Process", message)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "")
    assert PLANTED not in repr(error) + repr(error.trailing_metadata())
    with pytest.raises(VaultUnavailableError, match="failed inside") as raised:
        door.client.process(b"order")
    assert PLANTED not in raised.value.message
    assert PLANTED not in "".join(capfd.readouterr())
    assert PLANTED in json.loads(door.log.read_text().splitlines()[0])["trace"]
    assert door.service.working_seconds is None
    door.answer = bytes
    assert door.client.process(b"next") == b"next"


@pytest.mark.parametrize("method", ["Process", "Describe"])
def test_bytes_that_are_no_message_get_a_code_and_no_word(door: Door, method: str) -> None:
    error: Any = door.raw(method, b"\xff\xff\xff")
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "")
    assert door.orders == []


def test_a_call_that_does_not_exist_gets_a_code(door: Door) -> None:
    error: Any = door.raw("Dump", b"")
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_not_even_grpc_hurt_nobody(door: Door) -> None:
    import socket

    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 10_000, b"PRI * HTTP/2.0\r\n\r\nSM"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(door.socket))
            raw.sendall(garbage)
    assert door.client.process(b"order") == b"order"


def test_no_order_is_taken_before_the_vault_is_open(door: Door) -> None:
    door.service.open(None)  # type: ignore[arg-type]
    with pytest.raises(VaultUnavailableError, match="still starting") as error:
        door.client.process(b"early")
    assert error.value.code == "SB-611"
    assert door.client.describe().site == "north"
    assert not door.client.ready()


def test_health_is_what_was_set_and_false_for_a_service_that_is_not_there(door: Door) -> None:
    assert not door.client.ready()
    vault_service._set_health(door.checks, health_pb2.HealthCheckResponse.SERVING)
    assert door.client.ready()
    door.checks.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert not door.client.ready()


def test_the_socket_is_closed_to_everybody_outside_its_group(door: Door) -> None:
    assert door.socket.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("broken", [False, True])
def test_consent_is_read_before_orders_are_taken_and_a_broken_source_stops_no_start(
    tmp_path: Path, broken: bool
) -> None:
    hospital = LabHospital(tmp_path / "north")
    hospital.vault.close()
    path = hospital.config.path(hospital.config.consent.source)
    if broken:
        path.write_text("patient", encoding="utf-8")
    source_file._last.clear()
    vault_service._open_vault(hospital.config).close()
    known = [last.data for last in source_file._last]
    assert known == ([] if broken else [path.read_bytes()])
