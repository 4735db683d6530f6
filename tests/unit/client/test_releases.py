"""What leaves besides updates: counted exactly, noised exactly, charged to whom it touches, stored and repeated."""

from pathlib import Path

import numpy as np
import pytest

from lab import LabHospital, patient_rows, study_document
from solblom_client.keys import derive, is_test_patient, read_node_keys
from solblom_client.training.discrete_gaussian import discrete_gaussian
from solblom_client.training.keystream import KeyStream
from solblom_client.vault import read_approval
from solblom_models.accountant import pld_epsilon
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument

VARIABLES = ["age", "smoker", "ill"]
CELLS = 6 + 3 + 2


@pytest.fixture
def patients() -> int:
    """Enough that ten are left for testing whatever the split key."""
    return 160


def releasing(**changes: dict[str, object]) -> StudyDocument:
    tables: dict[str, dict[str, object]] = {
        "evaluation": {"releases": 2},
        "table_one": {"epsilon": 0.5, "variables": VARIABLES},
    }
    for name, change in changes.items():
        tables.setdefault(name, {}).update(change)
    return study_document(**tables)


def result(reply: Result | Refusal) -> Result:
    assert isinstance(reply, Result), reply
    return reply


def counts(reply: Result, cells: int) -> np.ndarray:
    return np.frombuffer(reply.update[: 8 * cells], dtype="<i8")


def noise_of(hospital: LabHospital, study: StudyDocument, reply: Result, cells: int) -> np.ndarray:
    """Return the noise that the hospital drew, rebuilt from its root as only it can."""
    keys = read_node_keys(hospital.config.state)
    root = read_approval(hospital.config, keys, study.digest).root
    stream = KeyStream(derive(root, "noise", reply.receipt.work))
    return discrete_gaussian(stream, reply.receipt.privacy_event().noise_multiplier, cells)


def test_patients(hospital: LabHospital) -> list[str]:
    split = read_node_keys(hospital.config.state).split
    ids = [row["patient_id"] for row in hospital.rows]
    return [patient for patient in ids if is_test_patient(split, patient, 0.3)]


test_patients.__test__ = False  # type: ignore[attr-defined]


def test_a_score_histogram_is_the_test_patients_by_class_and_score_plus_the_charged_noise(
    hospital: LabHospital,
) -> None:
    study = releasing()
    hospital.approve(study)
    reply = result(hospital.ask(hospital.evaluation(study)))
    exact = counts(reply, 20) - noise_of(hospital, study, reply, 20)
    labels = {row["patient_id"]: int(row["ill"]) for row in hospital.rows}
    chosen = [labels[patient] for patient in test_patients(hospital)]
    # The initial model scores everybody one half, which opens the sixth of ten bins.
    assert exact[5] == chosen.count(0)
    assert exact[15] == chosen.count(1)
    assert exact.sum() == len(chosen)
    assert (exact >= 0).all()


def test_table_one_is_everybody_plus_the_charged_noise(hospital: LabHospital) -> None:
    study = releasing()
    hospital.approve(study)
    reply = result(hospital.ask(hospital.description(study)))
    exact = counts(reply, CELLS) - noise_of(hospital, study, reply, CELLS)
    smokers = sum(row["smoker"] == "1" for row in hospital.rows)
    assert exact[6:9].tolist() == [len(hospital.rows) - smokers, smokers, 0]
    assert exact[0:6].sum() == exact[9:11].sum() == len(hospital.rows)


def test_releases_are_charged_to_those_whom_they_touch(hospital: LabHospital) -> None:
    study = releasing()
    hospital.approve(study)
    for order in (hospital.order(study), hospital.evaluation(study), hospital.description(study)):
        result(hospital.ask(order))
    by_kind = {entry.kind: entry.event for entry in hospital.vault.ledger.entries()}
    places = {kind: (e.patients_from, e.patients_to) for kind, e in by_kind.items()}
    assert places == {"train": ("0.3", "1"), "evaluate": ("0", "0.3"), "describe": ("0", "1")}
    assert by_kind["describe"].steps == len(VARIABLES)


