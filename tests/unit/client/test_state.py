"""The vault's state file: made once, and read only where its layout is this version's."""

import sqlite3
from pathlib import Path

import pytest

from solblom_client.state import VaultState, create_state
from solblom_protocol.errors import IntegrityError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vault.sqlite"
    create_state(path, {})
    return path


def with_layout(file: Path, version: int) -> Path:
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version={version}")
    connection.commit()
    connection.close()
    return file


def refused(file: Path) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        VaultState(file)
    assert caught.value.code == "SB-402"
    return caught.value


def test_a_new_state_has_layout_4_and_opens(file: Path) -> None:
    VaultState(file).close()
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA user_version").fetchone() == (4,)
    connection.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_state_of_an_earlier_layout_is_refused_with_what_to_do(file: Path, version: int) -> None:
    error = refused(with_layout(file, version))
    assert (
        f"vault.sqlite has layout {version}; this version of Solblom reads layout 4"
        in error.message
    )
    assert error.hint.startswith("Keep the file")
    assert "set up the node anew" in error.hint


def test_a_state_of_a_later_layout_asks_for_the_newer_version(file: Path) -> None:
    error = refused(with_layout(file, 5))
    assert "layout 5" in error.message
    assert error.hint == "Install the newer Solblom that wrote it"


@pytest.mark.parametrize("data", [b"", b"no database", bytes(4096)])
def test_a_file_that_is_no_state_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert "layout" not in refused(file).message
