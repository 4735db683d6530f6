"""The log of decisions for a site's SIEM: RFC 5424 messages, one a decision, sent at least once.

Runs in a process of its own, with the vault's user: the vault itself has no network. What was sent is
remembered as a sequence number beside the log; after a crash the newest messages may come twice, and
`sequenceId` tells. UDP loses messages without a word: prefer `unix:/dev/log`, or TCP.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solblom_client.log.decision_log import LogPlace, read_entries
from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import ConfigurationError, IntegrityError

POSITION_FILE = "forwarded"
AUDIT = 13  # facility "log audit" (RFC 5424 §6.2.1)
NOTICE, WARNING = 5, 4
WARNED_OF = frozenset(
    {
        "refused",
        "manual-reject",
        "revoked",
        "ended",
        "clock-accepted",
        "log-accepted",
        "pruned",
    }
)
SEND_SECONDS = 10.0
MOST_SEQUENCE = 2**31 - 1  # RFC 5424 §7.3.1

Send = Callable[[bytes], None]


def frame(entry: str, site: str) -> bytes:
    """Return one entry as an RFC 5424 message: header, two registered elements, and the entry as JSON in ASCII."""
    members: dict[str, Any] = json.loads(entry)
    severity = WARNING if members["event"] in WARNED_OF else NOTICE
    header = f"<{AUDIT * 8 + severity}>1 {members['time']} {site} solblom - {members['event']}"
    sequence = members["seq"] % MOST_SEQUENCE + 1
    about = element("meta", {"sequenceId": str(sequence)})
    about += element("origin", {"software": "solblom"})
    text = json.dumps(members, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"{header} {about} {text}".encode("ascii")


def element(name: str, parameters: dict[str, str]) -> str:
    """Return structured data; a quote, a backslash and a closing bracket are escaped (RFC 5424 §6.3.3)."""
    inside = "".join(f' {key}="{_escaped(value)}"' for key, value in parameters.items())
    return f"[{name}{inside}]"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def forward(place: LogPlace, send: Send) -> int:
    """Send what was not sent yet, in order; return how many. Remembered after each: a crash repeats at most one.

    Raises:
        OSError: the receiver does not take it.
        IntegrityError: SB-406, the log is shorter than what was sent.
    """
    path = place.folder / POSITION_FILE
    sent = read_position(path)
    newest = read_entries(place, last=1)
    if sent >= 0 and (not newest or json.loads(newest[0])["seq"] < sent):
        raise IntegrityError("SB-406", f"Entry {sent} was sent, and the log has it no more")
    count = 0
    for entry in read_entries(place, after=sent):
        send(frame(entry, place.site))
        write_whole(path, f"{json.loads(entry)['seq']}\n".encode())
        count += 1
    return count


def read_position(path: Path) -> int:
    """Return the number of the newest entry that was sent; -1 for none.

    Raises:
        IntegrityError: SB-406, the file is not a number.
    """
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        return -1
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text.isdigit():
        raise IntegrityError("SB-406", f"{path.name} does not say what was sent")
    return int(text)


@contextmanager
def receiver(address: str) -> Iterator[Send]:
    """Open `unix:PATH`, `udp:HOST:PORT` or `tcp:HOST:PORT`, and give what sends one message.

    Raises:
        ConfigurationError: SB-103, nobody is there.
    """
    kind, _, rest = address.partition(":")
    try:
        link, counts = _connected(kind, rest)
    except OSError as error:
        raise ConfigurationError(
            "SB-103", f"log.syslog: {address} cannot be reached ({error.strerror or error})"
        ) from None

    def send(message: bytes) -> None:
        # A stream needs to say where a message ends: octet counting (RFC 6587 §3.4.1).
        link.sendall(f"{len(message)} ".encode() + message if counts else message)

    with link:
        yield send


def _connected(kind: str, rest: str) -> tuple[socket.socket, bool]:
    """Return a connected socket, and whether it is a stream."""
    if kind == "unix":
        return _datagrams(socket.AF_UNIX, rest), False
    host, _, port = rest.rpartition(":")
    if kind == "tcp":
        return socket.create_connection((host, int(port)), timeout=SEND_SECONDS), True
    family, *_, target = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    return _datagrams(family, target), False


def _datagrams(family: int, target: Any) -> socket.socket:
    link = socket.socket(family, socket.SOCK_DGRAM)
    try:
        link.settimeout(SEND_SECONDS)
        link.connect(target)
    except BaseException:
        link.close()
        raise
    return link
