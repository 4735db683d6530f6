"""No change to an artefact goes unseen: a share of the campaign of bench/mutations.py, with fixed seeds."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from artefact_mutations import (
    CLASSES,
    EVERY_BIT,
    Target,
    bit_flips,
    false_alarms,
    random_mutations,
    small_target,
)

MEMORY = Path("/dev/shm")  # noqa: S108  # a file system in memory, where there is one


@pytest.fixture
def target() -> Iterator[Target]:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield small_target(Path(folder))


def test_random_mutations_of_every_class_are_found(target: Target) -> None:
    outcome = random_mutations(target, 600, seed=442)
    assert outcome.accepted == []
    assert set(outcome.tried) == set(CLASSES)
    assert outcome.found == outcome.tried


def test_flipped_bits_of_what_vouches_for_the_rest_are_found(target: Target) -> None:
    outcome = bit_flips(target, every=97)  # a prime: every bit of a byte, and every file, comes up
    assert outcome.accepted == []
    assert set(outcome.tried) == set(EVERY_BIT)


def test_an_untouched_artefact_gives_no_false_alarm(target: Target) -> None:
    assert false_alarms(target, 50) == 0


def test_the_campaign_would_see_a_verifier_that_accepts(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "accepts", lambda self: True)
    assert len(random_mutations(target, 20, seed=1).accepted) == 20
