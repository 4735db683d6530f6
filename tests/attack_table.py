"""Write docs/reference/attacks.md from tests/security: what was attacked, in how many cases, what came of it.

`make attacks` runs them all, slow ones too, and writes the page from their JUnit report. With `--report FILE`, as
often as needed, it is written from reports of runs that were made already.
tests/architecture/test_attack_table.py holds the page's names against the tests.
"""

import argparse
import ast
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "attacks.md"
HEAD = """\
# Attacks

*For security officers.* Every attack that the tests try against the real vault, link, coordinator and files, and what
came of it. `make attacks` writes this page from a run of `tests/security`; a test fails when it names another set of
attacks than the code. A name is a claim: what it says is what held. Cases are variations of one attack.

"""


@dataclass(frozen=True)
class Attack:
    """One test function: its file, its name, and how its cases ended."""

    file: str
    name: str
    ends: Counter[str]

    @property
    def words(self) -> str:
        """The claim, as a sentence."""
        return self.name.removeprefix("test_").replace("_", " ")

    @property
    def result(self) -> str:
        """What came out of all cases."""
        if self.ends["failed"]:
            return f"**{self.ends['failed']} failed**"
        skipped = f", {self.ends['skipped']} not run here" if self.ends["skipped"] else ""
        return ("held" if self.ends["passed"] else "not run here") + (
            skipped if self.ends["passed"] else ""
        )


def files() -> list[Path]:
    """Return the files of attacks."""
    return sorted((ROOT / "tests" / "security").glob("test_*.py"))


def named_tests(path: Path) -> list[str]:
    """Return the names of a file's tests, in their order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def title(path: Path) -> str:
    """Return the first line of a file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem
    return text.splitlines()[0]


def page(reports: list[Path]) -> str:
    """Return the page for JUnit reports."""
    ends: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    cases = (case for report in reports for case in ET.parse(report).iter("testcase"))  # noqa: S314 - pytest's own
    for case in cases:
        if not case.get("classname", "").startswith("tests.security."):
            continue
        kinds = {child.tag for child in case}
        end = (
            "failed"
            if kinds & {"failure", "error"}
            else "skipped"
            if "skipped" in kinds
            else "passed"
        )
        file = case.get("classname", "").rpartition(".")[2]
        ends[file, case.get("name", "").partition("[")[0]][end] += 1
    parts, total, attacks = [], Counter[str](), 0
    for path in files():
        rows = [Attack(path.stem, name, ends[path.stem, name]) for name in named_tests(path)]
        attacks += len(rows)
        for row in rows:
            total.update(row.ends)
        lines = [f"| {r.words} | {sum(r.ends.values())} | {r.result} |" for r in rows]
        parts.append(
            f"## {title(path)}\n\n`tests/security/{path.name}`\n\n| attack | cases | result |\n|---|---|---|\n"
            + "\n".join(lines)
        )
    count = (
        f"{attacks} attacks in {sum(total.values()):,} cases: {total['passed']:,} held, {total['failed']} failed, "
        f"{total['skipped']} could not be run on the machine of that run.\n\n"
    )
    return HEAD + count + "\n\n".join(parts) + "\n"


def main() -> int:
    """Run all attacks, unless reports are given, and write the page; return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, action="append", help="JUnit report of a run")
    given = parser.parse_args().report
    if given:
        PAGE.write_text(page(given), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        asked = ["-q", "-n", "2", "--dist", "loadgroup", f"--junit-xml={report}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *asked, "tests/security"], cwd=ROOT, check=False
        )
        PAGE.write_text(page([report]), encoding="utf-8")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
