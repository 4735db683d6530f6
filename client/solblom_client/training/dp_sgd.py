"""Local training with differential privacy by patient or family through Opacus (DP-SGD, Abadi et al. 2016).

Every constant is public: sampling rate, steps, divisor, clipping norm, noise (privacy.md rule 2).
The realised batch sizes stay in the trace, inside the hospital.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from solblom_client.cohorts.families import Families
from solblom_client.training.gradients import GradientPath, choose_path, prepared
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_models.task import Task, Units
from solblom_protocol.errors import RefusedError
from solblom_protocol.studies.study import StudyDocument

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
    by_family: bool = False  # what is drawn and bounded as one: a family, else a patient

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
            by_family=document.by_family,
        )


@dataclass(frozen=True)
class TrainingTrace:
    """What training really did. Stays inside the hospital; benches rebuild the privacy events from it.

    Attributes:
        batch_sizes: patients drawn in each step; of families, all members of those drawn.
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
    """Return the sum of all units' contributions, by parameter, and no noise: it stays inside the vault.

    One gradient at the ordered weights over everybody (privacy.md rule 7).

    Raises:
        ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
        DataError: SB-310, the data set names no families.
    """
    path, drawn = choose_path(task, model), _Population.of(units, settings)
    named: dict[str, Any] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = KeyedDPOptimizer(
        torch.optim.SGD(list(named.values()), lr=settings.learning_rate),
        stream=KeyStream(bytes(32)),  # draws nothing: the noise is a share on the grid
        noise_multiplier=0.0,
        clipping_norm=settings.clipping_norm,
        expected_batch_size=settings.expected_batch_size,
    )
    with prepared(path, task, model) as put_clipped_sum:
        put_clipped_sum(optimizer, units, *drawn.of_draw(range(drawn.size)))
        found = {name: p.summed_grad.detach() for name, p in named.items()}
    population = len(units.ids)
    trace = TrainingTrace((population,), population, 0.0, optimizer.max_grad_norm, path)
    return found, trace


@dataclass(frozen=True)
class _Population:
    """For whom coins are thrown: `size` units of privacy, one coin each, families by their first member."""

    size: int
    families: Families | None

    @classmethod
    def of(cls, units: Units, settings: TrainingSettings) -> "_Population":
        families = Families.of(units) if settings.by_family else None
        return cls(len(units.ids) if families is None else len(families.members), families)

    def of_draw(self, chosen: Sequence[int]) -> tuple[Sequence[int], torch.Tensor | None]:
        """Return the patients of the units drawn, and their shares where units are families."""
        return (chosen, None) if self.families is None else self.families.drawn(chosen)


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
    """Train `model` in place by noisy steps over Poisson-sampled patients, or families where those are the unit.

    Each step: draw every unit with the public rate, clip each patient's gradient to `clipping_norm`,
    average within families, add Gaussian noise to the sum, divide by the public `expected_batch_size`, step.
    An empty draw still takes a noisy step.

    Raises:
        ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
        RefusedError: SB-213, the task wrote into the weights.
        DataError: SB-310, the data set names no families.
    """
    path, population = choose_path(task, model), _Population.of(units, settings)
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
            drawn = coins.poisson_sample(population.size, settings.sampling_rate)
            chosen, shares = population.of_draw(drawn)
            optimizer.zero_grad()
            put_clipped_sum(optimizer, units, chosen, shares)
            _check_untouched(parameters, before)
            if look is not None:
                look(parameters, [p.summed_grad for p in optimizer.params])
            optimizer.noisy_step(proximal=settings.proximal, anchor=anchor)
            for kept, parameter in zip(before, parameters, strict=True):
                kept.copy_(parameter.detach())
            sizes.append(len(chosen))
    deviation = optimizer.noise_multiplier * optimizer.max_grad_norm
    return TrainingTrace(tuple(sizes), len(units.ids), deviation, optimizer.max_grad_norm, path)
