"""A hostile courier's folder, and a wheel that lies about itself."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundle_lab import NOW, SOURCE, LabBundle
from solblom_protocol.errors import ConfigurationError
from solblom_server.offline.building import describe


@pytest.fixture
def bundle(tmp_path: Path) -> LabBundle:
    return LabBundle.make(tmp_path / "bundle")


def script(bundle: LabBundle) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", "-S", str(bundle.folder / "check_bundle.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=bundle.folder,
        timeout=20,
    )


@pytest.mark.parametrize(
    "name", ["SHA256SUMS", "manifest.json", "manifest.dsse.json", "sbom.cdx.json"]
)
@pytest.mark.parametrize("how", ["pipe", "endless"])
def test_neither_opens_a_pipe_or_a_device_in_a_files_place(
    bundle: LabBundle, name: str, how: str
) -> None:
    (bundle.folder / name).unlink()
    if how == "pipe":
        os.mkfifo(bundle.folder / name)
    else:
        (bundle.folder / name).symlink_to("/dev/zero")
    said = script(bundle)
    assert said.returncode == 1
    assert f"'{name}': a link or no plain file" in said.stdout
    assert bundle.failed()


@pytest.mark.parametrize(
    "name", ["sha256sums", "wheels ", "wheels\u200b", "Manifest.json", "a" * 255, "\x1b[2Jok", "\n"]
)
def test_a_name_that_looks_like_one_of_ours_does_not_belong_there(
    bundle: LabBundle, name: str
) -> None:
    (bundle.folder / name).write_text("")
    assert bundle.failed() == ["nothing else"]
    said = script(bundle)
    assert said.returncode == 1
    assert "\x1b" not in said.stdout


@pytest.mark.parametrize(
    ("field", "lie"),
    [
        ("Name: fancy-name", "Name: torch"),
        ("Name: fancy-name", "Name: other"),
        ("Version: 1.0", "Version: 2.0"),
    ],
)
def test_a_wheel_that_is_called_otherwise_than_its_metadata_say_is_not_bundled(
    bundle: LabBundle, field: str, lie: str
) -> None:
    path = bundle.folder / "wheels" / "fancy_name-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    info = "fancy_name-1.0.dist-info/METADATA"
    members[info] = members[info].replace(field.encode(), lie.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ConfigurationError, match="metadata say") as caught:
        describe(SOURCE, bundle.folder, bundle.key, extras=(), now=NOW)
    assert caught.value.code == "SB-120"


def test_an_older_bundle_says_how_old_it_is_and_that_age_is_not_checked(bundle: LabBundle) -> None:
    verdict = bundle.check()
    (signature,) = [check for check in verdict.checks if check.name == "signature"]
    assert "Solblom 0.1.0, made 2026-12-01T09:00:00Z" in signature.reason
    assert any(line.startswith("Age:") for line in verdict.not_checked)


@pytest.mark.parametrize("language", ["en", "no"])
def test_the_notes_let_what_was_checked_be_what_is_installed(
    bundle: LabBundle, language: str
) -> None:
    """A stick that gives other bytes the second time is read once."""
    note = (bundle.folder / f"INSTALL.{language}.txt").read_text("utf-8")
    assert 0 < note.index("/opt/solblom-bundle") < note.index("sha256sum SHA256SUMS")
