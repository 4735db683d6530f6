"""Studies whose unit of privacy is the family, at a real vault: what it refuses, counts, charges and says."""

import dataclasses
import datetime as dt
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from check_lab import lights
from fixed_secrets import fixed_secrets
from lab import LabHospital, study_document
from replay_lab import LabRun
from security.observer import Observer
from solblom_client.approvals.approval import prepare, read_approval
from solblom_client.approvals.summary import ApprovalSummary
from solblom_client.approvals.words import Lang
from solblom_client.checks.finding import Light
from solblom_client.cli import ledger_report
from solblom_client.cohorts.cohort import Cohort, join_cohort
from solblom_client.cohorts.families import Families
from solblom_client.cohorts.record import forget_old
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.outbox.statement import collect_statement, statement_lines
from solblom_client.policy import load_node_config
from solblom_models.accountant import patient_epsilon, pld_epsilon, rdp_epsilon
from solblom_protocol.errors import ConfigurationError, DataError, RefusedError
from solblom_protocol.messages.result import Refusal, Result, count_band
from solblom_protocol.studies.study import StudyDocument, parse_document

FAMILY = {"split": {"by": "family"}}
RELEASES = {**FAMILY, "releases": 2, "epsilon": 0.5}


def family_study(**changes: Any) -> StudyDocument:
    privacy = {"unit": "family"} | changes.pop("privacy", {})
    evaluation = changes.pop("evaluation", FAMILY)
    cohort = {"min_patients": 5} | changes.pop("cohort", {})
    return study_document(privacy=privacy, evaluation=evaluation, cohort=cohort, **changes)


