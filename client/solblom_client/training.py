"""Local training with patient-level differential privacy through Opacus (DP-SGD, Abadi et al. 2016).

Every constant is public: sampling rate, steps, divisor, clipping norm, noise (privacy.md rule 2).
The realised batch sizes stay in the trace, inside the hospital.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from solblom_client.gradients import GradientPath, choose_path, prepared
from solblom_client.keystream import KeyStream
from solblom_client.optimizer import KeyedDPOptimizer
from solblom_models.task import Task, Units
from solblom_protocol.errors import RefusedError
from solblom_protocol.study import StudyDocument

# Opacus warns once per process about its own hooks; a hospital's log is no place for it.
logging.getLogger("opacus").setLevel(logging.ERROR)


Look = Callable[[Sequence[torch.nn.Parameter], Sequence[torch.Tensor]], None]
"""Is shown each step's weights and clipped sums, before the noise. Inside a replay only; it must change neither."""


@dataclass(frozen=True)
class TrainingSettings:
    """The public constants of one piece of work."""

    steps: int
    learning_rate: float
    clipping_norm: float  # L2 norm of one patient's gradient
    noise_multiplier: str  # decimal string; standard deviation over clipping_norm
    sampling_rate: str  # decimal string
    expected_batch_size: float  # divisor of every noisy sum
    proximal: float = 0.0  # FedProx: pull towards the round's first model

    @classmethod
    def of(cls, document: StudyDocument, *, site: str = "") -> "TrainingSettings":
        """Return the settings of a signed study at one hospital.

        Raises:
            ConfigurationError: SB-103, the study gives each hospital its own divisor, and this one none.
        """
        training, event = document.study.training, document.round_event
        return cls(
            steps=event.steps,
            learning_rate=training.learning_rate,
            clipping_norm=document.study.privacy.clipping_norm,
            noise_multiplier=event.noise_multiplier,
            sampling_rate=event.sampling_rate,
            expected_batch_size=training.divisor_of(site),
            proximal=training.proximal if training.strategy == "fedprox" else 0.0,
        )


@dataclass(frozen=True)
class TrainingTrace:
    """What training really did. Stays inside the hospital; benches rebuild the privacy events from it.

    Attributes:
        batch_sizes: patients drawn in each step.
        population: patients in the training set.
        noise_deviation: standard deviation of the noise on each clipped sum.
        clipping_norm: largest L2 norm of one patient's contribution.
        path: how per-patient contributions were computed, and why so.
    """

    batch_sizes: tuple[int, ...]
    population: int
    noise_deviation: float
    clipping_norm: float
    path: GradientPath


def clipped_sum(
    task: Task, model: torch.nn.Module, units: Units, settings: TrainingSettings
) -> tuple[dict[str, torch.Tensor], TrainingTrace]:
    """Return the sum of all patients' clipped gradients, by parameter, and no noise: it stays inside the vault.

    One gradient at the ordered weights over everybody (privacy.md rule 7).

    Raises:
        ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
    """
    path = choose_path(task, model)
    named: dict[str, Any] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = KeyedDPOptimizer(
        torch.optim.SGD(list(named.values()), lr=settings.learning_rate),
        stream=KeyStream(bytes(32)),  # draws nothing: the noise is a share on the grid
        noise_multiplier=0.0,
        clipping_norm=settings.clipping_norm,
        expected_batch_size=settings.expected_batch_size,
    )
    with prepared(path, task, model) as put_clipped_sum:
        put_clipped_sum(optimizer, units, range(len(units.ids)))
        found = {name: p.summed_grad.detach() for name, p in named.items()}
    population = len(units.ids)
    trace = TrainingTrace((population,), population, 0.0, optimizer.max_grad_norm, path)
    return found, trace


def _check_untouched(parameters: list[torch.nn.Parameter], before: list[torch.Tensor]) -> None:
    """Refuse a task that wrote into the weights while it computed a loss: that would pass by the noise.

    Raises:
        RefusedError: SB-213.
    """
    for parameter, kept in zip(parameters, before, strict=True):
        if not torch.equal(parameter.detach(), kept):
            raise RefusedError("SB-213", "The task changed the weights past clipping and noise")


def train(
    task: Task,
    model: torch.nn.Module,
    units: Units,
    settings: TrainingSettings,
    *,
    coins: KeyStream,
    noise: KeyStream,
    look: Look | None = None,
) -> TrainingTrace:
    """Train `model` in place by noisy steps over Poisson-sampled patients.

    Each step: draw every patient with the public rate, clip each one's gradient to `clipping_norm`,
    add Gaussian noise to the sum, divide by the public `expected_batch_size`, step. An empty draw
    still takes a noisy step.

    Raises:
        ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
        RefusedError: SB-213, the task wrote into the weights.
    """
    path = choose_path(task, model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    anchor = [p.detach().clone() for p in parameters] if settings.proximal else None
    optimizer = KeyedDPOptimizer(
        torch.optim.SGD(parameters, lr=settings.learning_rate),
        stream=noise,
        noise_multiplier=float(settings.noise_multiplier),
        clipping_norm=settings.clipping_norm,
        expected_batch_size=settings.expected_batch_size,
    )
    sizes: list[int] = []
    before = [p.detach().clone() for p in parameters]
    with prepared(path, task, model) as put_clipped_sum:
        for _ in range(settings.steps):
            chosen = coins.poisson_sample(len(units.ids), settings.sampling_rate)
            optimizer.zero_grad()
            put_clipped_sum(optimizer, units, chosen)
            _check_untouched(parameters, before)
            if look is not None:
                look(parameters, [p.summed_grad for p in optimizer.params])
            optimizer.noisy_step(proximal=settings.proximal, anchor=anchor)
            for kept, parameter in zip(before, parameters, strict=True):
                kept.copy_(parameter.detach())
            sizes.append(len(chosen))
    deviation = optimizer.noise_multiplier * optimizer.max_grad_norm
    return TrainingTrace(tuple(sizes), len(units.ids), deviation, optimizer.max_grad_norm, path)
