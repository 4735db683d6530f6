"""Whatever arrives, a parser answers as it documents: no crash, no hang, bounded memory. `make fuzz` tries longer."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz.campaign import EXAMPLES
from fuzz.guard import run_guarded
from fuzz.mutation import mutated
from fuzz.target import Target
from fuzz.targets import TARGETS

EVERY_TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
SHORT = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
EXAMPLE_FILES = sorted(EXAMPLES.glob("*/*.bin"))


@EVERY_TARGET
def test_a_broken_message_is_answered_as_documented(target: Target) -> None:
    @SHORT
    @given(mutated(target.seeds()))
    def attempt(data: bytes) -> None:
        run_guarded(target, data)

    attempt()


@pytest.mark.parametrize("file", EXAMPLE_FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_once_broke_a_parser_does_not_any_more(file: Path) -> None:
    target = next(target for target in TARGETS if target.name == file.parent.name)
    run_guarded(target, file.read_bytes())


@EVERY_TARGET
def test_the_fuzzer_begins_with_messages_that_the_parser_takes_apart(target: Target) -> None:
    for data in target.seeds():
        run_guarded(target, data)


def test_every_example_belongs_to_a_target() -> None:
    assert {file.parent.name for file in EXAMPLE_FILES} <= {target.name for target in TARGETS}
