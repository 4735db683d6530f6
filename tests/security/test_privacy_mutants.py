"""Broken builds must be noticed: each mutant of the training code is caught by the audit or by a key test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import LabHospital, study_document
from solblom_client import answers as answers_module
from solblom_client.training.dp_sgd import TrainingSettings, train
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_models.accountant import pld_epsilon
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.messages.result import Result
from solblom_simulation.audit import ROWS, audit_study, epsilon_lower_bound, p_value

Step = Callable[[KeyedDPOptimizer], None]
ADD_NOISE: Step = KeyedDPOptimizer.add_noise
CLIP: Step = KeyedDPOptimizer.clip_and_accumulate


def audit(**privacy: float) -> Any:
    document = study_document(privacy=privacy, training={"rounds": 10})
    return audit_study(document, canaries=1000, seed=7)


def test_the_correct_build_passes() -> None:
    for epsilon, rate in ((3.0, 1.0), (1.0, 0.5)):
        assert audit(epsilon=epsilon, sampling_rate=rate).passed


@pytest.mark.slow
def test_the_correct_build_passes_on_twenty_of_twenty_seeds() -> None:
    document = study_document(privacy={"epsilon": 1.0, "sampling_rate": 1.0})
    assert all(audit_study(document, canaries=1000, seed=seed).passed for seed in range(20))


def test_noise_of_a_tenth_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(optimizer: KeyedDPOptimizer) -> None:
        optimizer.noise_multiplier /= 10
        ADD_NOISE(optimizer)
        optimizer.noise_multiplier *= 10

    monkeypatch.setattr(KeyedDPOptimizer, "add_noise", weak)
    assert not audit(epsilon=1.0, sampling_rate=1.0).passed


def test_missing_clipping_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(optimizer: KeyedDPOptimizer) -> None:
        norm, optimizer.max_grad_norm = optimizer.max_grad_norm, 1e9
        CLIP(optimizer)
        optimizer.max_grad_norm = norm

    monkeypatch.setattr(KeyedDPOptimizer, "clip_and_accumulate", unclipped)
    assert not audit(epsilon=1.0, sampling_rate=1.0).passed


def test_clipping_by_row_instead_of_by_patient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(optimizer: KeyedDPOptimizer) -> None:
        for parameter in optimizer.params:
            one_row = parameter.grad_sample / ROWS
            parameter.grad_sample = one_row.repeat(ROWS, *[1] * (one_row.ndim - 1))
        CLIP(optimizer)

    monkeypatch.setattr(KeyedDPOptimizer, "clip_and_accumulate", by_row)
    assert not audit(epsilon=1.0, sampling_rate=1.0).passed


def test_noise_once_per_federation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def first_only(optimizer: KeyedDPOptimizer) -> None:
        calls.append(1)
        multiplier = optimizer.noise_multiplier
        optimizer.noise_multiplier = multiplier if len(calls) == 1 else 0.0
        ADD_NOISE(optimizer)
        optimizer.noise_multiplier = multiplier

    monkeypatch.setattr(KeyedDPOptimizer, "add_noise", first_only)
    assert not audit(epsilon=1.0, sampling_rate=1.0).passed


def test_two_rounds_never_share_their_noise(hospital: LabHospital) -> None:
    """At a tiny epsilon an update is nearly all noise, so reused noise would make updates alike."""
    study = study_document(privacy={"epsilon": 0.02, "sampling_rate": 1.0})
    hospital.approve(study)
    updates = []
    for number in (1, 2):
        reply = hospital.ask(hospital.order(study, round=number))
        assert isinstance(reply, Result)
        updates.append(np.frombuffer(reply.update, dtype="<f4"))
    difference = np.linalg.norm(updates[0] - updates[1])
    assert difference > 0.5 * np.linalg.norm(updates[0])


def test_sampling_follows_the_secret_root_and_not_the_public_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[bytes] = []
    original = answers_module.derive

    def spy(root: bytes, purpose: Any, work: str) -> bytes:
        key = original(root, purpose, work)
        if purpose == "sampling":
            keys.append(key)
        return key

    monkeypatch.setattr(answers_module, "derive", spy)
    study = study_document(training={"seed": 1})
    for number in (1, 2):
        lab = LabHospital(tmp_path / str(number))
        lab.approve(study)
        lab.ask(lab.order(study))
    draws = [tuple(KeyStream(key).integers(4).tolist()) for key in keys]
    assert len(set(draws)) == 2


def test_a_budget_that_starts_anew_each_round_is_caught(hospital: LabHospital) -> None:
    study = study_document(privacy={"epsilon": 1.0}, training={"rounds": 3})
    hospital.approve(study)
    for number in (1, 2, 3):
        hospital.ask(hospital.order(study, round=number))
        hospital.restart()
    spent = pld_epsilon([entry.event for entry in hospital.vault.ledger.entries()], 1e-5)
    assert spent == pld_epsilon([study.round_event] * 3, 1e-5)
    assert spent > 1.5 * pld_epsilon([study.round_event], 1e-5)


def test_the_divisor_does_not_follow_the_hospitals_size() -> None:
    """With privacy off and everybody drawn, three times the patients move the model three times as far."""
    study = study_document(privacy={"epsilon": "off", "sampling_rate": 1.0})
    settings, task = TrainingSettings.of(study), TabularClassification()
    rng = np.random.default_rng(3)
    features = rng.normal(size=(20, 5)).astype(np.float32)
    labels = rng.integers(0, 2, 20)
    moved = []
    for copies in (1, 3):
        ids = tuple(f"patient-{i}" for i in range(20 * copies))
        units = TableUnits(ids, np.tile(features, (copies, 1)), np.tile(labels, copies))
        net = task.build(study)
        train(task, net, units, settings, coins=KeyStream(b"c" * 32), noise=KeyStream(b"n" * 32))
        moved.append(np.concatenate([p.detach().numpy().ravel() for p in net.parameters()]))
    assert moved[1] == pytest.approx(3 * moved[0], rel=1e-4)


def test_the_p_value_is_the_binomial_tail_when_delta_is_zero() -> None:
    assert p_value(100, 100, 60, 0.0, 0.0) == pytest.approx(0.0284, abs=2e-4)


def test_perfect_guesses_prove_the_known_bound() -> None:
    """Without delta, r right of r guesses refute epsilon below log(p / (1 - p)), p = level^(1/r)."""
    chance = 1e-4 ** (1 / 500)
    expected = np.log(chance / (1 - chance))
    assert epsilon_lower_bound(500, 500, 500, 0.0, 1e-4) == pytest.approx(expected, rel=1e-6)
