"""Who takes part: patients meet their consents in one spelling, whatever task read them."""

import pytest

from lab import LabHospital, study_document
from solblom_client.approval import read_approval
from solblom_client.cohort import Cohort, join_cohort
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_models.tabular.data import TableUnits
from solblom_protocol.errors import DataError
from solblom_protocol.result import Refusal

NFC, NFD = "bj\u00f8rn-\u00e5", "bj\u00f8rn-a\u030a"
STUDY = study_document()


def rows_named(hospital: LabHospital, *names: str) -> list[dict[str, str]]:
    """Return the hospital's rows, the first of them under these ids."""
    renamed = [{**row, "patient_id": n} for row, n in zip(hospital.rows, names, strict=False)]
    return [*renamed, *hospital.rows[len(names) :]]


def joined(hospital: LabHospital, units: TableUnits | None = None) -> Cohort:
    approval = read_approval(hospital.config, read_node_keys(hospital.config.state), STUDY.digest)
    source = open_source(hospital.config, approval.dataset)
    found = approval.task.read_units(source, STUDY) if units is None else units
    keys = read_node_keys(hospital.config.state)
    return join_cohort(hospital.config, keys, STUDY, found, now=hospital.clock())


def code_of(hospital: LabHospital, units: TableUnits | None = None) -> str:
    with pytest.raises(DataError) as caught:
        joined(hospital, units)
    return caught.value.code


@pytest.mark.parametrize("in_table", [NFC, NFD], ids=["nfc", "nfd"])
@pytest.mark.parametrize("in_consent", [NFC, NFD], ids=["nfc", "nfd"])
def test_a_patient_who_withdrew_is_out_in_either_spelling(
    hospital: LabHospital, in_table: str, in_consent: str
) -> None:
    hospital.approve(STUDY)
    hospital.write_rows(rows_named(hospital, in_table))
    assert NFC in joined(hospital).everybody.ids
    hospital.write_consent([f"{in_consent},withdrawn,"])
    cohort = joined(hospital)
    assert cohort.excluded == 1
    assert not {NFC, NFD} & set(cohort.everybody.ids)


def test_a_spelling_moves_nobody_between_training_and_test(hospital: LabHospital) -> None:
    hospital.approve(STUDY)
    sets = []
    for ending in ("\u00e5", "a\u030a"):
        names = [f"{row['patient_id']}{ending}" for row in hospital.rows]
        hospital.write_rows(rows_named(hospital, *names))
        sets.append(joined(hospital).training.ids)
    assert sets[0] == sets[1]


def test_another_spelling_of_the_same_table_is_the_same_work(hospital: LabHospital) -> None:
    hospital.approve(STUDY)
    hospital.write_rows(rows_named(hospital, NFC))
    first = hospital.vault.process(hospital.order(STUDY))
    hospital.write_rows(rows_named(hospital, NFD))
    assert hospital.vault.process(hospital.order(STUDY, attempt=2)) == first
    assert hospital.charges() == 1


def test_one_patient_in_two_spellings_is_refused(hospital: LabHospital) -> None:
    hospital.approve(STUDY)
    hospital.write_rows(rows_named(hospital, NFC, NFD))
    assert code_of(hospital) == "SB-304"
    reply = hospital.ask(hospital.order(STUDY))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"


@pytest.mark.parametrize(("ids", "code"), [((NFC, NFD), "SB-304"), ((NFC, " "), "SB-302")])
def test_ids_that_a_task_read_in_its_own_way_are_checked_too(
    hospital: LabHospital, ids: tuple[str, ...], code: str
) -> None:
    hospital.approve(STUDY)
    units = joined(hospital).training.select([0, 1])
    assert isinstance(units, TableUnits)
    assert code_of(hospital, TableUnits(ids, units.features, units.labels)) == code
