"""Claims about what a SIEM gets: RFC 5424, each decision at least once, in order, and nothing else."""

import datetime as dt
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import DecisionLog, LogPlace
from solblom_client.log.syslog import element, forward, frame, read_position, receiver
from solblom_protocol.errors import ConfigurationError, IntegrityError

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
# RFC 5424 §6: HEADER SP STRUCTURED-DATA SP MSG; a value escapes ", \ and ].
VALUE = r'"(?:[^"\\\]]|\\["\\\]])*"'
ELEMENT = rf"\[[!-~]+(?: [!-~]+?={VALUE})*\]"
FRAME = re.compile(
    rb"<(\d{1,3})>1 (\S+) (\S{1,255}) (\S{1,48}) (\S{1,128}) ([!-~]{1,32}) ((?:"
    + ELEMENT.encode()
    + rb")+) (\{.*\})"
)


@pytest.fixture
def place(tmp_path: Path) -> LogPlace:
    return LogPlace(tmp_path / "log", "north", None)


@pytest.fixture
def log(place: LogPlace) -> DecisionLog:
    return DecisionLog(place, Ed25519PrivateKey.generate())


def test_a_frame_is_what_rfc_5424_says(log: DecisionLog, place: LogPlace) -> None:
    log.append(Decision("refused", code="SB-201", outside="SB-201"), now=NOW)
    sent: list[bytes] = []
    assert forward(place, sent.append) == 1
    found = FRAME.fullmatch(sent[0])
    assert found is not None
    priority, time, host, app, process, message, data, text = found.groups()
    assert int(priority) == 13 * 8 + 4  # log audit, warning
    assert (time, host, app) == (b"2026-11-22T12:00:00Z", b"north", b"solblom")
    assert (process, message) == (b"-", b"refused")
    assert data == b'[meta sequenceId="1"][origin software="solblom"]'
    assert json.loads(text)["code"] == "SB-201"


def test_a_name_with_any_sign_stays_one_line_of_ascii(log: DecisionLog, place: LogPlace) -> None:
    log.append(Decision("manual-release", by="Åse Ødegård-O'Hara"), now=NOW)
    sent: list[bytes] = []
    forward(place, sent.append)
    assert FRAME.fullmatch(sent[0])
    assert b"\n" not in sent[0]
    assert sent[0].isascii()
    assert json.loads(sent[0][sent[0].index(b" {") :])["by"] == "Åse Ødegård-O'Hara"


@pytest.mark.parametrize(
    ("value", "written"),
    [('"', '\\"'), ("\\", "\\\\"), ("]", "\\]"), ('a"]\\b', 'a\\"\\]\\\\b'), ("[", "[")],
)
def test_a_parameter_escapes_what_rfc_5424_names(value: str, written: str) -> None:
    text = element("meta", {"x": value})
    assert text == f'[meta x="{written}"]'
    assert re.fullmatch(ELEMENT, text)


def test_a_sequence_number_starts_again_where_rfc_5424_ends_it() -> None:
    entry = json.dumps({"seq": 2**31 - 1, "time": "2026-11-22T12:00:00Z", "event": "paused"})
    assert b'sequenceId="1"' in frame(entry, "north")


def test_each_decision_is_sent_once_and_in_order(log: DecisionLog, place: LogPlace) -> None:
    sent: list[bytes] = []
    for number in range(5):
        log.append(Decision("accepted", round=number + 1), now=NOW)
    assert forward(place, sent.append) == 5
    assert forward(place, sent.append) == 0
    log.append(Decision("paused"), now=NOW)
    assert forward(place, sent.append) == 1
    numbers = [json.loads(message[message.index(b" {") :])["seq"] for message in sent]
    assert numbers == list(range(6))


def test_what_was_not_taken_is_sent_again(log: DecisionLog, place: LogPlace) -> None:
    for number in range(4):
        log.append(Decision("accepted", round=number + 1), now=NOW)
    taken: list[bytes] = []

    def fails_at_the_third(message: bytes) -> None:
        if len(taken) == 2:
            raise OSError("away")
        taken.append(message)

    with pytest.raises(OSError, match="away"):
        forward(place, fails_at_the_third)
    assert read_position(place.folder / "forwarded") == 1
    assert forward(place, taken.append) == 2


def test_a_log_shorter_than_what_was_sent_is_found(log: DecisionLog, place: LogPlace) -> None:
    log.append(Decision("paused"), now=NOW)
    (place.folder / "forwarded").write_text("7\n")
    with pytest.raises(IntegrityError) as error:
        forward(place, lambda message: None)
    assert error.value.code == "SB-406"


# --- Over real sockets


def test_a_unix_socket_gets_datagrams(log: DecisionLog, place: LogPlace, tmp_path: Path) -> None:
    path = tmp_path / "dev-log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        log.append(Decision("paused"), now=NOW)
        with receiver(f"unix:{path}") as send:
            forward(place, send)
        assert FRAME.fullmatch(server.recv(65536))


def test_udp_gets_datagrams(log: DecisionLog, place: LogPlace) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        log.append(Decision("paused"), now=NOW)
        with receiver(f"udp:127.0.0.1:{server.getsockname()[1]}") as send:
            forward(place, send)
        assert FRAME.fullmatch(server.recv(65536))


@pytest.fixture
def tcp() -> Iterator[tuple[int, list[bytes]]]:
    server = socket.create_server(("127.0.0.1", 0))
    got: list[bytes] = []

    def take() -> None:
        link, _ = server.accept()
        with link:
            while data := link.recv(65536):
                got.append(data)

    thread = threading.Thread(target=take)
    thread.start()
    yield server.getsockname()[1], got
    thread.join(10)
    server.close()


def test_tcp_says_how_long_each_message_is(
    log: DecisionLog, place: LogPlace, tcp: tuple[int, list[bytes]]
) -> None:
    port, got = tcp
    for number in range(3):
        log.append(Decision("accepted", round=number + 1), now=NOW)
    with receiver(f"tcp:127.0.0.1:{port}") as send:
        forward(place, send)
    for _ in range(100):
        if b'"round":3' in b"".join(got):
            break
        threading.Event().wait(0.05)
    stream, messages = b"".join(got), []
    while stream:
        length, _, rest = stream.partition(b" ")
        messages.append(rest[: int(length)])
        stream = rest[int(length) :]
    assert len(messages) == 3
    assert all(FRAME.fullmatch(message) for message in messages)


def test_a_receiver_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="cannot be reached"),
        receiver(f"unix:{tmp_path}/nobody"),
    ):
        pass
