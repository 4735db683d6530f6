"""Runs with random withdrawals: nobody is used after theirs took effect, by the real join and by the real vault."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab import LabHospital, study_document
from solblom_client import answers as answers_module
from solblom_client.cohorts import cohort as cohort_module
from solblom_client.consent.join import ConsentState
from solblom_client.keys import read_node_keys
from solblom_protocol.messages.result import Result
from withdrawals import Hospital, Oracle, simulate

STUDY = study_document()


@pytest.fixture
def simulated(tmp_path: Path) -> Hospital:
    lab = LabHospital(tmp_path / "north", patients=20)
    return Hospital(lab.folder, lab.config, read_node_keys(lab.config.state), STUDY)


def totals(oracles: list[Oracle]) -> Oracle:
    found = Oracle()
    for oracle in oracles:
        found.used_after += oracle.used_after
        found.wrongly_left_out += oracle.wrongly_left_out
        found.released += oracle.released
        found.dropped += oracle.dropped
        found.withdrew_at |= {len(found.withdrew_at) + n: s for n, s in oracle.withdrew_at.items()}
    return found


@pytest.mark.parametrize("runs", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_patient_round_is_used_after_a_withdrawal(simulated: Hospital, runs: int) -> None:
    found = totals([simulate(simulated, seed) for seed in range(runs)])
    assert found.used_after == 0
    assert found.wrongly_left_out == 0
    # The runs were worth something: thousands of updates left, and many were dropped at the last look.
    assert found.released > 2 * runs
    assert found.dropped > runs // 2


def test_a_snapshot_of_consent_at_the_start_of_a_run_is_caught(
    simulated: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = 0
    for seed in range(50):
        snapshots: list[ConsentState] = []
        real = cohort_module.read_consent_now

        def once(*args: Any, real: Any, snapshots: list[ConsentState], **options: Any) -> Any:
            if not snapshots:
                snapshots.append(real(*args, **options))
            return snapshots[0]

        with monkeypatch.context() as patch:
            mutant = partial(once, real=real, snapshots=snapshots)
            patch.setattr(cohort_module, "read_consent_now", mutant)
            used += simulate(simulated, seed).used_after
    assert used > 50


def test_without_the_second_look_it_is_caught(
    simulated: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohort_module, "check_consent_holds", lambda *_, **__: None)
    assert sum(simulate(simulated, seed).used_after for seed in range(50)) > 10


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[pytest.mark.slow] * (n > 1)) for n in range(20)]
)
def test_the_real_vault_uses_nobody_after_a_withdrawal(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = LabHospital(tmp_path / "north", patients=60)
    hospital.approve(STUDY)
    rng, withdrawn = random.Random(seed), set[str]()  # noqa: S311
    used: list[tuple[str, ...]] = []

    def withdraw_some(share: float) -> None:
        willing = [r["patient_id"] for r in hospital.rows if r["patient_id"] not in withdrawn]
        withdrawn.update(p for p in willing if rng.random() < share)
        hospital.write_consent([f"{patient},withdrawn," for patient in sorted(withdrawn)])

    real = answers_module.train

    def train_while_people_leave(
        task: Any, net: Any, units: Any, *args: Any, **options: Any
    ) -> Any:
        used.append(tuple(units.ids))
        trace = real(task, net, units, *args, **options)
        if rng.random() < 0.4:
            withdraw_some(0.04)
        return trace

    monkeypatch.setattr(answers_module, "train", train_while_people_leave)
    left = 0
    for number in (1, 2, 3):
        withdraw_some(0.05)
        for attempt in (1, 2):
            used.clear()
            reply = hospital.ask(hospital.order(STUDY, round=number, attempt=attempt))
            if isinstance(reply, Result):
                left += 1
                assert used, "a reply without training"
                assert not withdrawn & set(used[-1])
                break
        else:
            break
    assert left or withdrawn
