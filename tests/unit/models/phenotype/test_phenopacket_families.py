"""Which family a case is of, and when that is not clear."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from phenotype_lab import packet, read_all, small_ontology, write_lines
from solblom_client.cohorts.families import check_families_are_clear
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.ontology import Ontology
from solblom_models.phenotype.reading import Reason
from solblom_protocol.errors import DataError
from unit.client import test_cohort


@pytest.fixture(scope="module")
def ontology(tmp_path_factory: pytest.TempPathFactory) -> Ontology:
    return small_ontology(tmp_path_factory.mktemp("hpo"))


def case_units(count: int) -> CaseUnits:
    return test_cohort.TestGroups.units(count)


def family_message(name: str, *pedigree: str) -> dict[str, Any]:
    persons = [{"familyId": family} for family in pedigree]
    return {"id": name, "proband": packet(), "pedigree": {"persons": persons}}


def test_a_pedigree_of_several_names_is_counted(tmp_path: Path, ontology: Ontology) -> None:
    file = write_lines(tmp_path, family_message("family-1", "F1", "F2"))
    (case,), reading = read_all(file, ontology)
    assert case.family == "family-1"
    assert reading.counts == {Reason.SEVERAL_FAMILIES: 1}


@pytest.mark.parametrize(
    ("second", "several"), [("F2", 1), ("F1", 0), (None, 1)], ids=["another", "the same", "none"]
)
def test_a_patient_who_comes_by_in_another_family_is_counted(
    tmp_path: Path, ontology: Ontology, second: str | None, several: int
) -> None:
    again = packet() if second is None else family_message("family-2", second)
    file = write_lines(tmp_path, family_message("family-1", "F1"), again)
    cases, reading = read_all(file, ontology)
    assert [case.family for case in cases] == ["F1"]
    assert reading.counts[Reason.SAME_PATIENT] == 1
    assert reading.counts[Reason.SEVERAL_FAMILIES] == several


def test_a_study_by_family_refuses_cases_of_several(tmp_path: Path, ontology: Ontology) -> None:
    file = write_lines(tmp_path, family_message("family-1", "F1", "F2"))
    _, reading = read_all(file, ontology)
    units = dataclasses.replace(case_units(1), notes=reading.summary())
    with pytest.raises(DataError, match="1 patient is of several families") as caught:
        check_families_are_clear(units)
    assert caught.value.code == "SB-314"
    check_families_are_clear(case_units(1))
