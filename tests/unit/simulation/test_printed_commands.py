"""The commands that the demo prints, as a shell would read them."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from solblom_simulation.cli import _commands
from solblom_simulation.scenarios import SCENARIOS


def words(home: Path) -> list[list[str]]:
    """Return the printed commands of a demo in a folder, split by a shell's rules."""
    outcome: Any = SimpleNamespace(
        settings=SimpleNamespace(home=home, epsilon=3.0, scenario=SCENARIOS["heart"]),
        run=SimpleNamespace(run="heart-1", path=home / "models" / "heart-v1"),
    )
    return [shlex.split(line) for line in _commands(outcome)]


def test_a_printed_command_names_the_demos_folder() -> None:
    assert all(any(word.startswith("demo") for word in line) for line in words(Path("demo")))


def test_a_printed_command_survives_a_folder_with_a_space() -> None:
    for line in words(Path("my demo")):
        assert any(word.startswith("my demo/") or word == "my demo" for word in line)


def test_after_training_without_privacy_no_second_study_is_offered() -> None:
    outcome: Any = SimpleNamespace(
        settings=SimpleNamespace(home=Path("demo"), epsilon=None, scenario=SCENARIOS["heart"]),
        run=SimpleNamespace(run="heart-1", path=Path("demo/models/heart-v1")),
    )
    assert not any("study" in line for line in _commands(outcome))
