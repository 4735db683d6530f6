"""docs/reference/regulation-map.md from its table, and which tests the table may name.

PYTHONPATH=tests python -m architecture.regulation_map    # writes the page anew
"""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs/reference/regulation_map.toml"
PAGE = ROOT / "docs/reference/regulation-map.md"
SOURCES = {
    "Normen": "Normen (Norwegian code of conduct for information security in health and care)",
    "GDPR": "GDPR, Regulation (EU) 2016/679",
    "EHDS": "EHDS, Regulation (EU) 2025/327",
    "ISO 27001": "ISO/IEC 27001:2022, Annex A",
    "AI Act": "EU AI Act, Regulation (EU) 2024/1689",
}
TOP = """\
# Regulation map

**This page claims no conformity with any law or standard.** It lists outcomes that such rules want, in plain words,
what Solblom does towards each, and which tests show it. It is an engineer's reading, not legal advice: whether a
hospital's use is lawful is for the hospital, its data protection officer and its supervisors to judge. Much that these
rules ask for is organisational and stands in no program.

A row stands here only as long as its tests exist, and CI runs every one of them. Some need what not every machine has
(root, network namespaces, strace) and are skipped there. The same table for machines:
`docs/reference/regulation_map.toml`.
"""


@dataclass(frozen=True)
class Row:
    """One outcome: from which rule, what does it, which tests show it."""

    source: str
    point: str
    outcome: str
    feature: str
    tests: tuple[str, ...]


def read_rows(path: Path = TABLE) -> list[Row]:
    """Return the table's rows; a member that is missing or too many is an error."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["row"]
    return [Row(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def page(rows: list[Row]) -> str:
    """Return the page."""
    parts = [TOP]
    for source, title in SOURCES.items():
        parts.append(f"\n## {title}\n\n| point | outcome | by | tests |\n|---|---|---|---|\n")
        for row in rows:
            if row.source == source:
                tests = "<br>".join(f"`{_short(test)}`" for test in row.tests)
                parts.append(f"| {row.point} | {row.outcome} | {row.feature} | {tests} |\n")
    return "".join(parts)


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def named_tests(path: Path) -> set[str]:
    """Return the tests of a file as pytest finds them by name; parametrised ones by their function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def passed_over(path: Path) -> set[str]:
    """Return the tests of a file that pass nothing: always skipped, or expected to fail."""
    found = set[str]()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
            if marks & {"pytest.mark.skip", "pytest.mark.xfail"}:
                found.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marked = {"pytest.mark.skip", "pytest.mark.xfail"} & _names(node.value)
            found |= named_tests(path) if marked else set()
    return found


def _names(value: ast.expr) -> set[str]:
    return {ast.unparse(part) for part in ast.walk(value) if isinstance(part, ast.Attribute)}


if __name__ == "__main__":
    PAGE.write_text(page(read_rows()), encoding="utf-8")
