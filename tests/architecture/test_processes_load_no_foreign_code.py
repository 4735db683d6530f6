"""A process that Solblom starts never loads modules from the folder in which somebody happened to start it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("client", "server", "simulation", "models", "protocol", "verify")
STARTED = re.compile(r'\[\s*sys\.executable,\s*"(-[A-Za-z]+)"')


def started() -> list[tuple[str, str]]:
    """Return every place that starts Python, and its first option."""
    return [
        (str(path.relative_to(ROOT)), option)
        for part in PARTS
        for path in sorted((ROOT / part).rglob("*.py"))
        for option in STARTED.findall(path.read_text(encoding="utf-8"))
    ]


def test_every_python_that_is_started_leaves_the_current_folder_out() -> None:
    assert len(started()) >= 5
    assert [place for place in started() if place[1] not in ("-P", "-I")] == []


@pytest.mark.parametrize(("option", "loaded"), [("-P", False), ("-u", True)])
def test_the_option_is_what_keeps_a_planted_module_out(
    tmp_path: Path, option: str, loaded: bool
) -> None:
    (tmp_path / "h2.py").write_text("PLANTED = True\n", encoding="utf-8")
    code = "import h2; print(hasattr(h2, 'PLANTED'))"
    done = subprocess.run(
        [sys.executable, option, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert ("True" in done.stdout) is loaded
