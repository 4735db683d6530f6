"""The registry: an artefact is there whole or not at all, and a version never changes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from solblom_protocol.errors import IntegrityError
from solblom_server.registry.registry import place
from solblom_verify.canonical import digest


def writer(manifest: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "manifest.json").write_bytes(manifest)
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"weights")
        return digest(manifest)

    return write


def entries(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir())


def test_an_artefact_stands_under_its_name_and_version(tmp_path: Path) -> None:
    path, name = place(tmp_path / "models", "asthma", 3, writer(b"{}"))
    assert (path, name) == (tmp_path / "models" / "asthma-v3", digest(b"{}"))
    assert (path / "model" / "weights").read_bytes() == b"weights"
    assert entries(tmp_path / "models") == ["asthma-v3"]


def test_the_same_artefact_placed_again_changes_nothing(tmp_path: Path) -> None:
    path, _ = place(tmp_path, "asthma", 1, writer(b"{}"))
    before = path.stat().st_ino
    assert place(tmp_path, "asthma", 1, writer(b"{}")) == (path, digest(b"{}"))
    assert path.stat().st_ino == before
    assert entries(tmp_path) == ["asthma-v1"]


def test_another_artefact_under_the_same_version_is_refused(tmp_path: Path) -> None:
    path, _ = place(tmp_path, "asthma", 1, writer(b"{}"))
    with pytest.raises(IntegrityError) as caught:
        place(tmp_path, "asthma", 1, writer(b"[]"))
    assert caught.value.code == "SB-401"
    assert (path / "manifest.json").read_bytes() == b"{}"
    assert entries(tmp_path) == ["asthma-v1"]


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def crash(folder: Path) -> str:
        (folder / "manifest.json").write_bytes(b"{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        place(tmp_path, "asthma", 1, crash)
    assert entries(tmp_path) == []
