"""FedAdam and FedYogi in whole federations: with local and with shared noise, cut and resumed, verified."""

from pathlib import Path
from typing import Any

import pytest

from integration.federation import Federation
from integration.shared_noise import SharedFederation
from integration.test_federation import failed_checks, interrupted
from solblom_server.rounds.runs import FinishedRun

YOGI: dict[str, Any] = {
    "strategy": "fedyogi",
    "server_learning_rate": 0.1,
    "beta_1": 0.9,
    "beta_2": 0.99,
    "tau": 1e-3,
}


def federation(kind: str, home: Path, training: dict[str, Any]) -> Federation:
    if kind == "shared":
        return SharedFederation(home, training=training, releases=False)
    return Federation(home, training=training)


def weights(run: FinishedRun) -> bytes:
    return (run.path / "model" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["local", "shared"])
def test_an_adaptive_run_is_verified_and_resumes_to_the_same_bits(
    kind: str, tmp_path: Path
) -> None:
    whole = federation(kind, tmp_path / "whole", YOGI)
    finished = whole.start()
    assert failed_checks(whole.home, finished) == []
    cut = federation(kind, tmp_path / "cut", YOGI)
    resumed = cut.resume(interrupted(cut, after_round=2))
    # Mask keys are drawn afresh in every run, so with shared noise only the model is the same.
    assert weights(resumed) == weights(finished)


def test_adaptive_steps_cost_no_privacy(tmp_path: Path) -> None:
    plain, adaptive = Federation(tmp_path / "plain"), Federation(tmp_path / "yogi", training=YOGI)
    assert adaptive.document.round_event == plain.document.round_event
    assert adaptive.document.noise_multiplier == plain.document.noise_multiplier