def with_kin(hospital: LabHospital, names: list[str], *, policy: str = "") -> LabHospital:
    """Give a hospital's patients families by the column `kin`."""
    rows = [{**row, "kin": name} for row, name in zip(hospital.rows, names, strict=True)]
    hospital.rows = rows
    hospital.write_rows(rows)
    file = hospital.folder / "node.toml"
    text = file.read_text(encoding="utf-8").replace("[policy]", f"[policy]\n{policy}", 1)
    file.write_text(text + 'family = "kin"\n', encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()
    return hospital


def of_three(count: int = 90, alone: int = 15) -> list[str]:
    return [f"F{n // 3}" if n < count - alone else "" for n in range(count)]


@pytest.fixture
def patients() -> int:
    return 90


@pytest.fixture
def kin(hospital: LabHospital) -> LabHospital:
    return with_kin(hospital, of_three(), policy="study_epsilon = 6.0\nmin_patients = 5")


def cohort_of(hospital: LabHospital, study: StudyDocument) -> Cohort:
    keys = read_node_keys(hospital.config.state)
    task = read_approval(hospital.config, keys, study.digest).task
    units = task.read_units(
        open_source(hospital.config, hospital.config.dataset[0], study.contract), study
    )
    return join_cohort(hospital.config, keys, study, units, now=hospital.clock())


def summary(hospital: LabHospital, study: StudyDocument, lang: Lang = "en") -> ApprovalSummary:
    keys, envelope = read_node_keys(hospital.config.state), hospital.sign(study)
    return prepare(hospital.config, keys, envelope, now=hospital.clock(), lang=lang).summary


def refused(hospital: LabHospital, study: StudyDocument) -> DataError:
    with pytest.raises(DataError) as caught:
        hospital.approve(study)
    return caught.value


# --- The study


@pytest.mark.parametrize("by", ["patient", "publication"])
def test_a_split_that_could_part_a_family_is_refused(by: str) -> None:
    study = family_study(evaluation={"split": {"by": by}})
    with pytest.raises(ConfigurationError, match="on both sides") as caught:
        parse_document(study.payload())
    assert caught.value.code == "SB-103"


def test_the_noise_is_that_of_the_same_study_by_patient() -> None:
    by_family = family_study(evaluation=RELEASES)
    by_patient = study_document(evaluation=RELEASES)
    assert by_family.noise_multiplier == by_patient.noise_multiplier
    assert by_family.evaluation_noise == by_patient.evaluation_noise
    delta = by_family.study.privacy.delta
    assert pld_epsilon(by_family.all_events, delta) == pld_epsilon(by_patient.all_events, delta)


def test_a_study_by_patient_says_nothing_new() -> None:
    study = study_document(evaluation=RELEASES)
    assert all("patient_steps" not in event.to_json() for event in study.all_events)


# --- Approval


def test_the_person_who_approves_reads_who_is_protected_in_english(kin: LabHospital) -> None:
    told = summary(kin, family_study(evaluation=RELEASES))
    assert "whether or not one family takes part, with all its members" in told.promise
    whole = " ".join(told.protects)
    assert "the family, as your data set names it" in whole
    assert "one patient is counted" in whole
    cost = patient_epsilon(family_study(evaluation=RELEASES).all_events, 1e-5)
    assert f"epsilon {math.ceil(cost * 1000) / 1000:.3f}" in whole
    assert any(label == "protects" for label, _ in told.lines())


def test_the_person_who_approves_reads_who_is_protected_in_norwegian(kin: LabHospital) -> None:
    told = summary(kin, family_study(evaluation=RELEASES), "no")
    assert "enten én familie, med alle sine medlemmer" in told.promise
    assert "familien, slik datasettet deres angir den" in " ".join(told.protects)
    assert any(label == "verner" for label, _ in told.lines())


def test_families_are_counted_as_they_are(kin: LabHospital) -> None:
    study = family_study()
    told = summary(kin, study).protects[0]
    kin.approve(study)
    names = [
        name or f"alone {n}"
        for n, name in enumerate(cohort_of(kin, study).training.groups["family"])
    ]  # type: ignore[attr-defined]
    sizes = Counter(names).values()
    assert f"{len(sizes)} families to train on, {sum(size > 1 for size in sizes)} of them" in told


def test_a_hospital_is_as_large_as_its_families_where_a_rule_compares_updates(
    hospital: LabHospital,
) -> None:
    """Five patients of a family weigh as one: by their number an honest divisor would look wrong."""
    policy = "study_epsilon = 6.0\nmin_patients = 5"
    kin = with_kin(hospital, [f"F{n // 5}" for n in range(90)], policy=policy)

    def told(divisor: float) -> ApprovalSummary:
        batches = {"north": divisor, "b": 1.0, "c": 1.0}
        training = {"strategy": "median", "expected_batch_size": batches}
        cohort = {"min_nodes": 3, "quorum": 3}
        every = {"sampling_rate": 1.0}
        return summary(kin, family_study(training=training, cohort=cohort, privacy=every))

    patients = told(12.0).training_patients
    families = patients // 5
    assert told(float(families)).warnings == ()
    (warning,) = told(float(patients)).warnings
    assert f"divides your sums by {patients} families; about {families} of yours" in warning


def test_a_data_set_without_a_family_column_is_refused(hospital: LabHospital) -> None:
    error = refused(hospital, family_study(privacy={"epsilon": 1.0}))
    assert error.code == "SB-310"
    assert "the data set names none" in error.message


def test_a_minimum_of_patients_is_one_of_families(kin: LabHospital) -> None:
    error = refused(kin, family_study(cohort={"min_patients": 45}))
    assert error.code == "SB-306"
    assert "families of" in error.message


def test_a_study_that_costs_one_patient_more_than_the_hospital_allows_is_refused(
    kin: LabHospital,
) -> None:
    study = family_study(privacy={"epsilon": 5.0})
    assert patient_epsilon(study.all_events, 1e-5) > 6.0 > pld_epsilon(study.all_events, 1e-5)
    with pytest.raises(RefusedError, match="one patient whose family stays") as caught:
        kin.approve(study)
    assert caught.value.code == "SB-204"


def test_a_check_before_approval_counts_families(kin: LabHospital) -> None:
    found = lights(kin, family_study())["cohort"]
    assert found.light is Light.OK
    assert "families to train on" in found.text
    assert lights(kin, family_study(cohort={"min_patients": 45}))["cohort"].light is Light.STOP


# --- Orders


def test_a_round_is_charged_to_the_patient_and_said_for_the_family(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    reply = kin.ask(kin.order(study))
    assert isinstance(reply, Result)
    event = kin.vault.ledger.entries()[0].event
    assert (event.steps, event.patient_steps) == (1, 2)
    assert reply.receipt.event == event.to_json()
    spent = kin.vault.ledger.lifetime_epsilon(1e-5)
    as_two_steps = dataclasses.replace(event, steps=2, patient_steps=None)
    order = kin.vault.ledger.filter_order
    assert spent == rdp_epsilon([as_two_steps], 1e-5, order=order)


def test_a_round_over_everybody_costs_a_patient_what_it_costs_the_family(kin: LabHospital) -> None:
    study = family_study(privacy={"sampling_rate": 1.0})
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    event = kin.vault.ledger.entries()[0].event
    assert event.patient_steps == event.steps == 1


def test_the_forecast_is_what_the_rounds_then_cost(kin: LabHospital) -> None:
    study = family_study()
    told = summary(kin, study)
    kin.approve(study)
    for number in (1, 2, 3):
        assert isinstance(kin.ask(kin.order(study, round=number)), Result)
    spent = kin.vault.ledger.lifetime_epsilon(1e-5)
    assert spent <= float(told.lifetime_after) <= spent + 0.001


def test_no_family_spans_training_and_test(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    cohort = cohort_of(kin, study)
    sides = [{n for n in part.groups["family"] if n} for part in (cohort.training, cohort.test)]  # type: ignore[attr-defined]
    assert min(map(len, sides)) >= 2
    assert not sides[0] & sides[1]


def test_an_evaluation_counts_one_of_each_family_and_is_charged_so(kin: LabHospital) -> None:
    study = family_study(evaluation=RELEASES)
    kin.approve(study)
    cohort = cohort_of(kin, study)
    names = [name or str(n) for n, name in enumerate(cohort.test.groups["family"])]  # type: ignore[attr-defined]
    assert len(cohort.counted_test.ids) == len(set(names)) < len(cohort.test.ids)
    reply = kin.ask(kin.evaluation(study))
    assert isinstance(reply, Result)
    assert reply.receipt.patients != "0"
    event = kin.vault.ledger.entries()[0].event
    assert (event.kind, event.steps, event.patient_steps) == ("discrete-gaussian", 1, 2)


def test_table_one_counts_one_of_each_family_and_is_charged_so(kin: LabHospital) -> None:
    table = {"epsilon": 0.5, "variables": ["age", "smoker"]}
    study = family_study(table_one=table, privacy={"epsilon": 1.5})
    kin.approve(study)
    cohort = cohort_of(kin, study)
    names = [name or str(n) for n, name in enumerate(cohort.everybody.groups["family"])]  # type: ignore[attr-defined]
    assert len(cohort.counted.ids) == len(set(names)) < len(cohort.everybody.ids)
    assert isinstance(kin.ask(kin.description(study)), Result)
    event = kin.vault.ledger.entries()[0].event
    assert (event.kind, event.steps, event.patient_steps) == ("discrete-gaussian", 2, 4)


def test_the_ledger_as_people_read_it_counts_for_patients(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    shown = ledger_report(kin.config, kin.vault.ledger)
    event = kin.vault.ledger.entries()[0].event
    told = float(shown["studies"][0]["epsilon"])
    assert told >= patient_epsilon([event], 1e-5) > pld_epsilon([event], 1e-5)


@pytest.mark.parametrize("first", ["patient", "family"])
def test_studies_of_both_units_spend_one_lifetime_in_either_order(
    kin: LabHospital, first: str
) -> None:
    """Events have no order, an event of a patient's study has no `patient_steps`, and is read as it always was."""
    by_patient = study_document(evaluation=FAMILY)
    studies = {"patient": by_patient, "family": family_study(evaluation=RELEASES)}
    for unit in sorted(studies, key=lambda unit: unit != first):
        study = studies[unit]
        kin.approve(study)
        assert isinstance(kin.ask(kin.order(study, run=unit)), Result)
    ledger, family = kin.vault.ledger, studies["family"].round_event
    assert [entry.event.patient_steps for entry in ledger.entries()].count(None) == 1
    twice = [dataclasses.replace(family, patient_steps=None)] * 2
    expected = rdp_epsilon([by_patient.round_event, *twice], 1e-5, order=ledger.filter_order)
    assert ledger.lifetime_epsilon(1e-5) == pytest.approx(expected, rel=1e-12)
    kin.restart()
    assert kin.vault.ledger.lifetime_epsilon(1e-5) == pytest.approx(expected, rel=1e-12)


def test_who_withdraws_leaves_and_the_family_stays(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    before = cohort_of(kin, study).training
    family = next(name for name in before.groups["family"] if name)  # type: ignore[attr-defined]
    gone = next(p for p, n in zip(before.ids, before.groups["family"], strict=True) if n == family)  # type: ignore[attr-defined]
    assert isinstance(kin.ask(kin.order(study)), Result)
    kin.write_consent([f"{gone},withdrawn,"])
    after = cohort_of(kin, study).training
    assert set(before.ids) - set(after.ids) == {gone}
    assert list(after.groups["family"]).count(family) == 2  # type: ignore[attr-defined]
    assert isinstance(kin.ask(kin.order(study, round=2)), Result)


@pytest.mark.parametrize("to", ["F1", "", "a new one"], ids=["another's", "none", "a new one"])
def test_a_patient_who_changes_families_between_rounds_stops_the_round(
    kin: LabHospital, to: str
) -> None:
    study = family_study()
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    kin.write_rows([{**row, "kin": to} if n == 0 else row for n, row in enumerate(kin.rows)])
    reply = kin.ask(kin.order(study, round=2))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"
    log = (kin.config.state / "log" / "vault.jsonl").read_text(encoding="utf-8")
    assert "another family than when the study began" in log
    assert kin.rows[0]["patient_id"] not in log
    assert refused(kin, study).code == "SB-314"


def test_a_study_whose_families_are_forgotten_ends_here(kin: LabHospital) -> None:
    """Else whoever waits for `cohort_record_years` could move patients between rounds."""
    study = family_study()
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    state = kin.vault._state
    with state.transaction():
        forget_old(state, before=kin.clock() + dt.timedelta(days=1))
    kin.write_rows([{**row, "kin": "F9"} if n == 0 else row for n, row in enumerate(kin.rows)])
    reply = kin.ask(kin.order(study, round=2))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-209"
    error = refused(kin, study)
    assert (error.code, "is forgotten" in error.message) == ("SB-314", True)


def test_families_that_come_back_are_welcome_again(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    kin.write_rows([{**row, "kin": "F9"} if n == 0 else row for n, row in enumerate(kin.rows)])
    assert isinstance(kin.ask(kin.order(study, round=2)), Refusal)
    kin.write_rows(kin.rows)
    assert isinstance(kin.ask(kin.order(study, round=2, attempt=2)), Result)


def test_a_new_patient_may_join_a_family(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    kin.write_rows([*kin.rows, {**kin.rows[0], "patient_id": "later"}])
    assert isinstance(kin.ask(kin.order(study, round=2)), Result)


def test_another_study_may_meet_other_families(kin: LabHospital) -> None:
    first, second = family_study(), family_study(training={"learning_rate": 0.4})
    kin.approve(first)
    assert isinstance(kin.ask(kin.order(first)), Result)
    kin.write_rows([{**row, "kin": "F9"} if n == 0 else row for n, row in enumerate(kin.rows)])
    kin.approve(second)
    assert isinstance(kin.ask(kin.order(second, run="lab-2")), Result)


def test_the_record_of_families_holds_no_name(kin: LabHospital) -> None:
    study = family_study()
    kin.approve(study)
    assert isinstance(kin.ask(kin.order(study)), Result)
    data = b"".join(p.read_bytes() for p in kin.config.state.glob("vault.sqlite*"))
    assert b"F12" not in data
    assert kin.rows[0]["patient_id"].encode() not in data


def test_no_familys_name_leaves_in_answers_refusals_or_the_log_of_decisions(
    hospital: LabHospital,
) -> None:
    """Planted in every row, and searched for in all that crosses, also where a patient changes families."""
    names = [f"SECRET-FAMILY-{n // 3}" for n in range(90)]
    kin = with_kin(hospital, names, policy="study_epsilon = 6.0\nmin_patients = 5")
    table = {"epsilon": 0.5, "variables": ["age", "smoker"]}
    described = family_study(table_one=table, privacy={"epsilon": 1.5})
    study = family_study(evaluation=RELEASES)
    kin.approve(described)
    kin.approve(study)
    orders = [kin.description(described, run="lab-2"), kin.order(study), kin.evaluation(study)]
    replies = [kin.vault.process(order) for order in orders]
    assert all(isinstance(kin.read(reply), Result) for reply in replies)
    moved = [{**row, "kin": "SECRET-FAMILY-9"} if n == 0 else row for n, row in enumerate(kin.rows)]
    kin.write_rows(moved)
    replies.append(kin.vault.process(kin.order(study, round=2)))
    refusal = kin.read(replies[-1])
    assert isinstance(refusal, Refusal)
    assert refusal.code == "SB-209"
    crossed = [Observer(kin).crossed(reply) for reply in replies]
    log = "".join(read_entries(log_place(kin.config)))
    crossed += [
        log.encode(),
        "".join(statement_lines(collect_statement(kin.config, kin.vault._state), "en")).encode(),
    ]
    for told in crossed:
        assert b"SECRET-FAMILY" not in told
        assert not [row for row in kin.rows if row["patient_id"].encode() in told]


# --- Replay


def test_a_round_by_family_is_worked_on_again_with_the_same_bytes(
    kin: LabHospital, tmp_path: Path
) -> None:
    document = family_study(task={"model": {"kind": "mlp", "hidden": [24]}})
    with fixed_secrets("family replay"):
        run = LabRun(kin, document, tmp_path / "model").finish(3)
    found = run.replay(2, noise=True)
    assert found.same
    assert found.noise is not None
    assert found.noise.passed


def test_a_round_whose_families_changed_since_is_not_replayed(
    kin: LabHospital, tmp_path: Path
) -> None:
    document = family_study(task={"model": {"kind": "mlp", "hidden": [24]}})
    run = LabRun(kin, document, tmp_path / "model").finish(2)
    kin.write_rows([{**row, "kin": "X"} for row in kin.rows])
    with pytest.raises(RefusedError) as caught:
        run.replay(1)
    assert caught.value.code == "SB-443"


# --- What leaves


def test_receipts_tell_bands_of_families_and_never_of_patients_beside_them(
    kin: LabHospital,
) -> None:
    """A band of patients trained on beside one of families counted would say, uncharged, how large families are."""
    table = {"epsilon": 0.5, "variables": ["age"]}
    study = family_study(table_one=table, privacy={"epsilon": 1.5})
    kin.approve(study)
    cohort = cohort_of(kin, study)
    families = len(Families.of(cohort.training).members)
    assert count_band(families) != count_band(len(cohort.training.ids))
    for order, count in (
        (kin.order(study), families),
        (kin.description(study), len(cohort.counted.ids)),
    ):
        reply = kin.ask(order)
        assert isinstance(reply, Result)
        assert reply.receipt.patients == count_band(count)


def test_a_family_weighs_as_one_patient_in_an_update(tmp_path: Path) -> None:
    """Without noise worth speaking of: thirty families of three twins give what thirty patients give."""
    updates = []
    for copies in (1, 3):
        hospital = LabHospital(tmp_path / str(copies), patients=30)
        rows = [
            {**row, "patient_id": f"{row['patient_id']}-{n}", "kin": f"F{number}"}
            for number, row in enumerate(hospital.rows)
            for n in range(copies)
        ]
        hospital.rows = rows
        with_kin(
            hospital,
            [row["kin"] for row in rows],
            policy="allow_privacy_off = true\nmin_patients = 2",
        )
        study = family_study(privacy={"epsilon": "off", "sampling_rate": 1.0})
        keys = read_node_keys(hospital.config.state)
        (hospital.config.state / "keys" / "split.key").write_bytes(b"s" * len(keys.split))
        hospital.restart()
        hospital.approve(study)
        reply = hospital.ask(hospital.order(study))
        assert isinstance(reply, Result)
        updates.append(np.frombuffer(reply.update, dtype="<f4"))
    assert np.abs(updates[0] - updates[1]).max() < 1e-6
    assert np.abs(updates[0]).max() > 1e-3
