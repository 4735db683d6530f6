"""The link's side of the socket: each reason why no vault answers has a name, and nothing heavy is loaded."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from solblom_client.link.vault_client import VaultClient, VaultUnavailableError
from solblom_protocol.errors import EXIT_UNREACHABLE, SolblomError
from vault_process import short_folder

NOBODY = 65534
HEAVY = ("torch", "opacus", "pandas", "numpy", "sklearn", "flwr", "solblom_models")
ASK_ALL = """
import os, sys
from pathlib import Path
from solblom_client.link.vault_client import VaultClient, VaultUnavailableError
if user := int(sys.argv[2]):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
client = VaultClient(Path(sys.argv[1]))
for call in (client.describe, lambda: client.process(b"order")):
    try:
        call()
    except VaultUnavailableError as error:
        print(error.code, error.message, "|", error.hint)
print(client.ready())
print("HEAVY", sorted(set({heavy}) & set(sys.modules)))
client.close()
"""


@pytest.fixture
def path() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "vault.sock"


def unavailable(path: Path) -> VaultUnavailableError:
    with pytest.raises(VaultUnavailableError) as error:
        VaultClient(path).describe()
    with pytest.raises(VaultUnavailableError) as again:
        VaultClient(path).process(b"order")
    assert again.value.message == error.value.message
    assert not VaultClient(path).ready()
    return error.value


def test_a_missing_socket_is_named(path: Path) -> None:
    error = unavailable(path)
    assert isinstance(error, SolblomError)
    assert (error.code, error.exit_status) == ("SB-611", EXIT_UNREACHABLE)
    assert "There is no socket" in error.message
    assert str(path) in error.message
    assert "node start" in error.hint


def test_a_missing_folder_is_named(path: Path) -> None:
    assert "There is no socket" in unavailable(path / "deeper" / "vault.sock").message


def test_a_socket_on_which_nobody_listens_is_named(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert "Nobody listens" in unavailable(path).message


def test_a_file_that_is_no_socket_is_named(path: Path) -> None:
    path.write_text("notes")
    assert "Nobody listens" in unavailable(path).message


def test_a_path_too_long_for_a_socket_is_named(path: Path) -> None:
    assert "cannot be used" in unavailable(path.with_name("x" * 120)).message


def test_a_program_that_is_no_vault_is_named(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        error = unavailable_describe(path, other)
    assert error.code == "SB-611"


def unavailable_describe(path: Path, other: socket.socket) -> VaultUnavailableError:
    """Let a program take the call and hang up."""
    import threading

    def hang_up() -> None:
        for _ in range(2):  # the look at the socket, then the call
            connection, _ = other.accept()
            connection.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    with pytest.raises(VaultUnavailableError) as error:
        VaultClient(path).describe()
    thread.join(10)
    return error.value


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
@pytest.mark.parametrize("closed", ["socket", "folder"])
def test_a_socket_that_this_user_may_not_use_is_named(path: Path, closed: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        path.parent.chmod(0o755 if closed == "socket" else 0o750)
        path.chmod(0o660 if closed == "socket" else 0o666)
        done = ask(path, user=NOBODY)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    for line in lines[:2]:
        assert line.startswith("SB-611 This user may not use the vault's socket")
        assert "group" in line.partition("|")[2]


def test_the_link_loads_nothing_that_reads_data(path: Path) -> None:
    done = ask(path)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stderr
    assert "There is no socket" in done.stdout


def ask(path: Path, *, user: int = 0) -> subprocess.CompletedProcess[str]:
    """Ask in a process of its own, as another user if wanted."""
    return subprocess.run(
        [sys.executable, "-c", ASK_ALL.format(heavy=set(HEAVY)), str(path), str(user)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_closed_client_says_so(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        client = VaultClient(path)
        client.close()
        with pytest.raises(VaultUnavailableError, match="was closed"):
            client.describe()
