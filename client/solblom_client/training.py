"""Local training with patient-level differential privacy through Opacus (DP-SGD, Abadi et al. 2016).

Every constant is public: sampling rate, steps, divisor, clipping norm, noise (privacy.md rule 2).
The realised batch sizes stay in the trace, inside the hospital.
"""

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from opacus import GradSampleModule

from solblom_client.keystream import KeyStream
from solblom_client.optimizer import KeyedDPOptimizer
from solblom_models.task import Task, Units
from solblom_protocol.study import StudyDocument

# Opacus warns once per process about its own hooks; a hospital's log is no place for it.
logging.getLogger("opacus").setLevel(logging.ERROR)


@dataclass(frozen=True)
class TrainingSettings:
    """The public constants of one piece of work."""

    steps: int
    learning_rate: float
    clipping_norm: float  # L2 norm of one patient's gradient
    noise_multiplier: str  # decimal string; standard deviation over clipping_norm
    sampling_rate: str  # decimal string
    expected_batch_size: float  # divisor of every noisy sum

    @classmethod
    def of(cls, document: StudyDocument) -> "TrainingSettings":
        """Return the settings of a signed study."""
        training, event = document.study.training, document.round_event
        return cls(
            steps=event.steps,
            learning_rate=training.learning_rate,
            clipping_norm=document.study.privacy.clipping_norm,
            noise_multiplier=event.noise_multiplier,
            sampling_rate=event.sampling_rate,
            expected_batch_size=training.expected_batch_size,
        )


@dataclass(frozen=True)
class TrainingTrace:
    """What training really did. Stays inside the hospital; benches rebuild the privacy events from it.

    Attributes:
        batch_sizes: patients drawn in each step.
        population: patients in the training set.
        noise_deviation: standard deviation of the noise on each clipped sum.
        clipping_norm: largest L2 norm of one patient's contribution.
    """

    batch_sizes: tuple[int, ...]
    population: int
    noise_deviation: float
    clipping_norm: float


def train(
    task: Task,
    model: torch.nn.Module,
    units: Units,
    settings: TrainingSettings,
    *,
    coins: KeyStream,
    noise: KeyStream,
) -> TrainingTrace:
    """Train `model` in place by noisy steps over Poisson-sampled patients.

    Each step: draw every patient with the public rate, clip each one's gradient to `clipping_norm`,
    add Gaussian noise to the sum, divide by the public `expected_batch_size`, step. An empty draw
    still takes a noisy step.
    """
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = KeyedDPOptimizer(
        torch.optim.SGD(parameters, lr=settings.learning_rate),
        stream=noise,
        noise_multiplier=float(settings.noise_multiplier),
        clipping_norm=settings.clipping_norm,
        expected_batch_size=settings.expected_batch_size,
    )
    sizes: list[int] = []
    try:
        for _ in range(settings.steps):
            chosen = coins.poisson_sample(len(units.ids), settings.sampling_rate)
            optimizer.zero_grad()
            if len(chosen):
                _backward(task, wrapped, units.batch(chosen))
            else:
                for parameter in parameters:
                    parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            optimizer.step()
            sizes.append(len(chosen))
    finally:
        wrapped.remove_hooks()
    deviation = optimizer.noise_multiplier * optimizer.max_grad_norm
    return TrainingTrace(tuple(sizes), len(units.ids), deviation, optimizer.max_grad_norm)


def _backward(task: Task, wrapped: torch.nn.Module, batch: Any) -> None:
    """Run the backward pass that lets Opacus record one gradient per patient."""
    with warnings.catch_warnings():
        # torch says so because patients' features need no gradient; nothing is wrong.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(task.losses(wrapped, batch).sum())
