"""An auditor reads the verifier in one sitting, and installs five packages for it (docs/adr/0016)."""

import ast
import io
import re
import tokenize
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
MOST_LINES = 1190  # of code; docs/adr/0016 says why not 600
PACKAGES = {"cffi", "cryptography", "pycparser", "rfc8785", "securesystemslib"}
LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}


def lines_of_code(path: Path) -> int:
    """Count lines that hold code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def installed_with(name: str) -> set[str]:
    """Return what pip installs with a package on this machine, by the metadata of what is installed."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for text in requires(waiting.pop()) or []:
            requirement = Requirement(text)
            wanted = re.sub(r"[-_.]+", "-", requirement.name).lower()
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and wanted not in found:
                found.add(wanted)
                waiting.append(wanted)
    return found


def test_the_verifier_does_not_grow_unnoticed() -> None:
    counts = {p.name: lines_of_code(p) for p in (ROOT / "verify").rglob("*.py")}
    assert sum(counts.values()) <= MOST_LINES, counts


def test_lines_are_counted_without_comments_and_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    path.write_text(
        '"""Doc.\n\nMore.\n"""\n\n# why\nx = (\n    1,\n)\n\n\ndef f():\n    """Doc."""\n    return x  # y\n'
    )
    assert lines_of_code(path) == 5


def test_an_auditor_installs_five_packages_with_the_verifier() -> None:
    assert installed_with("solblom-verify") == PACKAGES
