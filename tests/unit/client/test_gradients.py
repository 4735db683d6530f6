"""Every path to per-patient contributions is exact; nets for which none is exact are refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lab import LabHospital, study_document
from solblom_client.training.gradients import choose_path, prepared
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.task import unit_gradients
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.result import Result

CLIPPING_NORM = 0.3


class Task:
    """Binary cross-entropy over vectors; `ragged` sends it down the per-patient path."""

    name, connector = "test", "table"

    def __init__(self, *, ragged: bool = False) -> None:
        self.ragged = ragged

    def losses(self, model: nn.Module, batch: Any) -> torch.Tensor:
        features, labels, weights = batch
        logits = model(features)
        return weights * nn.functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none"
        )


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.convolution(x[:, None, :])))
        logits: torch.Tensor = self.head(hidden.mean(dim=-1))
        return logits.squeeze(-1)


class Stray(nn.Module):
    """A parameter of the module's own beside a submodule: Opacus follows only the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x * self.query)
        return logits.squeeze(-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(x[:, None], x[:, None], x[:, None])
        logits: torch.Tensor = self.head(mixed[:, 0])
        return logits.squeeze(-1)


class InPlace(nn.Module):
    """Activations that overwrite the layers' outputs."""

    def __init__(self, *, convolution: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, 1, 3, padding=1) if convolution else nn.Identity()
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.relu_(self.convolution(x[:, None, :]).clone()).squeeze(1)
        logits: torch.Tensor = self.head(torch.relu_(self.hidden(seen)))
        return logits.squeeze(-1)


class Overwriting(nn.Module):
    """Changes what a layer has seen, after the layer has seen it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x.clone()
        hidden = self.hidden(seen)
        seen.zero_()
        logits: torch.Tensor = self.head(hidden)
        return logits.squeeze(-1)


class Twice(nn.Module):
    """A convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv1d(1, 1, 3, padding=1), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = torch.tanh(self.convolution(x[:, None, :]))
        logits: torch.Tensor = self.head(self.convolution(once).squeeze(1))
        return logits.squeeze(-1)


def frozen_first_layer() -> nn.Module:
    model = MultilayerPerceptron(6, (5, 4), seed=3)
    next(m for m in model.modules() if isinstance(m, nn.Linear)).weight.requires_grad_(False)
    return model


def units(count: int, *, positive_weight: float = 1.0) -> TableUnits:
    rng = np.random.default_rng(5)
    ids = tuple(f"patient-{i}" for i in range(count))
    features = rng.normal(size=(count, 6)).astype(np.float32)
    return TableUnits(ids, features, rng.integers(0, 2, count), positive_weight)


def optimizer_for(model: nn.Module, *, noise: float = 0.0) -> KeyedDPOptimizer:
    return KeyedDPOptimizer(
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0),
        stream=KeyStream(b"k" * 32),
        noise_multiplier=noise,
        clipping_norm=CLIPPING_NORM,
        expected_batch_size=7.0,
    )


def clipped_sum(
    task: Task, model: nn.Module, patients: TableUnits, chosen: Sequence[int]
) -> torch.Tensor:
    optimizer = optimizer_for(model)
    with prepared(choose_path(task, model), task, model) as put_sum:
        optimizer.zero_grad()
        put_sum(optimizer, patients, chosen)
        return torch.cat([p.summed_grad.reshape(-1) for p in optimizer.params])


def reference_sum(
    task: Task, model: nn.Module, patients: TableUnits, chosen: Sequence[int]
) -> torch.Tensor:
    total = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for index in chosen:
        gradient = unit_gradients(task, model, patients.batch([index]))[0]
        total += gradient * min(1.0, CLIPPING_NORM / (float(gradient.norm()) + 1e-6))
    return total


NETS = {
    "logistic": lambda: LogisticRegression(6),
    "perceptron": lambda: MultilayerPerceptron(6, (5, 4), seed=3),
    "convolutional": Convolutional,
    "in place, linear": lambda: InPlace(convolution=False),
    "in place, convolutional": lambda: InPlace(convolution=True),
    "a layer used twice": Twice,
    "a frozen weight": frozen_first_layer,
}


