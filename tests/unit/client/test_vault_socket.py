"""The place of the vault's socket: one vault, nobody outside its group, and nothing of others removed."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from solblom_client.service.vault_socket import MAX_PATH_BYTES, claim
from solblom_protocol.errors import ConfigurationError
from vault_process import short_folder


@pytest.fixture
def place() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "v" / "vault.sock"


def refused(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as error:
        claim(path)
    return error.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def bound(path: Path) -> socket.socket:
    """Return a socket bound to a path; nobody listens until `listen` is called."""
    path.parent.mkdir(mode=0o750, exist_ok=True)
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(path))
    return found


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_folder_is_closed_to_everybody_outside_its_group(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        claim(place).release()
    finally:
        os.umask(before)
    assert mode(place.parent) == 0o750


@pytest.mark.parametrize("wide", [0o770, 0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused_and_not_changed(
    place: Path, wide: int
) -> None:
    place.parent.mkdir()
    place.parent.chmod(wide)
    error = refused(place)
    assert (error.code, error.hint) == ("SB-610", f"chmod 750 {place.parent}")
    assert mode(place.parent) == wide


@pytest.mark.parametrize("narrow", [0o2750, 0o700, 0o755])
def test_a_folder_to_which_it_alone_writes_is_taken_as_it_is(place: Path, narrow: int) -> None:
    place.parent.mkdir()
    place.parent.chmod(narrow)
    claim(place).release()
    assert mode(place.parent) == narrow


def test_a_socket_on_which_nobody_listens_is_replaced(place: Path) -> None:
    with bound(place):
        pass
    assert place.is_socket()
    claim(place)
    assert not place.exists()


def test_a_socket_on_which_another_program_listens_stays(place: Path) -> None:
    with bound(place) as other:
        other.listen()
        error = refused(place)
        assert error.code == "SB-610"
        assert "Another program" in error.message
        assert place.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_a_socket_stays(place: Path, kind: str) -> None:
    place.parent.mkdir(mode=0o750)
    if kind == "file":
        place.write_text("a person's own notes")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("vault.other")
        with bound(place.with_name("vault.other")):
            pass
    assert "not a socket" in refused(place).message
    assert os.path.lexists(place)
    claim_again = refused(place)  # the lock was let go of: still the same reason
    assert claim_again.code == "SB-610"


def test_a_second_vault_is_refused_by_name_until_the_first_lets_go(place: Path) -> None:
    first = claim(place)
    error = refused(place)
    assert error.code == "SB-613"
    assert str(place) in error.message
    first.release()
    claim(place).release()


@pytest.mark.parametrize("letter", ["x", "ø"])
def test_a_path_of_more_than_107_bytes_is_refused(place: Path, letter: str) -> None:
    head = len(os.fsencode(place.parent)) + 1
    longest = (MAX_PATH_BYTES - head) // len(letter.encode())
    error = refused(place.with_name(letter * (longest + 1)))
    assert error.code == "SB-610"
    assert "Linux allows 107" in error.message
    claim(place.with_name(letter * longest)).release()
    assert MAX_PATH_BYTES == 107


def test_a_path_of_107_bytes_is_one_that_linux_takes(place: Path) -> None:
    longest = place.with_name("x" * (MAX_PATH_BYTES - len(os.fsencode(place.parent)) - 1))
    bound(longest).close()
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError, match="too long"):
        other.bind(f"{longest}x")


def test_a_folder_that_cannot_be_made_is_refused(place: Path) -> None:
    place.parent.write_text("a file where the folder should be")
    assert refused(place).code == "SB-610"
