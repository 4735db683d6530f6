"""Real small servers on loopback that answer wrongly: what may stand between a hospital and its coordinator."""

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import format_datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """A certificate authority of the test; `pem` is what a node is told to trust."""

    folder: Path
    name: str = "Test authority"
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        subject = _name(self.name)
        now = dt.datetime.now(dt.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 1000 * DAY)
            .not_valid_after(now + 1000 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, SHA256())
        )
        self.pem = self.folder / "authority.pem"
        self.pem.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def context(
        self,
        *,
        host: str = "127.0.0.1",
        begins: dt.timedelta = -DAY,
        ends: dt.timedelta = DAY,
    ) -> ssl.SSLContext:
        """Return a server's TLS context with a certificate for `host`, valid from and until (from now)."""
        key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(host))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.SubjectAlternativeName([_host(host)]), critical=False)
            .sign(self.key, SHA256())
        )
        path = self.folder / f"server-{certificate.serial_number}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def page(
    status: int,
    body: bytes = b"",
    *,
    kind: str | None = "text/html",
    date: dt.datetime | None = None,
    location: str | None = None,
) -> bytes:
    """Return an HTTP answer as bytes."""
    lines = [f"HTTP/1.1 {status} Some Words", f"content-length: {len(body)}", "connection: close"]
    if kind is not None:
        lines.append(f"content-type: {kind}")
    if date is not None:
        lines.append(f"date: {format_datetime(date.astimezone(dt.UTC), usegmt=True)}")
    if location is not None:
        lines.append(f"location: {location}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class BadServer:
    """Answers every request with the same bytes; `answer` None: never answers."""

    answer: bytes | None
    context: ssl.SSLContext | None = None
    requests: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            with taken, contextlib.suppress(OSError):
                taken.settimeout(5)
                self._answer(taken)

    def _answer(self, taken: socket.socket) -> None:
        line = (
            taken
            if self.context is None
            else self.context.wrap_socket(taken, server_side=True, suppress_ragged_eofs=True)
        )
        with line:
            self.requests.append(_read_request(line))
            if self.answer is None:
                self._over.wait(5)
                return
            line.sendall(self.answer)


def _read_request(line: socket.socket) -> bytes:
    """Return one request whole; a server that closes with bytes unread would reset the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = line.recv(1 << 16)
        data += more
        if not more or data.startswith(b"\x16"):  # nothing, or TLS where none is spoken
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for text in head.split(b"\r\n")[1:]:
        name, _, value = text.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += line.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def serving(answer: bytes | None, context: ssl.SSLContext | None = None) -> Iterator[BadServer]:
    server = BadServer(answer, context)
    try:
        yield server
    finally:
        server.close()
