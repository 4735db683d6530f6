"""Whatever stands between a node and its coordinator is named by its code, with what to do about it."""

import datetime as dt
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from solblom_client.link import fleet
from solblom_client.link.errors import LinkError, explain
from solblom_client.link.fleet import FleetConnection, FleetSettings
from solblom_client.link.process import check_addresses
from solblom_protocol.errors import CODES, ConfigurationError
from unit.client.bad_servers import DAY, Authority, page, serving

KEY = ec.generate_private_key(ec.SECP256R1())
PASSWORD = "correct-horse-battery"  # noqa: S105 - a proxy's, made up
FLOWERS = "application/protobuf"
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def trouble(url: str, ca_file: Path | None, *, proxy: str | None = None) -> LinkError:
    """Connect; return what the node says about it."""
    connection = FleetConnection(FleetSettings(url, ca_file, proxy, KEY))
    try:
        with pytest.raises(LinkError) as caught:
            connection.connect()
    finally:
        connection.close()
    assert PASSWORD not in f"{caught.value} {caught.value.message} {caught.value.hint}"
    return caught.value


def trouble_with(
    answer: bytes | None, authority: Authority, context: ssl.SSLContext | None = None
) -> LinkError:
    """Connect to a server with a good certificate that gives this answer."""
    with serving(answer, context or authority.context()) as server:
        return trouble(f"https://127.0.0.1:{server.port}", authority.pem)


def test_a_certificate_of_another_authority_is_named(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", name="Somebody else")
    found = trouble_with(page(200), authority, stranger.context())
    assert (found.code, "unknown authority" in found.message) == ("SB-621", True)
    assert "ca_file" in found.hint


def test_an_authority_of_the_same_name_with_another_key_is_not_believed(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger", name=authority.name)
    assert trouble_with(page(200), authority, stranger.context()).code == "SB-621"


def test_a_certificate_for_another_host_is_named(authority: Authority) -> None:
    for host in ("fl.example.no", "127.0.0.2"):
        found = trouble_with(page(200), authority, authority.context(host=host))
        assert (found.code, "another host" in found.message) == ("SB-621", True)


@pytest.mark.parametrize(
    ("begins", "ends", "word"),
    [(-3 * DAY, -DAY, "has expired"), (DAY, 3 * DAY, "is not valid yet")],
)
def test_a_certificate_out_of_its_time_points_to_the_clock(
    authority: Authority, begins: dt.timedelta, ends: dt.timedelta, word: str
) -> None:
    found = trouble_with(page(200), authority, authority.context(begins=begins, ends=ends))
    assert (found.code, word in found.message) == ("SB-622", True)
    assert "clock" in found.hint


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_an_authority_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LinkError) as caught:
        FleetConnection(FleetSettings("https://127.0.0.1:1", path, None, KEY))
    assert caught.value.code == "SB-621"
    assert str(path) in caught.value.message


@pytest.mark.parametrize(("minutes", "word"), [(-10, "behind"), (10, "ahead of")])
def test_a_clock_that_is_ten_minutes_wrong_is_named_with_the_difference(
    authority: Authority, minutes: int, word: str
) -> None:
    """Flower's 401 says nothing of the clock; the Date of the answer does. `minutes`: this clock minus theirs."""
    theirs = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes)
    answer = page(401, b'{"detail":"Invalid"}', kind="application/json", date=theirs)
    found = trouble_with(answer, authority)
    assert (found.code, f"s {word}" in found.message) == ("SB-624", True)
    seconds = int(found.message.split(" is ")[1].split(" s ")[0])
    assert 590 <= seconds <= 610
    assert "NTP" in found.hint


@pytest.mark.parametrize("date", ["no date at all", None])
def test_a_refused_key_with_a_right_clock_or_none_is_an_unknown_node(
    authority: Authority, date: str | None
) -> None:
    answer = page(401, b"{}", kind="application/json", date=dt.datetime.now(dt.UTC))
    if date is not None:
        answer = page(401, b"{}", kind="application/json").replace(
            b"connection", f"date: {date}\r\nconnection".encode()
        )
    assert trouble_with(answer, authority).code == "SB-625"


def test_a_closed_port_is_named_with_the_systems_word(authority: Authority) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: refused
        found = trouble(f"https://127.0.0.1:{held.getsockname()[1]}", authority.pem)
    assert (found.code, "refused" in found.message) == ("SB-620", True)
    assert "firewall" in found.hint


def test_an_unknown_host_is_named(authority: Authority) -> None:
    found = trouble("https://no-such-host.invalid:8443", authority.pem)
    assert (found.code, "no-such-host.invalid" in found.message) == ("SB-620", True)


def test_a_server_that_never_answers_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "TIMEOUT", httpx.Timeout(0.3))
    found = trouble_with(None, authority)
    assert (found.code, "in time" in found.message) == ("SB-620", True)


def test_a_server_without_tls_is_named(authority: Authority) -> None:
    with serving(page(200)) as server:
        assert trouble(f"https://127.0.0.1:{server.port}", authority.pem).code == "SB-620"


