"""Who gets in, and what a page on loopback must not do for anybody else."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from solblom_protocol.errors import ConfigurationError
from solblom_server.steward.serving import PageServer
from solblom_server.steward.session import COOKIE, HEADERS
from steward.lab import MODEL, Page, scene_of, serving


@pytest.fixture
def closed(home: Path) -> Page:
    """A page that nobody has opened; it answers in this test only."""
    with serving(scene_of(home)) as running:
        yield running  # type: ignore[misc]


def test_the_token_opens_the_page_once(closed: Page) -> None:
    first = closed.ask(f"/?token={closed.token}")
    assert first.status == 303
    assert closed.ask(f"/?token={closed.token}").status == 403


def test_the_token_leaves_the_address_line(closed: Page) -> None:
    assert closed.enter().headers["location"] == "/"


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(closed: Page) -> None:
    given = closed.enter().headers["set-cookie"].lower()
    assert "httponly" in given
    assert "samesite=strict" in given
    assert closed.token.lower() not in given


def test_nothing_is_shown_without_the_cookie(page: Page) -> None:
    for path in ("/", "/log", MODEL, "/static/steward.css", "/nothing"):
        answer = page.ask(path, cookie="")
        assert answer.status == 403
        assert "heart" not in answer.body


@pytest.mark.parametrize("cookie", ["x", "", "None", "é", "\N{LATIN SMALL LETTER A}" * 43])
def test_another_cookie_opens_nothing(page: Page, cookie: str) -> None:
    sent = f"{COOKIE}={cookie}".encode().decode("latin-1")
    assert page.ask("/", cookie=sent).status == 403


def test_no_cookie_is_good_before_the_token_was_spent(closed: Page) -> None:
    assert closed.ask("/", cookie=f"{COOKIE}=None").status == 403


def test_a_wrong_token_spends_nothing(closed: Page) -> None:
    assert closed.ask("/?token=" + "x" * 43).status == 403
    assert closed.ask("/?token=%C3%A9").status == 403
    assert closed.enter().status == 303


def test_a_look_ahead_spends_nothing(closed: Page) -> None:
    """A programme that only asks for the head of every link it sees does not use the link up."""
    assert closed.ask(f"/?token={closed.token}", method="HEAD").status == 403
    assert closed.enter().status == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "[::1]", ""]
)
def test_a_name_that_was_rebound_to_loopback_gets_no_answer(page: Page, host: str) -> None:
    answer = page.ask("/", Host=host)
    assert answer.status in (400, 421)
    assert "heart" not in answer.body


def test_the_token_does_not_help_a_rebound_name(closed: Page) -> None:
    assert closed.ask(f"/?token={closed.token}", Host="evil.example").status == 421
    assert closed.enter().status == 303


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"]
)
def test_the_page_only_shows(page: Page, method: str) -> None:
    assert page.ask("/", method=method).status in (400, 405)


def test_every_answer_keeps_the_page_to_itself(page: Page) -> None:
    for path in ("/", MODEL, "/nothing", "/static/steward.css"):
        found = page.ask(path).headers
        assert {name: found[name.lower()] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert "script" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/models/../trust/v1",
        "/models/..%2f..%2fkeys/v1",
        "/models/%2e%2e/v1",
        "/models/heart-disease/v1/../../../keys",
        "/models/heart-disease-v1%2f../v1",
        "/models/heart-disease/v1%00",
        "/models/heart-disease/v01",
        "/models/heart-disease/v1/..%2f..%2f..%2ftrust.json",
        "/models/heart-disease/v1/manifest.json",
        "/static/../steward/app.py",
        "/static/%2e%2e/app.py",
        "/runs/..%2f..%2fetc%2fpasswd",
        "/studies/../../coordinator.sqlite",
        "//etc/passwd",
        "/comparisons/0",
        "/comparisons/../../etc/passwd",
        "/trust.json",
        "/coordinator.sqlite",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_path_leads_to_a_file(page: Page, path: str) -> None:
    answer = page.ask(path)
    assert answer.status in (404, 422)
    for word in ("root:", "public_key", "SQLite", "import "):
        assert word not in answer.body


def test_the_page_listens_on_loopback_only(page: Page) -> None:
    assert page.server.host == "127.0.0.1"
    with socket.socket() as elsewhere:
        # Another address of this machine: had the page listened on all, this would be taken or answered.
        elsewhere.bind(("127.0.0.2", page.server.port))
        elsewhere.listen()


def test_a_port_that_is_taken_is_said(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError) as error:
            PageServer(scene_of(home), port=taken.getsockname()[1])
    assert error.value.code == "SB-461"


def test_the_page_needs_neither_torch_nor_flower() -> None:
    look = (
        "import sys, solblom_server.steward.serving, solblom_server.steward.report, solblom_server.steward.cli;"
        "sys.exit(bool({'torch', 'flwr', 'opacus'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", look], check=False, env=dict(os.environ))
    assert done.returncode == 0


def test_the_token_stands_in_no_log(closed: Page, capfd: pytest.CaptureFixture[str]) -> None:
    closed.enter()
    closed.ask("/")
    told = capfd.readouterr()
    assert closed.token not in told.out + told.err