@pytest.mark.parametrize("chosen", [[0, 2, 3, 7], [4], []], ids=["four", "one", "nobody"])
@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("net", NETS)
def test_the_clipped_sum_is_that_of_a_per_patient_autograd_loop(
    net: str, ragged: bool, chosen: list[int]
) -> None:
    torch.manual_seed(1)
    task, model, patients = Task(ragged=ragged), NETS[net](), units(8, positive_weight=3.0)
    got = clipped_sum(task, model, patients, chosen)
    expected = reference_sum(task, model, patients, chosen)
    assert float((got - expected).norm()) <= 1e-5 * max(float(expected.norm()), 1e-9)


@pytest.mark.parametrize(
    ("net", "path"),
    [
        ("logistic", "book-keeping"),
        ("perceptron", "book-keeping"),
        ("convolutional", "grad-samplers"),
    ],
)
def test_the_cheapest_path_is_chosen_by_the_net(net: str, path: str) -> None:
    assert choose_path(Task(), NETS[net]()).name == path


def test_a_one_patient_hospital_gets_one_clipped_contribution() -> None:
    patients = units(1)
    got = clipped_sum(Task(), LogisticRegression(6), patients, [0])
    assert float(got.norm()) <= CLIPPING_NORM * (1 + 1e-6)


@pytest.mark.parametrize("ragged", [False, True])
def test_a_batch_norm_is_refused_whatever_the_task(ragged: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ConfigurationError, match="patients meet") as caught:
        choose_path(Task(ragged=ragged), model)
    assert caught.value.code == "SB-107"


@pytest.mark.parametrize("model", [Stray(), Attention()], ids=["stray parameter", "attention"])
def test_a_net_that_opacus_cannot_follow_is_refused_with_the_module_named(
    model: nn.Module,
) -> None:
    with pytest.raises(ConfigurationError, match=r"top module|attention") as caught:
        choose_path(Task(), model)
    assert caught.value.code == "SB-107"


@pytest.mark.parametrize("model", [Stray(), Attention()], ids=["stray parameter", "attention"])
def test_the_per_patient_path_is_exact_for_them(model: nn.Module) -> None:
    task, patients = Task(ragged=True), units(5)
    got = clipped_sum(task, model, patients, [0, 1, 4])
    expected = reference_sum(task, model, patients, [0, 1, 4])
    assert float((got - expected).norm()) <= 1e-5 * float(expected.norm())


def test_two_layers_with_one_weight_are_refused() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.Linear(6, 1), nn.Flatten(0))
    with pytest.raises(ConfigurationError, match="share a weight"):
        clipped_sum(Task(), model, units(3), [0, 1])


def test_a_net_that_overwrites_what_a_layer_has_seen_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="in place") as caught:
        clipped_sum(Task(), Overwriting(), units(3), [0, 1])
    assert caught.value.code == "SB-107"


def test_hooks_are_gone_after_training() -> None:
    model = Convolutional()
    clipped_sum(Task(), model, units(3), [0, 1])
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_fedprox_pulls_towards_the_rounds_first_model() -> None:
    model = LogisticRegression(6)
    optimizer = optimizer_for(model)
    anchor = [torch.full_like(p, 2.0) for p in optimizer.params]
    with prepared(choose_path(Task(), model), Task(), model) as put_sum:
        put_sum(optimizer, units(3), [])
        optimizer.noisy_step(proximal=0.25, anchor=anchor)
    # Weights were 0, the sum over nobody is 0: w = 0 - 1.0 * 0.25 * (0 - 2) = 0.5.
    assert all(torch.allclose(p, torch.full_like(p, 0.5)) for p in optimizer.params)


def test_a_perceptron_with_fedprox_and_class_weights_trains_in_a_vault(
    hospital: LabHospital,
) -> None:
    study = study_document(
        task={"model": {"kind": "mlp", "hidden": [8], "positive_weight": 2.0}},
        training={"strategy": "fedprox", "proximal": 0.1, "local_steps": 3},
    )
    hospital.approve(study)
    reply = hospital.ask(hospital.order(study))
    assert isinstance(reply, Result)
    assert hospital.vault.last_trace is not None
    assert hospital.vault.last_trace.path.name == "book-keeping"
    assert len(hospital.vault.last_trace.batch_sizes) == 3
