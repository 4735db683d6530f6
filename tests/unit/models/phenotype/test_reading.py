"""Reasons are documented, and each belongs to exactly one kind."""

from pathlib import Path

from solblom_models.phenotype.reading import (
    DETAIL_REASONS,
    DOCUMENT_REASONS,
    FEATURE_REASONS,
    Reading,
    Reason,
    Tally,
)

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "phenopackets.md"


def test_the_reference_page_lists_every_reason_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## What is not used, by name")[1]
    listed = [line[2:] for line in text.splitlines() if line.startswith("- ")]
    assert listed == [str(reason) for reason in Reason]


def test_each_reason_is_of_one_kind() -> None:
    kinds = (DOCUMENT_REASONS, FEATURE_REASONS, DETAIL_REASONS)
    assert sum(len(kind) for kind in kinds) == len(Reason)
    assert frozenset().union(*kinds) == frozenset(Reason)


def test_a_place_is_kept_once_for_each_reason() -> None:
    reading, tally = Reading(), Tally(features=3, used_features=1)
    tally.counts[Reason.UNKNOWN_TERM] = 2
    tally.add_to(reading, 7)
    reading.note(Reason.UNKNOWN_TERM, 7)
    assert reading.counts[Reason.UNKNOWN_TERM] == 3
    assert reading.places == {Reason.UNKNOWN_TERM: [7]}
    assert (reading.features, reading.used_features) == (3, 1)
