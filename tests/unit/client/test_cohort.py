"""Who takes part: patients meet their consents in one spelling, whatever task read them."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from lab import LabHospital, study_document
from solblom_client.approvals.approval import read_approval
from solblom_client.cohorts.cohort import Cohort, join_cohort, read_consent_now, split_ids
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.phenopacket import Sex
from solblom_models.tabular.data import TableUnits, read_units
from solblom_protocol.errors import DataError
from solblom_protocol.messages.result import Refusal
from solblom_protocol.studies.study import StudyDocument

NFC, NFD = "bj\u00f8rn-\u00e5", "bj\u00f8rn-a\u030a"
STUDY = study_document()


def rows_named(hospital: LabHospital, *names: str) -> list[dict[str, str]]:
    """Return the hospital's rows, the first of them under these ids."""
    renamed = [{**row, "patient_id": n} for row, n in zip(hospital.rows, names, strict=False)]
    return [*renamed, *hospital.rows[len(names) :]]


def joined(hospital: LabHospital, units: TableUnits | None = None) -> Cohort:
    approval = read_approval(hospital.config, read_node_keys(hospital.config.state), STUDY.digest)
    source = open_source(hospital.config, approval.dataset, STUDY.contract)
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


class TestFamiliesOfTables:
    """`family` of a data set in node.toml: who belongs together in a table."""

    @staticmethod
    def hospital(folder: Path, *, split: str) -> tuple[LabHospital, StudyDocument]:
        """Return a hospital of families of three, the last patients of none, and a study that splits so."""
        hospital = LabHospital(folder)
        rows = [
            {**row, "kin": f"F{number // 3}" if number < 45 else ""}
            for number, row in enumerate(hospital.rows)
        ]
        hospital.write_rows(rows)
        file = folder / "node.toml"
        file.write_text(file.read_text() + 'family = "kin"\n', encoding="utf-8")
        hospital.config = load_node_config(file)
        return hospital, study_document(evaluation={"split": {"by": split}})

    def test_a_family_is_on_one_side(self, tmp_path: Path) -> None:
        hospital, study = self.hospital(tmp_path / "north", split="family")
        hospital.approve(study)
        source = open_source(hospital.config, hospital.config.dataset[0], study.contract)
        units = read_units(source, study.contract)
        keys = read_node_keys(hospital.config.state)
        found = join_cohort(hospital.config, keys, study, units, now=hospital.clock())
        family = dict(zip(source.ids, source.families, strict=True))
        tested = {family[patient] for patient in found.test.ids}
        trained = {family[patient] for patient in found.training.ids}
        assert len(tested) >= 3
        assert len(trained) >= 3
        assert tested & trained <= {None}

    def test_a_split_by_patient_is_refused(self, tmp_path: Path) -> None:
        hospital, study = self.hospital(tmp_path / "north", split="patient")
        with pytest.raises(DataError, match="45 patients share a family") as caught:
            hospital.approve(study)
        assert caught.value.code == "SB-310"
        assert "F1" not in caught.value.message

    def test_a_table_without_the_column_is_refused(self, tmp_path: Path) -> None:
        hospital, study = self.hospital(tmp_path / "north", split="family")
        hospital.write_rows(hospital.rows)
        with pytest.raises(DataError, match="no column `kin` for the family") as caught:
            hospital.approve(study)
        assert caught.value.code == "SB-301"

    def test_the_families_column_is_no_column_of_the_contract(self, tmp_path: Path) -> None:
        hospital, study = self.hospital(tmp_path / "north", split="family")
        source = open_source(hospital.config, hospital.config.dataset[0], study.contract)
        assert "kin" not in source.columns
        assert source.families[44:46] == ("F14", None)

    def test_another_family_is_another_row(self) -> None:
        groups = {"family": ("x", "y")}
        units = TableUnits(
            ("a", "b"), np.zeros((2, 1), np.float32), np.zeros(2, int), groups=groups
        )
        assert units.row_bytes(0) != units.row_bytes(1)
        assert units.select([1]).groups == {"family": ("y",)}


class TestGroups:
    """Patients who belong together stay on one side (docs: how a split is made)."""

    @staticmethod
    def units(count: int = 200, papers_of: int = 10, **groups: tuple[str | None, ...]) -> CaseUnits:
        papers = tuple(f"PMID:{n // papers_of}" for n in range(count))
        return CaseUnits(
            ids=tuple(f"p{n}" for n in range(count)),
            labels=np.arange(count) % 2,
            starts=np.zeros(count + 1, dtype=np.int64),
            indices=np.zeros(0, dtype=np.int64),
            values=np.zeros(0, dtype=np.float32),
            size=4,
            sexes=(Sex.UNKNOWN,) * count,
            ages=(None,) * count,
            groups={"publication": papers, **groups},
            outside=np.zeros(count, dtype=np.int64),
        )

    def test_a_publication_is_on_one_side(self) -> None:
        units = self.units()
        named = split_ids(units, units.ids, "publication")
        assert len(set(named)) == 20
        for paper in range(20):
            assert len(set(named[paper * 10 : paper * 10 + 10])) == 1

    def test_a_patient_without_a_group_stands_alone(self) -> None:
        units = self.units(count=4, family=("f1", None, "f1", None))
        found = split_ids(units, units.ids, "family")
        assert found[0] == found[2]
        assert found[1] == "p1"
        assert found[3] == "p3"

    def test_a_groups_code_is_not_that_of_a_patient_of_its_name(self) -> None:
        units = self.units(count=2, family=("p1", None))
        found = split_ids(units, units.ids, "family")
        assert found[0] != found[1]

    def test_a_split_by_patient_is_refused_where_patients_share_a_publication(self) -> None:
        units = self.units()
        with pytest.raises(DataError, match="200 patients share a publication") as caught:
            split_ids(units, units.ids, "patient")
        assert caught.value.code == "SB-310"
        assert "PMID" not in caught.value.message

    def test_a_split_by_patient_is_good_where_nobody_shares_anything(self) -> None:
        units = self.units(papers_of=1)
        assert split_ids(units, units.ids, "patient") == list(units.ids)

    def test_a_split_by_what_the_data_do_not_name_is_refused(self) -> None:
        units = TableUnits(("a", "b"), np.zeros((2, 1), np.float32), np.array([0, 1]))
        with pytest.raises(DataError, match="splits by family") as caught:
            split_ids(units, units.ids, "family")
        assert caught.value.code == "SB-310"


def test_a_hospitals_days_are_those_of_its_own_clock_on_the_wall(hospital: LabHospital) -> None:
    patient = hospital.rows[0]["patient_id"]
    hospital.clock.now = dt.datetime(2026, 6, 30, 21, 59, tzinfo=dt.UTC)
    hospital.write_consent([f"{patient},granted,2026-06-30"])
    assert read_consent_now(hospital.config, now=hospital.clock()).includes(patient)
    hospital.clock.advance(minutes=1)  # midnight in Oslo
    assert not read_consent_now(hospital.config, now=hospital.clock()).includes(patient)