PORTALS = [
    pytest.param(page(200, b"<html>Welcome to the guest network</html>"), id="a page"),
    pytest.param(page(200, b""), id="an empty page"),
    pytest.param(page(200, b"", kind=None), id="nothing at all"),
    pytest.param(page(200, b"\xff\xff", kind=FLOWERS), id="bytes that are no message"),
    pytest.param(page(200, b"", kind=FLOWERS), id="an answer without a number"),
    pytest.param(page(301, location="https://portal.example/"), id="moved"),
    pytest.param(page(302, location="http://portal.example/"), id="found"),
    pytest.param(page(307, location="http://portal.example/"), id="redirected with the body"),
    pytest.param(page(401, b"<html>log in</html>", date=NOW), id="a page that wants a login"),
    pytest.param(page(403, b"<html>blocked</html>"), id="a page that forbids"),
    pytest.param(page(404, b"Not Found", kind="text/plain"), id="no such path"),
    pytest.param(page(511, b"<html>log in</html>"), id="network authentication required"),
]


@pytest.mark.parametrize("answer", PORTALS)
def test_a_captive_portal_is_not_taken_for_a_coordinator(
    answer: bytes, authority: Authority
) -> None:
    found = trouble_with(answer, authority)
    assert found.code == "SB-627"
    assert "portal" in found.hint


def test_a_redirect_is_not_followed(authority: Authority) -> None:
    """The signed headers and the sealed bytes go to the coordinator's address and nowhere else."""
    with serving(page(200, b"", kind=FLOWERS), authority.context()) as elsewhere:
        target = f"https://127.0.0.1:{elsewhere.port}/v1/fleet/activate-node"
        assert trouble_with(page(307, location=target), authority).code == "SB-627"
        assert elsewhere.requests == []


STATUSES = [
    (412, "application/json", "SB-625"),
    (403, "application/json", "SB-629"),
    (407, "text/html", "SB-623"),
    *[(status, "text/html", "SB-620") for status in (429, 500, 502, 503, 504)],
    *[(status, "text/plain", "SB-627") for status in (400, 405, 413, 418)],
]


@pytest.mark.parametrize(("status", "kind", "code"), STATUSES)
def test_every_status_has_its_code(status: int, kind: str, code: str, authority: Authority) -> None:
    found = trouble_with(page(status, b"{}", kind=kind), authority)
    assert found.code == code
    assert found.hint == CODES[code].hint != ""


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (page(407, b"<html>who are you</html>"), "asks for a password"),
        (page(403, b"<html>not allowed</html>"), "refuses (status 403)"),
        (page(502), "refuses (status 502)"),
    ],
)
def test_a_proxy_that_refuses_is_named_without_its_password(
    answer: bytes, word: str, authority: Authority
) -> None:
    answer = answer.replace(b"Some Words", f"for north:{PASSWORD}".encode())  # it knows it
    with serving(answer) as proxy:
        address = f"http://north:{PASSWORD}@127.0.0.1:{proxy.port}"
        found = trouble("https://fl.example.no:8443", authority.pem, proxy=address)
        assert proxy.requests[0].startswith(b"CONNECT fl.example.no:8443 ")
    assert (found.code, word in found.message) == ("SB-623", True)
    assert f"http://127.0.0.1:{proxy.port}" in found.message
    assert "north" not in found.message


def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(authority: Authority) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"http://north:{PASSWORD}@127.0.0.1:{held.getsockname()[1]}"
        found = trouble("https://fl.example.no:8443", authority.pem, proxy=address)
    assert (found.code, "through the proxy" in found.message) == ("SB-620", True)


def test_no_proxy_of_the_environment_is_used(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(page(407)) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert trouble_with(page(412), authority).code == "SB-625"
        assert proxy.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://fl.example.no:8443",
        "fl.example.no:8443",
        "https://",
        "https://fl.example.no:84430",
        "https://fl.example.no:port",
        "https://fl.example.no/path",
        "https://fl.example.no?x",
        "ftp://fl.example.no",
        "https://[::1",
        "",
    ],
)
def test_an_address_without_tls_or_sense_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_addresses(url, None)
    assert caught.value.code == "SB-103"
    assert "coordinator.url" in caught.value.message


@pytest.mark.parametrize(
    "proxy",
    [
        f"north:{PASSWORD}@proxy:3128",
        f"socks5://north:{PASSWORD}@proxy:1080",
        f"http://north:{PASSWORD}@proxy:99999",
        f"http://north:{PASSWORD}@",
        f"//north:{PASSWORD}@proxy",
    ],
)
def test_a_proxy_without_sense_is_refused_and_its_password_not_repeated(proxy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_addresses("https://fl.example.no:8443", proxy)
    assert caught.value.code == "SB-103"
    assert PASSWORD not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    "url", ["https://fl.example.no:8443", "https://10.0.0.1", "https://[::1]:8443/"]
)
def test_addresses_that_hospitals_write_are_taken(url: str) -> None:
    check_addresses(url, "http://north:secret@proxy.example:3128")


def test_whatever_else_goes_wrong_is_a_link_error_without_its_words() -> None:
    for error in (RuntimeError("patient-0042"), KeyError("patient-0042"), ValueError("x")):
        found = explain(error, "https://fl.example.no:8443", None)
        assert found.code == "SB-627"
        assert "patient-0042" not in found.message
