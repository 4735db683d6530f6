"""Server optimisers against the textbook, one plain loop each."""

from typing import Any

import numpy as np
import pytest

from lab import study_document
from solblom_protocol.study_tables import TrainingTable
from solblom_server.optimisers import ServerState, step

START = np.array([1.0, -2.0, 0.5], dtype=np.float32)
MEANS = np.random.default_rng(20261122).normal(0, 0.1, size=(7, 3))


def training(**changes: Any) -> TrainingTable:
    return study_document(training={"rounds": len(MEANS), **changes}).study.training


def after_all_rounds(settings: TrainingTable) -> ServerState:
    state = ServerState.initial(START.copy())
    for number, mean in enumerate(MEANS, start=1):
        state = step(state, mean, settings, round_number=number)
    return state


def plain_loop(rate: float, momentum: float) -> list[np.ndarray]:
    """Return the model after each round, kept as float32 between rounds."""
    model, velocity, models = START.astype(np.float64), np.zeros(3), []
    for mean in MEANS:
        velocity = momentum * velocity + mean
        model = (model + rate * velocity).astype(np.float32).astype(np.float64)
        models.append(model)
    return models


def test_fedavg_adds_the_mean_update() -> None:
    final = after_all_rounds(training()).final_model()
    assert np.array_equal(final, plain_loop(1.0, 0.0)[-1])
    assert final == pytest.approx(START + MEANS.sum(axis=0), abs=1e-5)


@pytest.mark.parametrize(("rate", "momentum"), [(0.5, 0.0), (1.0, 0.9), (0.3, 0.5)])
def test_server_rate_and_momentum_are_those_of_fedavgm(rate: float, momentum: float) -> None:
    settings = training(server_learning_rate=rate, server_momentum=momentum)
    assert np.array_equal(after_all_rounds(settings).final_model(), plain_loop(rate, momentum)[-1])


def test_averaging_releases_the_mean_of_the_second_halfs_models() -> None:
    state = after_all_rounds(training(averaging="second-half"))
    later = plain_loop(1.0, 0.0)[3:]  # of seven rounds: those after round 3
    assert state.averaged_count == len(later) == 4
    assert np.array_equal(state.final_model(), np.mean(later, axis=0).astype(np.float32))


def test_averaging_does_not_touch_the_model_that_orders_carry() -> None:
    averaged = after_all_rounds(training(averaging="second-half"))
    assert np.array_equal(averaged.model, after_all_rounds(training()).model)


def test_averaging_over_one_round_is_that_rounds_model() -> None:
    settings = training(rounds=1, averaging="second-half")
    state = step(ServerState.initial(START.copy()), MEANS[0], settings, round_number=1)
    assert np.array_equal(state.final_model(), state.model)


def test_a_step_leaves_the_state_before_as_it_was() -> None:
    before = ServerState.initial(START.copy())
    step(before, MEANS[0], training(server_momentum=0.9), round_number=1)
    assert np.array_equal(before.model, START)
    assert before.momentum is None


def test_a_state_keeps_only_what_the_study_needs() -> None:
    plain, rich = (
        after_all_rounds(training()),
        training(server_momentum=0.9, averaging="second-half"),
    )
    assert (plain.momentum, plain.averaged) == (None, None)
    state = after_all_rounds(rich)
    assert state.momentum is not None
    assert state.averaged is not None


def test_the_released_model_is_float32() -> None:
    assert after_all_rounds(training(averaging="second-half")).final_model().dtype == np.float32
