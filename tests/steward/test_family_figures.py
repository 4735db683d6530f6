"""Of a study by family the steward's pages show what one patient pays beside what the family does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compare_lab import write_model
from lab import study_document
from solblom_models.accountant import format_epsilon, patient_epsilon, pld_epsilon
from solblom_models.statement import Charge
from solblom_protocol.studies.study import StudyDocument
from solblom_server.steward import dpo_sheet, views_model
from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import Table
from steward.lab import scene_of

DELTA = 1e-5


def document(unit: str) -> StudyDocument:
    split = {"by": unit}
    return study_document(
        privacy={"unit": unit}, evaluation={"split": split}, cohort={"min_patients": 5}
    )


def figures(study: StudyDocument) -> tuple[str, str]:
    events = [study.round_event]
    return format_epsilon(pld_epsilon(events, DELTA)), format_epsilon(
        patient_epsilon(events, DELTA)
    )


@pytest.mark.parametrize("unit", ["patient", "family"])
def test_a_models_page_has_the_figure_of_one_patient(tmp_path: Path, unit: str) -> None:
    study = document(unit)
    folder = write_model(
        tmp_path / "lab-v1", study, charges=[Charge(1, "north", study.round_event)]
    )
    blocks = views_model._privacy(scene_of(tmp_path), ArtefactFiles(folder))
    (table,) = [block for block in blocks if isinstance(block, Table)]
    family, patient = figures(study)
    assert table.rows[0][1] == family
    assert ("Epsilon of one patient" in table.head) == (unit == "family")
    if unit == "family":
        assert table.rows[0][-1] == patient != family


@pytest.mark.parametrize("unit", ["patient", "family"])
def test_the_sheet_for_the_data_protection_officer_has_it_too(tmp_path: Path, unit: str) -> None:
    study = document(unit)
    records: Any = SimpleNamespace(
        runs=lambda **_: [SimpleNamespace(roster="north")],
        charges=lambda _: [("lab-1", "north", study.round_event)],
    )
    row: Any = SimpleNamespace(digest=study.digest)
    blocks = dpo_sheet._privacy(scene_of(tmp_path), records, row, study)
    (table,) = [block for block in blocks if isinstance(block, Table)]
    family, patient = figures(study)
    assert table.rows[0][1] == family
    assert table.rows[0][3:] == ((patient,) if unit == "family" else ())
