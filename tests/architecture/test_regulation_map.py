"""The regulation map names tests that exist, says what its table says, and claims nothing."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from architecture.regulation_map import (
    PAGE,
    ROOT,
    SOURCES,
    Row,
    named_tests,
    page,
    passed_over,
    read_rows,
)

ROWS = read_rows()
CLAIM = re.compile(
    r"\b(compl(y|ies|iant|iance)|conform\w*|certif\w*|lawful|legal)\b", re.IGNORECASE
)


@cache
def known(file: str) -> set[str]:
    path = ROOT / file
    return named_tests(path) if path.is_file() else set()


def unknown(rows: list[Row]) -> list[str]:
    """Return the tests that rows name and nobody can run."""
    named = [test.partition("::") for row in rows for test in row.tests]
    return [f"{file}::{name}" for file, _, name in named if name not in known(file)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source} {row.point}")
def test_a_row_names_tests_that_exist(row: Row) -> None:
    assert row.tests
    assert unknown([row]) == []


def test_a_row_that_names_a_test_that_does_not_exist_is_found() -> None:
    file = "tests/unit/client/test_ledger.py"
    missing = (f"{file}::test_that_was_renamed", "tests/test_gone.py::test_x")
    assert unknown([Row("GDPR", "x", "x", "x", missing)]) == list(missing)


@pytest.mark.parametrize("file", sorted({t.partition("::")[0] for r in ROWS for t in r.tests}))
def test_a_named_test_is_run_and_must_pass(file: str) -> None:
    named = {t.partition("::")[2] for r in ROWS for t in r.tests if t.startswith(f"{file}::")}
    assert not named & passed_over(ROOT / file)


def test_a_named_test_that_is_passed_over_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "@pytest.mark.xfail(strict=False)\ndef test_a() -> None: ...\ndef test_b(): ...\n"
    )
    assert passed_over(path) == {"test_a"}
    path.write_text("pytestmark = [pytest.mark.skip]\ndef test_a() -> None: ...\n")
    assert passed_over(path) == {"test_a"}


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(ROWS), (
        "write it anew: PYTHONPATH=tests python -m architecture.regulation_map"
    )


def test_every_source_has_rows_and_there_are_no_others() -> None:
    counts = Counter(row.source for row in ROWS)
    assert set(counts) == set(SOURCES)
    assert min(counts.values()) >= 5
    assert len(ROWS) >= 35


def test_no_two_rows_are_about_the_same_point() -> None:
    doubles = [key for key, n in Counter((r.source, r.point) for r in ROWS).items() if n > 1]
    assert doubles == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source} {row.point}")
def test_a_row_claims_an_outcome_and_no_conformity(row: Row) -> None:
    allowed = row.outcome.replace("legal basis", "")  # a field of the study
    assert not CLAIM.search(allowed)
    assert not CLAIM.search(row.feature)


def test_the_page_says_at_its_top_that_it_claims_nothing() -> None:
    start = PAGE.read_text(encoding="utf-8")[:200]
    assert "claims no conformity" in start


def test_the_page_is_in_the_documentation() -> None:
    assert "reference/regulation-map.md" in Path(ROOT, "mkdocs.yml").read_text(encoding="utf-8")
