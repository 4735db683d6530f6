"""The house keeps its shape: small files, small functions, one version, no trace of a developer's machine."""

import ast
import csv
import importlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from solblom_protocol.errors import CODES

ROOT = Path(__file__).parents[2]
PARTS = ("verify", "protocol", "models", "client", "server", "simulation")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 50
ERRORS_PAGE = ROOT / "docs" / "reference" / "errors.md"
UCI = ROOT.parent / "shared" / "data" / "heart_disease"
HEART = ROOT / "simulation" / "solblom_simulation" / "data" / "heart_disease"
PATIENTS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(part: str) -> list[Path]:
    return sorted((ROOT / part / f"solblom_{part}").rglob("*.py"))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: Function) -> int:
    """Return the lines from `def` to the end, the docstring left out."""
    whole = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is None:
        return whole
    return whole - ((first.end_lineno or first.lineno) - first.lineno + 1)


def project(part: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(
        (ROOT / part / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    return table


def own_dependencies(part: str) -> set[str]:
    """Return the parts that a part needs, and those that they need."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        for requirement in project(waiting.pop())["dependencies"]:
            match = re.match(r"solblom-(\w+)", requirement)
            if match and match[1] not in found:
                found.add(match[1])
                waiting.append(match[1])
    return found


@pytest.mark.parametrize("part", PARTS)
def test_no_file_is_longer_than_500_lines(part: str) -> None:
    lines = {path.name: path.read_text(encoding="utf-8").count("\n") for path in sources(part)}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_no_test_file_is_longer_than_500_lines() -> None:
    lines = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


@pytest.mark.parametrize("part", PARTS)
def test_no_function_is_longer_than_50_lines(part: str) -> None:
    found = {
        f"{path.name}:{function.lineno} {function.name}": length(function)
        for path in sources(part)
        for function in functions(path)
    }
    assert {name: count for name, count in found.items() if count > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_the_version_of_the_protocol(part: str) -> None:
    version = project("protocol")["version"]
    package = importlib.import_module(f"solblom_{part}")
    assert project(part)["version"] == version
    assert getattr(package, "__version__", version) == version


@pytest.mark.parametrize("part", PARTS)
def test_a_part_asks_for_its_siblings_in_its_own_version(part: str) -> None:
    version = project(part)["version"]
    siblings = [r for r in project(part)["dependencies"] if r.startswith("solblom-")]
    assert all(requirement.endswith(f"=={version}") for requirement in siblings)


def test_a_hospital_installs_no_code_of_the_coordinator() -> None:
    assert own_dependencies("client") == {"models", "protocol", "verify"}


def test_a_coordinator_installs_no_code_that_sees_patients() -> None:
    assert own_dependencies("server") == {"models", "protocol", "verify"}


def test_an_auditor_installs_the_verifier_alone() -> None:
    assert own_dependencies("verify") == set()


@pytest.mark.parametrize("part", ["verify", "protocol", "models", "client"])
def test_nothing_that_a_hospital_installs_imports_the_coordinator(part: str) -> None:
    imported = {
        name.partition(".")[0]
        for path in sources(part)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported_names(node)
    }
    assert imported & {"solblom_server", "solblom_simulation"} == set()


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


@pytest.mark.parametrize("part", PARTS)
def test_no_assertion_guards_anything(part: str) -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in sources(part)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_pickled(part: str) -> None:
    found = [
        f"{path.name}: {name}"
        for path in sources(part)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported_names(node)
        if name.partition(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    ]
    assert found == []


@pytest.mark.skipif(not ERRORS_PAGE.is_file(), reason="docs/reference/errors.md is not written yet")
def test_the_documentation_lists_every_error_code_and_no_other() -> None:
    text = ERRORS_PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^(?:## |\| )(SB-\d{3})\b", text, re.M)
    assert sorted(listed) == sorted(CODES)


@pytest.mark.skipif(not ERRORS_PAGE.is_file(), reason="docs/reference/errors.md is not written yet")
@pytest.mark.parametrize("code", sorted(CODES))
def test_the_documentation_has_an_error_codes_title_and_exit_status(code: str) -> None:
    text = ERRORS_PAGE.read_text(encoding="utf-8")
    if f"| {code} |" in text:
        pytest.skip("listed in a table, without a section of its own")
    section = re.search(rf"^## {code} (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section is not None
    assert section[1] == CODES[code].title
    assert f"**Exit status** {CODES[code].exit_status}" in section[2]


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_tracked_file_names_a_path_of_a_developers_machine() -> None:
    machine = re.compile(rb"/(?:home|Users)/[A-Za-z]|/(?:work)/(?:main|shared)\b|[A-Z]:\\Users\\")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.is_file() and machine.search(path.read_bytes())
    ]
    assert found == []


def test_no_tracked_file_holds_a_private_key() -> None:
    marker = b"BEGIN " + b"PRIVATE KEY"
    found = [
        path.name
        for path in tracked_files()
        if path.is_file() and path.suffix != ".py" and marker in path.read_bytes()
    ]
    assert found == []


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if row]


def number(text: str) -> float | None:
    return None if text in ("", "?") else float(text)


@pytest.mark.parametrize("hospital", PATIENTS)
def test_a_heart_table_has_a_made_up_id_for_each_patient(hospital: str) -> None:
    header, *patients = rows(HEART / f"{hospital}.csv")
    assert header[0] == "patient_id"
    expected = [f"{hospital}-{n:03d}" for n in range(1, PATIENTS[hospital] + 1)]
    assert [row[0] for row in patients] == expected


@pytest.mark.skipif(not UCI.is_dir(), reason="the UCI files are not beside this repository")
@pytest.mark.parametrize("hospital", PATIENTS)
def test_a_heart_table_is_that_of_its_source(hospital: str) -> None:
    _, *ours = rows(HEART / f"{hospital}.csv")
    theirs = rows(UCI / f"processed.{hospital}.data")
    assert [[number(c) for c in row[1:]] for row in ours] == [
        [number(c) for c in r] for r in theirs
    ]
