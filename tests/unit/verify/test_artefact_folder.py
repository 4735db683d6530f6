"""What lies in an artefact's folder: every name, link and file that does not belong is found."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from solblom_verify import folder as folder_module
from unit.verify.verdicts import ATTESTATION, fails


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", ".git/x", "model/model.onnx", "log/a b"])
def test_an_added_file_is_named(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).parent.mkdir(exist_ok=True)
    (artefact / name).write_bytes(b"")
    fails(builder.verify(artefact), "files", f"extra file: {name}")


def test_many_added_files_are_counted(builder: Any, artefact: Path) -> None:
    for number in range(5):
        (artefact / f"{number}.txt").write_bytes(b"")
    fails(builder.verify(artefact), "files", "extra file: 0.txt, 1.txt, 2.txt and 2 more")


@pytest.mark.parametrize("name", ["log", ".git", "model/deep/deeper"])
def test_an_empty_folder_is_named(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).mkdir(parents=True)
    fails(builder.verify(artefact), "folder", f"empty folder: {name}/")


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "model/weights.safetensors"])
def test_a_removed_file_is_named(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).unlink()
    fails(builder.verify(artefact), "files", f"missing file: {name}")


def test_a_removed_envelope_is_found(builder: Any, artefact: Path) -> None:
    (artefact / ATTESTATION).rename(artefact / "attestations/other.json")
    fails(builder.verify(artefact), "envelope", "No such file")


def test_a_renamed_file_is_found(builder: Any, artefact: Path) -> None:
    (artefact / "README.md").rename(artefact / "readme.md")
    fails(builder.verify(artefact), "files", "extra file: readme.md")


@pytest.mark.parametrize("name", ["README.md", ATTESTATION, "model", "training/receipts"])
def test_a_symbolic_link_to_the_same_content_is_refused(
    builder: Any, artefact: Path, tmp_path: Path, name: str
) -> None:
    shutil.move(artefact / name, tmp_path / "elsewhere")
    (artefact / name).symlink_to(tmp_path / "elsewhere")
    fails(builder.verify(artefact), "folder", f"symbolic link: {name}")


def test_a_broken_symbolic_link_is_refused(builder: Any, artefact: Path) -> None:
    (artefact / "link").symlink_to("nowhere")
    fails(builder.verify(artefact), "folder", "symbolic link: link")


def test_an_artefact_that_is_a_symbolic_link_itself_is_refused(
    builder: Any, artefact: Path
) -> None:
    link = artefact.with_name("latest")
    link.symlink_to(artefact)
    fails(builder.verify(link), "folder", "the artefact is a symbolic link")


def test_a_pipe_and_a_socket_are_refused(builder: Any, artefact: Path) -> None:
    os.mkfifo(artefact / "pipe")
    fails(builder.verify(artefact), "folder", "neither file nor folder: pipe")
    (artefact / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(artefact / "s"))
        fails(builder.verify(artefact), "folder", "neither file nor folder: s")


@pytest.mark.parametrize("name", ["a\\b", "tab\t", "new\nline", "\x1b[2J", "æ", "\x7f"])
def test_a_name_that_is_not_plain_ascii_is_refused(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).write_bytes(b"")
    builder.seal(artefact)  # even when it is signed
    verdict = builder.verify(artefact)
    fails(verdict, "folder", "not printable ASCII")
    assert verdict.checks[0].reason.isprintable()


def test_a_name_that_is_no_text_is_refused(builder: Any, artefact: Path) -> None:
    Path(os.fsdecode(os.fsencode(artefact) + b"/\xff")).write_bytes(b"")
    fails(builder.verify(artefact), "folder", "not printable ASCII")


def test_a_folder_with_too_many_entries_is_refused(
    builder: Any, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = len(list(artefact.rglob("*")))
    monkeypatch.setattr(folder_module, "_MAX_ENTRIES", entries)
    assert builder.verify(artefact).ok
    monkeypatch.setattr(folder_module, "_MAX_ENTRIES", entries - 1)
    fails(builder.verify(artefact), "folder", f"more than {entries - 1} files and folders")


def test_a_folder_too_deep_to_walk_is_refused(builder: Any, artefact: Path) -> None:
    here = os.open(artefact, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    verdict = builder.verify(artefact)
    subprocess.run(["rm", "-rf", artefact], check=True)  # shutil.rmtree recurses too deep
    fails(verdict, "folder", "could not be checked (RecursionError)")


def test_a_missing_or_empty_folder_is_a_failed_check(builder: Any, tmp_path: Path) -> None:
    builder.write_trust(tmp_path / "trust.json")
    (tmp_path / "models/empty").mkdir(parents=True)
    fails(builder.verify(tmp_path / "models/none"), "folder", "No such file")
    fails(builder.verify(tmp_path / "models/empty"), "folder", "empty folder: .")


def test_what_was_not_reached_is_not_passed_and_not_named(builder: Any, artefact: Path) -> None:
    (artefact / "link").symlink_to("nowhere")
    verdict = builder.verify(artefact)
    assert [check.ok for check in verdict.checks] == [False] * 14
    assert all(check.reason.startswith("not reached") for check in verdict.checks[1:])
    assert (verdict.artefact, verdict.name, verdict.version) == (None, None, None)
    assert verdict.signers == ()
