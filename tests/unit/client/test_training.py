"""Training by Opacus against a loop over patients in plain autograd: clipping, noise, divisor, empty draws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lab import study_document
from solblom_client.training.dp_sgd import TrainingSettings, TrainingTrace, train
from solblom_client.training.keystream import KeyStream
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.net import LogisticRegression
from solblom_models.tabular.task import TabularClassification
from solblom_models.task import unit_gradients

TASK = TabularClassification()
COINS, NOISE, OTHER_NOISE = (bytes([n]) * 32 for n in (1, 2, 3))
NEVER = "0.000001"  # of these few patients nobody is drawn
SETTINGS = TrainingSettings(
    steps=1,
    learning_rate=1.0,
    clipping_norm=1.0,
    noise_multiplier="0",
    sampling_rate="1",
    expected_batch_size=1.0,
)


def with_settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**(vars(SETTINGS) | changes))


def patients(count: int, *, features: int = 8, spread: float = 1.0, seed: int = 5) -> TableUnits:
    rng = np.random.default_rng(seed)
    return TableUnits(
        tuple(f"patient-{n}" for n in range(count)),
        (rng.normal(size=(count, features)) * spread).astype(np.float32),
        rng.integers(0, 2, size=count),
    )


def net(features: int = 8, *, scale: float = 0.5) -> LogisticRegression:
    model, rng = LogisticRegression(features), np.random.default_rng(9)
    with torch.no_grad():
        for parameter in model.parameters():
            values = rng.normal(size=tuple(parameter.shape)) * scale
            parameter.copy_(torch.from_numpy(values))
    return model


def flat(model: torch.nn.Module) -> NDArray[np.float64]:
    parts = [p.detach().numpy().reshape(-1).astype(np.float64) for p in model.parameters()]
    return np.concatenate(parts)


def moved(
    units: TableUnits,
    settings: TrainingSettings,
    *,
    model: torch.nn.Module | None = None,
    noise: bytes = NOISE,
) -> tuple[NDArray[np.float64], TrainingTrace]:
    """Train once; return new minus old weights and the trace."""
    model = model or net(units.features.shape[1])
    before = flat(model)
    trace = train(TASK, model, units, settings, coins=KeyStream(COINS), noise=KeyStream(noise))
    return flat(model) - before, trace


def clipped_sum(model: torch.nn.Module, units: TableUnits, norm: float) -> NDArray[np.float64]:
    """Add up gradients that are clipped one by one: the definition, patient by patient."""
    gradients = unit_gradients(TASK, model, units.batch(range(len(units.ids))))
    vectors = [g.double().numpy() for g in gradients]
    clipped = [v * min(1.0, norm / float(np.linalg.norm(v))) for v in vectors]
    return np.asarray(np.sum(clipped, axis=0))


# --- The clipped sum


@pytest.mark.parametrize("norm", [0.05, 1.0, 100.0], ids=["all-clipped", "some-clipped", "none"])
def test_the_sum_of_clipped_gradients_is_that_of_a_loop_over_patients(norm: float) -> None:
    units, model = patients(50), net()
    expected = clipped_sum(model, units, norm)
    change, _ = moved(units, with_settings(clipping_norm=norm), model=model)
    assert np.linalg.norm(-change - expected) <= 1e-5 * np.linalg.norm(expected)


def test_several_sampled_steps_are_those_of_a_loop_over_patients() -> None:
    units, settings = (
        patients(40),
        with_settings(
            steps=5,
            sampling_rate="0.3",
            clipping_norm=0.3,
            learning_rate=0.5,
            expected_batch_size=12.0,
        ),
    )
    model, coins = net(), KeyStream(COINS)
    start = flat(model)
    for _ in range(5):
        chosen = units.select(coins.poisson_sample(40, "0.3"))
        step = torch.from_numpy(clipped_sum(model, chosen, 0.3) * 0.5 / 12.0)
        with torch.no_grad():
            model.linear.weight -= step[:-1].reshape(1, -1)
            model.linear.bias -= step[-1:]
    change, trace = moved(units, settings)
    expected = flat(model) - start
    assert len(trace.batch_sizes) == 5
    assert np.linalg.norm(change - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(spread: float) -> None:
    everybody = patients(30, spread=spread)
    settings = with_settings(clipping_norm=0.1)
    change, _ = moved(everybody, settings)
    without, _ = moved(everybody.select(range(29)), settings)
    assert np.linalg.norm(change - without) <= 0.1 * (1 + 1e-4)


def test_a_patient_whose_gradient_is_not_finite_moves_the_sum_by_at_most_the_clipping_norm() -> (
    None
):
    features = np.array([[1.0, 0.0], [2.0, 2.0]], dtype=np.float32)
    units, model = TableUnits(("a", "b"), features, np.array([0, 1])), LogisticRegression(2)
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor([[3e38, -3e38]]))
    change, _ = moved(units, with_settings(clipping_norm=0.1), model=model)
    assert np.isfinite(change).all()


# --- Noise


def test_the_noise_has_the_standard_deviation_of_the_event() -> None:
    units = TableUnits(("a",), np.zeros((1, 20_000), dtype=np.float32), np.array([1]))
    settings = with_settings(
        noise_multiplier="2.1500", clipping_norm=0.5, learning_rate=0.1, expected_batch_size=40.0
    )
    change, trace = moved(units, settings, model=LogisticRegression(20_000))
    expected = 2.15 * 0.5 * 0.1 / 40.0
    assert trace.noise_deviation == pytest.approx(2.15 * 0.5)
    assert abs(change[:-1].std() / expected - 1) < 5 / math.sqrt(2 * 20_000)


def test_the_noise_is_the_node_s_own_stream_and_nothing_else() -> None:
    settings = with_settings(noise_multiplier="1.0000", sampling_rate=NEVER)
    change, _ = moved(patients(3), settings, model=LogisticRegression(8))
    assert change == pytest.approx(-_noise_of_one_step(), rel=1e-6)


def _noise_of_one_step() -> NDArray[np.float64]:
    stream = KeyStream(NOISE)
    return np.concatenate([stream.normals(8), stream.normals(1)])


def test_every_step_has_fresh_noise() -> None:
    one = with_settings(noise_multiplier="1.0000", sampling_rate=NEVER)
    two = with_settings(noise_multiplier="1.0000", sampling_rate=NEVER, steps=2)
    first, _ = moved(patients(3), one, model=LogisticRegression(8))
    both, _ = moved(patients(3), two, model=LogisticRegression(8))
    assert np.abs(both - 2 * first).min() > 1e-3


def test_an_empty_draw_still_takes_a_noisy_step() -> None:
    settings = with_settings(noise_multiplier="1.0000", sampling_rate=NEVER, steps=3)
    change, trace = moved(patients(3), settings)
    assert trace.batch_sizes == (0, 0, 0)
    assert np.abs(change).min() > 0


def test_an_empty_draw_after_a_full_one_does_not_repeat_its_gradients() -> None:
    units, settings = patients(2), with_settings(sampling_rate="0.3", steps=12)
    _, trace = moved(units, settings)
    steps = trace.batch_sizes
    empty = next(n for n in range(1, 12) if steps[n] == 0 and steps[n - 1] > 0)
    until, _ = moved(units, with_settings(sampling_rate="0.3", steps=empty))
    after, _ = moved(units, with_settings(sampling_rate="0.3", steps=empty + 1))
    assert np.array_equal(until, after)


def test_a_hospital_of_one_patient_trains() -> None:
    settings = with_settings(noise_multiplier="1.0000", steps=2)
    change, trace = moved(patients(1), settings)
    assert trace.batch_sizes == (1, 1)
    assert np.isfinite(change).all()


@pytest.mark.parametrize("noise", [NOISE, OTHER_NOISE])
def test_without_privacy_no_noise_is_added(noise: bytes) -> None:
    document = study_document(privacy={"epsilon": "off", "sampling_rate": 1.0})
    settings, units, model = TrainingSettings.of(document), patients(20), net()
    divisor = document.study.training.expected_batch_size
    rate = document.study.training.learning_rate
    expected = -rate * clipped_sum(model, units, settings.clipping_norm) / divisor
    change, trace = moved(units, settings, model=model, noise=noise)
    assert trace.noise_deviation == 0
    assert change == pytest.approx(expected, rel=1e-4, abs=1e-7)


# --- Public constants


def test_the_divisor_is_the_public_constant_and_not_the_size_of_the_hospital() -> None:
    one = patients(1)
    many = TableUnits(
        tuple(f"twin-{n}" for n in range(64)),
        np.repeat(one.features, 64, axis=0),
        np.repeat(one.labels, 64),
    )
    settings = with_settings(expected_batch_size=40.0)
    small, _ = moved(one, settings)
    large, _ = moved(many, settings)
    assert large == pytest.approx(64 * small, rel=1e-4)


def test_twice_the_public_divisor_halves_the_step() -> None:
    whole, _ = moved(patients(20), with_settings(expected_batch_size=10.0))
    half, _ = moved(patients(20), with_settings(expected_batch_size=20.0))
    assert whole == pytest.approx(2 * half, rel=1e-4, abs=1e-7)


def test_the_noise_does_not_shrink_in_a_larger_hospital() -> None:
    settings = with_settings(noise_multiplier="1.0000", sampling_rate=NEVER)
    small, _ = moved(patients(2), settings, model=LogisticRegression(8))
    large, _ = moved(patients(200), settings, model=LogisticRegression(8))
    assert np.array_equal(small, large)


def test_all_settings_come_from_the_signed_study() -> None:
    document = study_document(training={"local_steps": 2, "learning_rate": 0.125})
    event = document.round_event
    assert TrainingSettings.of(document) == TrainingSettings(
        steps=event.steps,
        learning_rate=0.125,
        clipping_norm=1.0,
        noise_multiplier=event.noise_multiplier,
        sampling_rate=event.sampling_rate,
        expected_batch_size=40.0,
    )


def test_the_same_keys_give_the_same_weights() -> None:
    settings = with_settings(noise_multiplier="1.0000", sampling_rate="0.5", steps=4)
    first, _ = moved(patients(30), settings)
    second, _ = moved(patients(30), settings)
    assert np.array_equal(first, second)


def test_global_seeds_of_torch_and_numpy_change_nothing() -> None:
    settings = with_settings(noise_multiplier="1.0000", sampling_rate="0.5", steps=2)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        results.append(moved(patients(30), settings)[0])
    assert np.array_equal(*results)
