"""Reasons are documented, and each belongs to exactly one kind."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

from phenotype_lab import packet, small_ontology, write_lines
from solblom_models.phenotype.phenopacket import read_cases
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


def test_ten_times_the_cases_take_no_more_memory(tmp_path: Path) -> None:
    ontology = small_ontology(tmp_path)
    peaks = []
    for count in (50, 100, 1_000):  # the first warms caches up
        path = write_lines(tmp_path, *(packet(subject={"id": str(n)}) for n in range(count)))
        reading = Reading()
        tracemalloc.start()
        assert sum(1 for _ in read_cases(path, ontology, reading)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 50_000


def test_reading_cases_loads_no_torch_and_no_pyhpo() -> None:
    parts = ("features", "release", "strict")
    script = "import sys, json; " + "; ".join(f"import solblom_models.phenotype.{p}" for p in parts)
    script += "; print(json.dumps([m for m in ('torch', 'pyhpo', 'google.protobuf') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == []
