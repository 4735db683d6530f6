"""`slide-mil`: one exact, clipped contribution a patient, whatever the number of slides and tiles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bag_lab import (
    DIM,
    bag_hospital,
    bag_study,
    contract,
    moved,
    write_bag,
    write_index,
    write_patients,
)
from solblom_client.training.gradients import choose_path, prepared
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_models.slide_mil.bags import BagIndex, BagUnits, read_bags
from solblom_models.slide_mil.net import GatedAttention, MeanPooling
from solblom_models.slide_mil.task import SlideMil
from solblom_models.task import find_task, isolation_error
from solblom_protocol.contracts.kinds import describable
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.result import Result

ATTENTION = {"model": {"kind": "gated-attention", "hidden": 4}}
TASK = SlideMil()


def units_of_sizes(folder: Path, sizes: list[int]) -> BagUnits:
    rng = np.random.default_rng(3)
    rows = []
    for number, size in enumerate(sizes):
        write_bag(folder / f"{number}.h5", rng.normal(size=(size, DIM)).astype(np.float32))
        rows.append((f"p{number}", f"{number}.h5", str(number % 2)))
    return read_bags(BagIndex(write_index(folder, rows)), contract())


def clipped_sum(model: torch.nn.Module, units: BagUnits, clipping_norm: float) -> torch.Tensor:
    optimizer = KeyedDPOptimizer(
        torch.optim.SGD(list(model.parameters()), lr=1.0),
        stream=KeyStream(bytes(32)),
        noise_multiplier=0.0,
        clipping_norm=clipping_norm,
        expected_batch_size=1.0,
    )
    with prepared(choose_path(TASK, model), TASK, model) as put:
        put(optimizer, units, range(len(units.ids)))
    return torch.cat([p.summed_grad.reshape(-1) for p in model.parameters()])


def one_gradient(model: torch.nn.Module, units: BagUnits, index: int) -> torch.Tensor:
    """Return a patient's gradient by the formula of the loss alone."""
    logit, _ = model(torch.from_numpy(units.bag(index)))
    label = torch.tensor(float(units.labels[index]))
    loss = torch.nn.functional.softplus(logit) - label * logit
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in found])


@pytest.mark.parametrize("task", [{}, ATTENTION])
def test_the_clipped_sum_is_that_of_patients_one_by_one(tmp_path: Path, task: Any) -> None:
    units = units_of_sizes(tmp_path, [1, 2, 7, 300, 10_000])
    model = moved(TASK.build(bag_study(task=task)))
    norm = 0.2
    expected = torch.zeros(sum(p.numel() for p in model.parameters()))
    for index in range(len(units.ids)):
        gradient = one_gradient(model, units, index)
        assert gradient.norm() > norm  # clipping takes part in the comparison
        expected += gradient * min(1.0, norm / float(gradient.norm()))
    assert torch.allclose(clipped_sum(model, units, norm), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", [{}, ATTENTION])
def test_a_patient_adds_no_more_than_the_clipping_norm_however_many_slides(
    tmp_path: Path, task: Any
) -> None:
    rng = np.random.default_rng(1)
    rows = []
    for number in range(50):
        values = (100 * rng.normal(size=(20, DIM))).astype(np.float32)
        write_bag(tmp_path / f"{number}.h5", values)
        rows.append(("one", f"{number}.h5", "1"))
    units = read_bags(BagIndex(write_index(tmp_path, rows)), contract())
    model = moved(TASK.build(bag_study(task=task)))
    assert float(clipped_sum(model, units, 0.5).norm()) <= 0.5 * (1 + 1e-5)


def test_other_patients_change_nothing_of_a_gradient(tmp_path: Path) -> None:
    units = units_of_sizes(tmp_path, [3, 5, 2, 9])
    for task in ({}, ATTENTION):
        assert isolation_error(TASK, moved(TASK.build(bag_study(task=task))), units) < 1e-6


def test_attention_starts_as_a_mean_and_its_weights_sum_to_one() -> None:
    bag = torch.randn(7, DIM, generator=torch.Generator().manual_seed(1))
    _, first = GatedAttention(DIM, 4, seed=1)(bag)
    assert torch.allclose(first, torch.full((7,), 1 / 7))
    model = GatedAttention(DIM, 4, seed=1)
    weights = moved(model)(bag)[1].detach()
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights.max()) > 1.05 / 7


def test_attention_is_the_formula_of_the_paper() -> None:
    model = moved(GatedAttention(DIM, 4, seed=1)).requires_grad_(False)
    bag = torch.randn(5, DIM, generator=torch.Generator().manual_seed(2))
    raw = [
        model.weight.weight @ (torch.tanh(model.tanh(tile)) * torch.sigmoid(model.gate(tile)))
        for tile in bag
    ]
    weights = torch.exp(torch.cat(raw)) / torch.exp(torch.cat(raw)).sum()
    logit = sum(w * tile for w, tile in zip(weights, bag, strict=True)) @ model.linear.weight[0]
    assert float(model(bag)[0]) == pytest.approx(float(logit + model.linear.bias), abs=1e-5)


@pytest.mark.parametrize("task", [{}, ATTENTION])
def test_tiles_that_are_left_out_have_no_influence(tmp_path: Path, task: Any) -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(40, DIM)).astype(np.float32)
    few = contract(bag={"max_tiles": 10})
    model, gradients, scores = moved(TASK.build(bag_study(task=task))), [], []
    for change in (0.0, 1e6):
        seen = values.copy()
        seen[np.setdiff1d(np.arange(40), np.arange(10) * 4)] += np.float32(change)
        write_bag(tmp_path / "a.h5", seen)
        units = read_bags(BagIndex(write_index(tmp_path, [("p", "a.h5", "1")])), few)
        gradients.append(one_gradient(model, units, 0))
        scores.append(TASK.scores(model, units))
    assert torch.equal(*gradients)
    assert np.array_equal(*scores)


def test_the_order_of_tiles_means_nothing() -> None:
    bag = torch.randn(9, DIM, generator=torch.Generator().manual_seed(2))
    for model in (moved(MeanPooling(DIM)), moved(GatedAttention(DIM, 4, seed=1))):
        model.requires_grad_(False)
        assert float(model(bag)[0]) == pytest.approx(float(model(bag.flip(0))[0]), abs=1e-5)


def test_the_initial_net_follows_from_the_public_seed() -> None:
    first, again = (TASK.build(bag_study(task=ATTENTION)) for _ in range(2))
    other = TASK.build(bag_study(task=ATTENTION, training={"seed": 2}))
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.tanh.weight, other.tanh.weight)


@pytest.mark.parametrize(
    "model", [{"kind": "mean", "hidden": 3}, {"kind": "gated-attention"}, {"kind": "max"}]
)
def test_settings_that_do_not_go_together_are_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        bag_study(task={"model": model})


def test_a_table_one_of_bags_is_refused() -> None:
    assert describable(contract()) == frozenset()


@pytest.mark.parametrize("task", [{}, ATTENTION])
def test_a_hospital_trains_on_its_bags_and_charges_the_patient(tmp_path: Path, task: Any) -> None:
    hospital, study = bag_hospital(tmp_path / "north"), bag_study(task=task)
    hospital.approve(study)
    reply = hospital.ask(hospital.order(study))
    assert isinstance(reply, Result), reply
    assert reply.receipt.privacy_event() == study.round_event
    trace = hospital.vault.last_trace
    assert trace is not None
    assert trace.path.name == "per-patient"
    assert hospital.charges() == 1


def test_a_bag_that_changes_is_another_piece_of_work(tmp_path: Path) -> None:
    hospital, study = bag_hospital(tmp_path / "north"), bag_study()
    hospital.approve(study)
    order = hospital.order(study)
    first, again = hospital.ask(order), hospital.ask(order)
    assert isinstance(first, Result)
    assert isinstance(again, Result)
    assert again.receipt.work == first.receipt.work
    write_patients(hospital.folder, 40, seed=2)
    other = hospital.ask(order)
    assert isinstance(other, Result)
    assert other.receipt.work != first.receipt.work


def test_the_task_is_installed() -> None:
    assert isinstance(find_task("slide-mil"), SlideMil)