def test_a_whole_study_with_releases_keeps_its_epsilon_for_every_patient() -> None:
    study = releasing()
    cost = pld_epsilon(study.all_events, 1e-5)
    assert 1.99 <= cost <= 2.0
    training = [e for e in study.all_events if e.patients_from == "0.3" or e.patients_to == "1"]
    testing = [e for e in study.all_events if e.patients_from == "0"]
    assert pld_epsilon(training, 1e-5) <= 2.0
    assert 1.95 <= pld_epsilon(testing, 1e-5) <= 2.0


def test_the_same_release_asked_again_gives_the_same_bytes_and_one_charge(
    hospital: LabHospital,
) -> None:
    study = releasing()
    hospital.approve(study)
    first = result(hospital.ask(hospital.evaluation(study)))
    again = result(hospital.ask(hospital.evaluation(study, attempt=2)))
    assert first.update == again.update
    assert first.envelope == again.envelope
    assert hospital.charges() == 1


def test_table_one_is_the_same_bytes_in_every_run_of_a_study(hospital: LabHospital) -> None:
    study = releasing()
    hospital.approve(study)
    first = result(hospital.ask(hospital.description(study, run="one")))
    hospital.restart()
    second = result(hospital.ask(hospital.description(study, run="two")))
    assert first.update == second.update
    assert hospital.charges() == 1


def test_another_model_is_another_release_with_other_noise(hospital: LabHospital) -> None:
    study = releasing()
    hospital.approve(study)
    first = result(hospital.ask(hospital.evaluation(study)))
    trained = np.full(6, 0.25, dtype="<f4").tobytes()
    second = result(hospital.ask(hospital.evaluation(study, round=2, array=trained)))
    assert hospital.charges() == 2
    noises = [noise_of(hospital, study, reply, 20).tolist() for reply in (first, second)]
    assert noises[0] != noises[1]


def test_a_withdrawn_test_patient_is_in_no_release(hospital: LabHospital) -> None:
    study = releasing()
    hospital.approve(study)
    hospital.write_consent([f"{test_patients(hospital)[0]},withdrawn,"])
    reply = result(hospital.ask(hospital.evaluation(study)))
    exact = counts(reply, 20) - noise_of(hospital, study, reply, 20)
    assert exact.sum() == len(test_patients(hospital)) - 1


def test_a_named_release_leaves_beside_the_counts_and_is_printed_on_the_receipt(
    tmp_path: Path,
) -> None:
    hospital = LabHospital(
        tmp_path / "open", patients=200, policy='named_releases = ["site-auroc"]'
    )
    study = releasing(evaluation={"releases": 1, "named": ["site-auroc"]})
    hospital.approve(study)
    reply = result(hospital.ask(hospital.evaluation(study)))
    assert reply.receipt.outside_epsilon == ["site-auroc"]
    assert np.frombuffer(reply.update[8 * 20 :], dtype="<f8")[0] == 0.5  # everybody scores alike
    hospital.vault.close()


def test_without_a_name_nothing_leaves_beside_the_counts(hospital: LabHospital) -> None:
    study = releasing()
    hospital.approve(study)
    reply = result(hospital.ask(hospital.evaluation(study)))
    assert len(reply.update) == 8 * 20
    assert reply.receipt.outside_epsilon == []


@pytest.mark.parametrize("patients", [160, 300])
def test_a_release_has_the_same_size_whatever_the_data(tmp_path: Path, patients: int) -> None:
    hospital = LabHospital(tmp_path / "sized", patients=patients)
    hospital.write_rows(patient_rows(patients, site="north", seed=9))
    study = releasing()
    hospital.approve(study)
    sizes = [len(hospital.vault.process(order)) for order in (hospital.evaluation(study),)]
    reply = result(hospital.ask(hospital.description(study)))
    assert sizes == [len(hospital.vault.process(hospital.evaluation(study, attempt=2)))]
    assert len(reply.update) == 8 * CELLS
    hospital.vault.close()
