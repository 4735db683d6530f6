"""solblom.toml: where the coordinator listens."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from solblom_protocol.errors import ConfigurationError, RunError
from solblom_server.service.service import _wait_for_front
from solblom_server.settings import NetworkTable, listens_at, read_network, split_address

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (None, ("0.0.0.0", 8443)),  # noqa: S104
        ("127.0.0.1:9443", ("127.0.0.1", 9443)),
        ("[::1]:9443", ("::1", 9443)),
    ],
)
def test_the_service_listens_where_it_is_told_and_else_on_every_interface(
    listen: str | None, expected: tuple[str, int]
) -> None:
    assert listens_at(NetworkTable(address="fl.example.no:8443", listen=listen)) == expected


def test_a_port_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="70000"):
        split_address("fl.example.no:70000")


def test_a_coordinator_without_an_address_says_that_hospitals_reach_it_by_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "solblom.toml").write_text('[federation]\nname = "nordic"\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match="by file only"):
        read_network(tmp_path)


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="needs an address of loopback besides 127.0.0.1"
)
def test_a_front_on_one_interface_is_found_there() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server, subprocess.Popen(SLEEP) as front:
        began = time.monotonic()
        _wait_for_front("127.0.0.2", server.getsockname()[1], front)
        front.kill()
    assert time.monotonic() - began < 10


def test_a_front_that_ends_is_named_with_its_address() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], env=os.environ) as front:
        front.wait()
        with pytest.raises(RunError, match=r"cannot listen on 127\.0\.0\.1 port 9"):
            _wait_for_front("127.0.0.1", 9, front)
