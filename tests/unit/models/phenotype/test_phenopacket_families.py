"""Which family a case is of, and when that is not clear."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from phenotype_lab import packet, read_all, small_ontology, write_lines
from solblom_client.cohorts.families import check_families_are_clear
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.ontology import Ontology
from solblom_models.phenotype.phenopacket import CaseRules, read_cases
from solblom_models.phenotype.reading import Reading, Reason
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


def with_relatives(family: str, *persons: str, key: str = "individualId") -> dict[str, Any]:
    pedigree = [{"familyId": family, key: person} for person in ("patient-1", *persons)]
    return {"id": "family-1", "proband": packet(), "pedigree": {"persons": pedigree}}


def of_her_own(family: str | None) -> dict[str, Any]:
    own = packet(id="packet-2", subject={"id": "patient-2"})
    if family is None:
        return own
    return {"id": "x", "proband": own, "pedigree": {"persons": [{"familyId": family}]}}


@pytest.mark.parametrize("key", ["individualId", "individual_id"])
@pytest.mark.parametrize("first", [True, False], ids=["named first", "named last"])
@pytest.mark.parametrize(
    ("family", "several"), [(None, 1), ("F2", 1), ("F1", 0)], ids=["none", "another", "the same"]
)
def test_a_relative_whose_own_document_says_another_family_than_the_pedigree_is_counted(
    tmp_path: Path, ontology: Ontology, family: str | None, several: int, first: bool, key: str
) -> None:
    """The data name her as of F1: two families of one would each be promised what holds for neither."""
    documents = [with_relatives("F1", "patient-2", "patient-3", key=key), of_her_own(family)]
    file = write_lines(tmp_path, *(documents if first else documents[::-1]))
    cases, reading = read_all(file, ontology)
    assert len(cases) == 2
    assert reading.counts[Reason.SEVERAL_FAMILIES] == several


def test_a_relative_is_named_by_a_family_that_gives_no_case_too(
    tmp_path: Path, ontology: Ontology
) -> None:
    message = with_relatives("F1", "patient-2") | {"proband": packet(interpretations=None)}
    cases, reading = read_all(write_lines(tmp_path, message, of_her_own(None)), ontology)
    assert [case.patient for case in cases] == ["patient-2"]
    assert reading.counts[Reason.SEVERAL_FAMILIES] == 1


def test_a_relative_in_the_message_itself_is_named_too(tmp_path: Path, ontology: Ontology) -> None:
    message = with_relatives("F1") | {"relatives": [{"subject": {"id": "patient-2"}}]}
    _, reading = read_all(write_lines(tmp_path, message, of_her_own(None)), ontology)
    assert reading.counts[Reason.SEVERAL_FAMILIES] == 1


def test_a_relative_of_another_paper_is_another_patient(tmp_path: Path, ontology: Ontology) -> None:
    rules = CaseRules(patient_scope="publication")
    message = with_relatives("F1", "patient-2")
    message["proband"]["metaData"] |= {"externalReferences": [{"id": "PMID:2"}]}
    file = write_lines(tmp_path, message, of_her_own(None))
    reading = Reading()
    assert len(list(read_cases(file, ontology, reading, rules=rules))) == 2
    assert reading.counts[Reason.SEVERAL_FAMILIES] == 0
