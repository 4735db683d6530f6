"""Server optimisers against the textbook, one plain loop each."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import study_document
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_protocol.studies.tables import TrainingTable
from solblom_server.rounds.checkpoints import read_checkpoint, write_checkpoint
from solblom_server.rounds.rounds import PROGRESS, run_rounds
from unit.server.house import HONEST, SITES, Hospital, House, local_grid

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


ADAPTIVE = {"beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3, "server_learning_rate": 0.1}


def adaptive_loop(strategy: str, rate: float, beta_1: float, beta_2: float, tau: float) -> Any:
    """Return the last model of Reddi et al.'s Algorithm 2, one number at a time, kept as float32 between rounds."""
    model = [float(x) for x in START]
    first, second = [0.0] * 3, [tau**2] * 3
    for mean in MEANS.tolist():
        for i, change in enumerate(mean):
            first[i] = beta_1 * first[i] + (1 - beta_1) * change
            if strategy == "fedyogi":
                sign = (second[i] > change**2) - (second[i] < change**2)
                second[i] = second[i] - (1 - beta_2) * change**2 * sign
            else:
                second[i] = beta_2 * second[i] + (1 - beta_2) * change**2
            model[i] += rate * first[i] / (math.sqrt(second[i]) + tau)
            model[i] = float(np.float32(model[i]))
    return np.array(model, dtype=np.float32)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
@pytest.mark.parametrize(
    ("rate", "beta_1", "beta_2", "tau"),
    [(0.1, 0.9, 0.99, 1e-3), (1.0, 0.0, 0.5, 0.1), (0.01, 0.5, 0.0, 1e-8)],
)
def test_adaptive_steps_are_those_of_algorithm_2(
    strategy: str, rate: float, beta_1: float, beta_2: float, tau: float
) -> None:
    constants = {"beta_1": beta_1, "beta_2": beta_2, "tau": tau}
    settings = training(strategy=strategy, server_learning_rate=rate, **constants)
    found = after_all_rounds(settings).final_model()
    assert found == pytest.approx(adaptive_loop(strategy, rate, beta_1, beta_2, tau), rel=1e-6)


@pytest.mark.parametrize(
    ("strategy", "second", "moved"),
    # By hand: tau .1, so v starts at .01; the mean is .2, so its square is .04 and m = .1 * .2 = .02.
    # Adam: v = .5 * .01 + .5 * .04 = .025. Yogi: .01 < .04, so v = .01 + .5 * .04 = .03.
    [("fedadam", 0.025, 0.02 / (0.025**0.5 + 0.1)), ("fedyogi", 0.03, 0.02 / (0.03**0.5 + 0.1))],
)
def test_the_first_adaptive_step_by_hand(strategy: str, second: float, moved: float) -> None:
    constants = {"beta_1": 0.9, "beta_2": 0.5, "tau": 0.1, "server_learning_rate": 1.0}
    settings = training(strategy=strategy, **constants)
    state = ServerState.initial(np.zeros(1, dtype=np.float32))
    state = step(state, np.array([0.2]), settings, round_number=1)
    assert state.second_moment is not None
    assert state.second_moment[0] == pytest.approx(second)
    assert state.model[0] == pytest.approx(moved)


def test_yogi_lowers_its_second_moment_by_no_more_than_a_share_of_the_square() -> None:
    settings = training(strategy="fedyogi", beta_1=0.0, beta_2=0.9, tau=1.0)
    state = step(ServerState.initial(START.copy()), np.full(3, 0.1), settings, round_number=1)
    assert state.second_moment == pytest.approx(np.full(3, 1.0 - 0.1 * 0.01))


def test_adaptive_steps_hardly_depend_on_how_large_updates_are() -> None:
    settings = training(strategy="fedadam", **(ADAPTIVE | {"tau": 1e-8}))
    moves = []
    for scale in (1.0, 1000.0):
        state = ServerState.initial(np.zeros(3, dtype=np.float32))
        moves.append(step(state, MEANS[0] * scale, settings, round_number=1).model)
    assert moves[0] == pytest.approx(moves[1], rel=1e-4)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_a_weight_that_nobody_moves_stays_as_it_is(strategy: str) -> None:
    settings = training(strategy=strategy, **ADAPTIVE)
    state = step(ServerState.initial(START.copy()), np.zeros(3), settings, round_number=1)
    assert np.array_equal(state.model, START)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_checkpoints_between_adaptive_rounds_change_no_bit(strategy: str, tmp_path: Path) -> None:
    settings = training(strategy=strategy, averaging="second-half", **ADAPTIVE)
    state = ServerState.initial(START.copy())
    for number, mean in enumerate(MEANS, start=1):
        write_checkpoint(tmp_path, number, step(state, mean, settings, round_number=number))
        state = read_checkpoint(tmp_path, number)
    whole = after_all_rounds(settings)
    assert state.final_model().tobytes() == whole.final_model().tobytes()
    assert state.second_moment is not None
    assert whole.second_moment is not None
    assert state.second_moment.tobytes() == whole.second_moment.tobytes()


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_a_resumed_run_of_adaptive_steps_gives_the_same_bits(strategy: str, tmp_path: Path) -> None:
    settings = {"rounds": 4, "strategy": strategy, **ADAPTIVE}

    def built(folder: str) -> House:
        answers = {s: _uneven for s in SITES}
        return House(tmp_path / folder, answers, training=settings)

    whole = built("whole").run()
    cut = built("cut")
    context = cut.begin(local_grid(cut))

    def stop(number: int, rounds: int, text: str) -> None:
        if number == 2:
            raise InterruptedError

    token = PROGRESS.set(stop)
    with pytest.raises(InterruptedError):
        run_rounds(context)
    PROGRESS.reset(token)
    asked = {len(hospital.orders) for hospital in cut.hospitals.values()}
    assert asked == {2}
    assert run_rounds(context).model.tobytes() == whole.model.tobytes()


def _uneven(hospital: Hospital, order: Any) -> bytes:
    """Answer with another update in every round, so that the order of rounds matters."""
    return hospital.result(order, HONEST * np.float32(order.header.round))
