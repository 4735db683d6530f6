"""Whatever a stranger sends as a model or a trust file: exit 5 or 3 with a reason, quickly, and never a trace."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artefact_mutations import Target, small_target
from solblom_verify.canonical import canonical_json
from solblom_verify.cli import main
from unit.verify.artefact_builder import ArtefactBuilder
from unit.verify.log_builder import LogBuilder

GIGABYTES = 10 * 1024**3


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return small_target(tmp_path / "home")


def verdict(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main([str(folder), *words])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    return code, shown.out + shown.err


def huge(path: Path) -> None:
    """Make a file of 10 GB that takes no room."""
    os.truncate(path, GIGABYTES)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "attestations/model.dsse.json",
        "log/checkpoint.txt",
        "log/inclusion.json",
    ],
)
def test_a_file_of_10_gigabytes_where_a_small_one_belongs_is_refused_in_seconds(
    target: Target, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name == "training/rounds.jsonl":
        pytest.skip(
            "a file of any size is hashed: what it holds is not read before its digest fits"
        )
    huge(target.folder / name)
    began = time.perf_counter()
    code, shown = verdict(target.folder, capsys)
    assert code == 5
    most = 64 if name == "manifest.json" else 4  # MiB
    assert f"more than the {most * 1024 * 1024} bytes" in shown
    assert time.perf_counter() - began < 20


def test_a_trust_file_of_10_gigabytes_is_refused(
    target: Target, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    huge_file = tmp_path / "huge.json"
    huge_file.touch()
    huge(huge_file)
    code, shown = verdict(target.folder, capsys, "--trust", str(huge_file))
    assert (code, "bytes, and 1048576 are allowed" in shown) == (3, True)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[" * 100_000, b"null", b'{"a":1}{'])
def test_a_wrong_trust_file_is_no_verdict(
    target: Target, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "other.json").write_bytes(content)
    assert verdict(target.folder, capsys, "--trust", str(tmp_path / "other.json"))[0] == 3
    assert verdict(target.folder, capsys, "--trust", str(tmp_path / "none.json"))[0] == 3
    assert verdict(target.folder, capsys, "--trust", str(tmp_path))[0] == 3


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m.update(schema="solblom.artefact/2"), "expected 'solblom.artefact/1'"),
        (lambda m: m.update(quantum={}), "unknown member 'quantum'"),
        (lambda m: m["log"].update(tree="v2"), "unknown member 'tree'"),
        (
            lambda m: m["files"].update({"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}),
            "not a signed",
        ),
        (
            lambda m: m["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}),
            "not a signed",
        ),
    ],
)
def test_a_manifest_of_a_newer_schema_or_with_a_path_outside_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[dict[str, Any]], object],
    reason: str,
) -> None:
    builder = ArtefactBuilder()
    log = LogBuilder(builder)
    with_log = builder.edit_manifest

    def both(manifest: dict[str, Any]) -> None:
        with_log(manifest)
        edit(manifest)

    builder.edit_manifest = both
    code, shown = verdict(log.write(tmp_path), capsys)
    assert code == 5
    assert reason in shown


@pytest.mark.parametrize(
    "path", ["../trust.json", "/etc/hostname", "model/../manifest.json", "a\\b"]
)
def test_a_signed_path_that_leads_out_of_the_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    builder = ArtefactBuilder()

    def add(statement: dict[str, Any]) -> None:
        statement["subject"].append({"name": path, "digest": {"sha256": "0" * 64}})
        statement["subject"].sort(key=lambda subject: subject["name"])

    builder.edit_statement = add
    code, shown = verdict(builder.write(tmp_path), capsys)
    assert code == 5
    assert "missing file" in shown


def test_every_missing_file_is_named(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    for name in sorted(target.files):
        target.restore()
        target.remove(name)
        code, shown = verdict(target.folder, capsys)
        assert code == 5
        assert Path(name).name in shown or "empty folder" in shown, name


def test_a_link_is_refused_wherever_it_leads(
    target: Target, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("manifest.json", "log/checkpoint.txt", "log"):
        target.restore()
        path = target.folder / name
        kept = tmp_path / f"kept-{path.name}"
        shutil.move(path, kept)
        path.symlink_to(kept)
        target.is_clean = False
        code, shown = verdict(target.folder, capsys)
        assert (code, "symbolic link" in shown) == (5, True), name


@pytest.mark.parametrize("data", [b"[" * 50_000, b'{"a":' * 50_000, b"1" * 100_000, b"\x00" * 1000])
def test_a_log_that_breaks_parsers_is_refused(
    target: Target, capsys: pytest.CaptureFixture[str], tmp_path: Path, data: bytes
) -> None:
    (target.folder / "log/inclusion.json").write_bytes(data)
    assert verdict(target.folder, capsys)[0] == 5
    target.is_clean = False
    target.restore()
    (tmp_path / "log.json").write_bytes(data)
    assert verdict(target.folder, capsys, "--log", str(tmp_path / "log.json"))[0] == 5


def test_an_inclusion_of_many_small_proofs_is_bounded(
    target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    value: Any = json.loads(target.files["log/inclusion.json"])
    value["entries"][0]["proof"] *= 20_000  # a proof longer than the tree is deep
    target.write("log/inclusion.json", canonical_json(value))
    began = time.perf_counter()
    assert verdict(target.folder, capsys)[0] == 5
    assert time.perf_counter() - began < 10
