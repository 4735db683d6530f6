"""The export gate: numbers of the expected shape, finite, within reach of honest training; nothing else leaves."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from solblom_client.export_gate import MAX_ABSOLUTE, export_update, norm_bound
from solblom_client.training.dp_sgd import TrainingSettings, TrainingTrace, train
from solblom_client.training.gradients import GradientPath
from solblom_client.training.keystream import KeyStream
from solblom_models.flat import layout_of
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.net import LogisticRegression
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.layout import Layout, TensorSpec, is_on_grid, unpack

SETTINGS = TrainingSettings(1, 0.5, 1.0, "2.0000", "0.5", 40.0)
PATH = GradientPath("book-keeping", "test")
TRACE = TrainingTrace((20,), 40, 2.0, 1.0, PATH)
BEFORE = np.zeros(6, dtype="<f4")
LAYOUT = layout_of(LogisticRegression(5), local=frozenset())


def trained(*values: float) -> LogisticRegression:
    """A net whose weights are the values and whose bias is the last of them."""
    model = LogisticRegression(5)
    flat = torch.zeros(6, dtype=torch.float64)
    flat[: len(values)] = torch.tensor(values, dtype=torch.float64)
    with torch.no_grad():
        model.linear.weight.copy_(flat[:5].reshape(1, 5))
        model.linear.bias.copy_(flat[5:])
    return model


def export(model: torch.nn.Module, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "layout": LAYOUT,
        "local": frozenset(),
        "settings": SETTINGS,
        "trace": TRACE,
    }
    values |= changes
    layout = values.pop("layout")
    return export_update(values.pop("before", BEFORE), model, layout, **values)


def refused(model: torch.nn.Module, **changes: Any) -> RefusedError:
    with pytest.raises(RefusedError) as error:
        export(model, **changes)
    assert error.value.code == "SB-213"
    return error.value


def test_an_update_is_new_minus_old_weights() -> None:
    before = np.full(6, 0.25, dtype="<f4")
    model = trained(0.375, 0.25, 0.25, 0.25, 0.25, 0.125)
    update = unpack(export(model, before=before), LAYOUT)
    assert update.tolist() == [0.125, 0.0, 0.0, 0.0, 0.0, -0.125]


def test_an_update_is_four_bytes_a_value_and_nothing_more() -> None:
    assert len(export(trained(0.1))) == 4 * LAYOUT.size


def test_every_value_lies_on_the_public_grid() -> None:
    values = np.random.default_rng(1).normal(size=6) * 0.05
    update = unpack(export(trained(*values)), LAYOUT)
    assert is_on_grid(update)
    assert np.abs(update - values).max() <= 2.0**-25 + 1e-9


def test_there_is_one_zero() -> None:
    assert export(trained(-(2.0**-30))) == bytes(24)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("position", [0, 5])
def test_a_value_that_is_not_finite_does_not_leave(value: float, position: int) -> None:
    values = [0.0] * 6
    values[position] = value
    refused(trained(*values))


def test_an_update_at_the_bound_leaves_and_above_it_does_not() -> None:
    bound = norm_bound(BEFORE, SETTINGS, TRACE)
    export(trained(bound * 0.9999))
    refused(trained(bound * 1.0001))


def test_the_bound_counts_all_values_together() -> None:
    bound = norm_bound(BEFORE, SETTINGS, TRACE)
    export(trained(*[bound / 6**0.5 * 0.999] * 6))
    refused(trained(*[bound / 6**0.5 * 1.001] * 6))


def test_a_value_above_the_ring_of_the_fold_does_not_leave() -> None:
    generous = TrainingSettings(1, 1e9, 1.0, "2.0000", "0.5", 1.0)
    export(trained(MAX_ABSOLUTE), settings=generous)
    refused(trained(MAX_ABSOLUTE * 1.01), settings=generous)


def test_the_bound_is_above_what_honest_noise_reaches() -> None:
    rng, bound = (
        np.random.default_rng(2),
        norm_bound(BEFORE, SETTINGS, TrainingTrace((0,), 40, 2.0, 1.0, PATH)),
    )
    noise = rng.normal(size=(100_000, 6)) * 2.0 * SETTINGS.learning_rate / 40.0
    assert np.linalg.norm(noise, axis=1).max() < bound


def test_noise_of_twelve_deviations_beyond_its_expected_norm_leaves() -> None:
    nobody = TrainingTrace((0,), 40, 2.0, 1.0, PATH)
    step = 2.0 * SETTINGS.learning_rate / SETTINGS.expected_batch_size
    export(trained(step * (6**0.5 + 12)), trace=nobody)
    refused(trained(step * (6**0.5 + 12.1)), trace=nobody)


def alike(count: int, features: int) -> TableUnits:
    """Patients whose gradients all point the same way: nothing moves a sum further."""
    ids = tuple(f"p{number}" for number in range(count))
    rows = np.full((count, features), 3.0, dtype=np.float32)
    return TableUnits(ids, rows, np.ones(count, dtype=np.int64))


@pytest.mark.parametrize("weight", [0.0, 1.0, 3 * 2.0**20, 3 * 2.0**22, -3 * 2.0**23, 1e30])
@pytest.mark.parametrize("patients", [0, 1, 500])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("proximal", [0.0, 0.25])
def test_whatever_the_weights_and_the_batch_honest_training_leaves(
    weight: float, patients: int, steps: int, proximal: float
) -> None:
    features = 40_000
    settings = TrainingSettings(steps, 8.0, 1.0, "2.0000", "1", 40.0, proximal)  # noise 0.4
    model = LogisticRegression(features)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight)
    before = np.full(features + 1, weight, dtype="<f4")
    streams = {"coins": KeyStream(bytes(32)), "noise": KeyStream(bytes([1]) * 32)}
    units = alike(patients, features)
    trace = train(TabularClassification(), model, units, settings, **streams)
    layout = layout_of(model, local=frozenset())
    assert trace.batch_sizes == (patients,) * steps
    assert export_update(
        before, model, layout, local=frozenset(), settings=settings, trace=trace
    ), "a refusal would have told how many patients were drawn"


@pytest.mark.parametrize(
    "layout",
    [
        Layout((TensorSpec("linear.weight", (1, 5)),)),
        Layout((TensorSpec("linear.bias", (1,)), TensorSpec("linear.weight", (1, 5)))),
        Layout((TensorSpec("linear.weight", (5, 1)), TensorSpec("linear.bias", (1,)))),
        Layout((TensorSpec("weight", (1, 5)), TensorSpec("bias", (1,)))),
        Layout((*LAYOUT.tensors, TensorSpec("extra", (1,)))),
    ],
    ids=["fewer", "swapped", "shape", "renamed", "more"],
)
def test_other_tensors_than_ordered_do_not_leave(layout: Layout) -> None:
    refused(trained(0.1), layout=layout)


def test_parameters_that_stay_are_not_in_the_update() -> None:
    local = frozenset({"linear.bias"})
    layout = layout_of(LogisticRegression(5), local=local)
    update = export(
        trained(0.0, 0.0, 0.0, 0.0, 0.0, 0.5), layout=layout, local=local, before=BEFORE[:5]
    )
    assert update == bytes(20)


def test_a_refusal_tells_sizes_and_no_values_of_patients() -> None:
    message = refused(trained(123.456)).message
    assert re.fullmatch(r"The update's norm is \S+; at most \S+ is possible", message)
