"""The command solblom-verify, run as an auditor runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import solblom_verify
from solblom_verify.cli import main, render_verdict, verdict_json

# The package is found from any working folder, installed or not.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(solblom_verify.__file__).parent.parent)}


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "solblom_verify", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, check=False
    )


def test_a_valid_artefact_gives_0_and_says_what_was_not_checked(artefact: Path) -> None:
    result = run(artefact)
    assert result.returncode == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"trust file: {artefact.parent.parent / 'trust.json'}"
    assert lines[1].split() == ["ok", "folder", "13", "files"]
    assert "not checked:" in lines
    assert lines[-2] == "VERIFIED: heart-disease@v1"
    assert lines[-1].strip().startswith("sha256:")


def test_a_changed_artefact_gives_5_and_names_the_check(artefact: Path) -> None:
    (artefact / "README.md").write_bytes(b"")
    result = run(artefact)
    assert result.returncode == 5
    assert "FAIL  files           changed file: README.md" in result.stdout
    assert "NOT VERIFIED: the check 'files' failed" in result.stdout.splitlines()[-1]


def test_json_gives_one_object_with_fixed_members(builder: Any, artefact: Path) -> None:
    result = run(artefact, "--json")
    value = json.loads(result.stdout)
    assert result.returncode == 0
    assert list(value) == [
        "schema",
        "ok",
        "path",
        "artefact",
        "name",
        "version",
        "signed",
        "status",
        "witnesses",
        "trust",
        "checks",
        "not_checked",
    ]
    assert value["schema"] == "solblom.model.verify/1"
    assert value["ok"] is True
    assert value["path"] == str(artefact)
    assert value["trust"]["path"] == str(artefact.parent.parent / "trust.json")
    assert value["trust"]["signers"] == list(builder.verify(artefact).signers)
    assert all(set(check) == {"name", "ok", "reason"} for check in value["checks"])


def test_json_of_a_changed_artefact_says_no(artefact: Path) -> None:
    (artefact / "extra").write_bytes(b"")
    result = run(artefact, "--json")
    assert result.returncode == 5
    assert json.loads(result.stdout)["ok"] is False


def test_no_trust_file_gives_3_and_says_what_to_do(artefact: Path) -> None:
    (artefact.parent.parent / "trust.json").unlink()
    result = run(artefact)
    assert result.returncode == 3
    assert result.stdout == ""
    assert "trust.json" in result.stderr
    assert "--trust FILE" in result.stderr


def test_a_trust_file_beside_a_model_of_no_solblom_folder_is_not_taken(artefact: Path) -> None:
    home = artefact.parent.parent
    (home / "solblom.toml").unlink()
    result = run(artefact)
    assert result.returncode == 3
    assert "No trust file was given" in result.stderr
    assert "--trust FILE" in result.stderr
    assert run(artefact, "--trust", home / "trust.json").returncode == 0


def test_only_the_folder_of_models_has_a_default_trust_file(artefact: Path) -> None:
    moved = artefact.rename(artefact.parent.with_name("downloads"))
    assert run(moved).returncode == 3


def test_a_bad_trust_file_gives_3(artefact: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    result = run(artefact, "--trust", tmp_path / "other.json")
    assert result.returncode == 3
    assert "other.json: trust lacks 'expires'" in result.stderr


def test_the_trust_file_that_was_named_is_the_one_used(
    builder: Any, artefact: Path, tmp_path: Path
) -> None:
    keys = builder.trust()["keys"][:1]  # the steward's signature is then unknown
    other = builder.write_trust(tmp_path / "other.json", keys=keys, threshold=1)
    assert run(artefact, "--trust", other).returncode == 5
    assert run(artefact, "--trust", artefact.parent.parent / "trust.json").returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["no-such-folder"], [__file__]])
def test_wrong_usage_gives_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: solblom-verify")


@pytest.mark.parametrize(
    ("path", "folder"), [(".", "."), ("..", "model"), ("../heart-disease-v1/", ".")]
)
def test_the_default_trust_file_is_found_from_a_relative_path(
    artefact: Path, path: str, folder: str
) -> None:
    assert run(path, cwd=artefact / folder).returncode == 0


def test_a_file_name_cannot_steer_the_terminal(artefact: Path) -> None:
    (artefact / "\x1b[2J\nVERIFIED").write_bytes(b"")
    result = run(artefact)
    assert result.returncode == 5
    assert "\x1b" not in result.stdout
    assert "VERIFIED" not in result.stdout.split("\n", 2)[2].replace("NOT VERIFIED", "")


def test_a_letter_the_terminal_does_not_know_is_escaped(builder: Any, artefact: Path) -> None:
    keys = builder.trust()["keys"]
    keys[0]["name"] = "Sørlandet sykehus"
    builder.write_trust(artefact.parent.parent / "trust.json", keys=keys)
    result = subprocess.run(
        [sys.executable, "-m", "solblom_verify", artefact],
        capture_output=True,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert result.returncode == 0
    assert rb"S\xf8rlandet" in result.stdout


def test_text_in_a_verdict_cannot_steer_the_terminal(builder: Any, artefact: Path) -> None:
    verdict = replace(builder.verify(artefact), name="a\x1b[2J\n\u202eb")
    assert r"VERIFIED: a\x1b[2J\n\u202eb@v1" in render_verdict(verdict)


def test_the_verdict_as_json_is_what_the_command_prints(
    builder: Any, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust_path = artefact.parent.parent / "trust.json"
    assert main([str(artefact), "--json"]) == 0
    expected = verdict_json(builder.verify(artefact), artefact, trust_path)
    assert json.loads(capsys.readouterr().out) == expected


def test_the_command_imports_neither_torch_nor_a_network_client() -> None:
    code = "import sys, solblom_verify.cli; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    loaded = set(result.stdout.split())
    unwanted = {"torch", "flwr", "numpy", "pydantic", "typer", "rich", "requests", "http.client"}
    assert loaded.isdisjoint(unwanted)
