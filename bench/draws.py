"""What training really drew: recorders on the node's key stream, optimiser and trainer. They change nothing.

Coins, noise and traces are recorded by hospital while the product runs, so that privacy events can be
rebuilt without believing what receipts say.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy import optimize, special, stats

from solblom_client import vault
from solblom_client.training import dp_sgd as training
from solblom_client.training.dp_sgd import TrainingTrace
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_client.vault import Vault

REFERENCE_INTERVAL = 1e-4

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Toss:
    """The coins of one step, and whom they chose."""

    coins: NDArray[np.uint64]
    chosen: NDArray[np.int64]
    asked_rate: str

    def real_rate(self) -> float:
        """Return the rate of the threshold that decided, after every coin was checked against it.

        Raises:
            RuntimeError: the coins were decided by another threshold.
        """
        threshold = int(Decimal(self.asked_rate) * 2**64)
        expected = [i for i, coin in enumerate(self.coins.tolist()) if coin < threshold]
        if expected != self.chosen.tolist():
            raise RuntimeError("the coins were decided by another threshold")
        return threshold / 2**64


@dataclass
class Draws:
    """What one hospital drew, in order."""

    traces: list[TrainingTrace] = field(default_factory=list)
    tosses: list[Toss] = field(default_factory=list)
    noise: list[Numbers] = field(default_factory=list)  # on each sum, one per step
    normals: list[NDArray[np.float32]] = field(default_factory=list)  # as the key stream gave them

    def standardised_noise(self) -> list[Numbers]:
        """Return each step's noise in units of the deviation that training claims."""
        deviations = [trace.noise_deviation for trace in self.traces for _ in trace.batch_sizes]
        return [n / d for n, d in zip(self.noise, deviations, strict=True)]

    def steps(self) -> list[tuple[float, float]]:
        """Return (real sampling rate, real noise multiplier) of each noisy step.

        Raises:
            RuntimeError: coins, noise and traces disagree about steps, patients or noise.
        """
        multipliers = [
            trace.noise_deviation / trace.clipping_norm
            for trace in self.traces
            for _ in trace.batch_sizes
        ]
        sizes = [size for trace in self.traces for size in trace.batch_sizes]
        if sizes != [len(toss.chosen) for toss in self.tosses] or len(sizes) != len(self.noise):
            raise RuntimeError("coins, noise and traces disagree about the steps")
        stream, added = np.concatenate(self.normals), np.concatenate(self.standardised_noise())
        if len(stream) != len(added) or not np.allclose(stream, added, atol=1e-3):
            raise RuntimeError("the noise on the sums is not what the key stream gave")
        rates = [toss.real_rate() for toss in self.tosses]
        return list(zip(rates, multipliers, strict=True))


@contextmanager
def recorded_draws() -> Iterator[dict[str, Draws]]:
    """Record what every vault of this process draws, by site."""
    draws: dict[str, Draws] = {}
    current: list[Draws] = []
    process, train = Vault.process, training.train

    class RecordingStream(KeyStream):
        def normals(self, count: int) -> torch.Tensor:
            numbers = super().normals(count)
            current[-1].normals.append(numbers.numpy().copy())
            return numbers

        def integers(self, count: int) -> NDArray[np.uint64]:
            self.last = super().integers(count)
            return self.last

        def poisson_sample(self, population: int, sampling_rate: str) -> Sequence[int]:
            chosen = super().poisson_sample(population, sampling_rate)
            toss = Toss(self.last, np.asarray(chosen, dtype=np.int64), sampling_rate)
            current[-1].tosses.append(toss)
            return chosen

    class RecordingOptimizer(KeyedDPOptimizer):
        def add_noise(self) -> None:
            sums = [p.summed_grad.clone() for p in self.params]
            super().add_noise()
            pairs = zip(self.params, sums, strict=True)
            added = [(p.grad - clipped).double().numpy().reshape(-1) for p, clipped in pairs]
            current[-1].noise.append(np.concatenate(added))

    def recording_process(self: Vault, sealed: bytes) -> bytes:
        current.append(draws.setdefault(self._config.node.site, Draws()))
        try:
            return process(self, sealed)
        finally:
            current.pop()

    def recording_train(*args: Any, **kwargs: Any) -> TrainingTrace:
        trace = train(*args, **kwargs)
        current[-1].traces.append(trace)
        return trace

    with (
        patch.object(vault, "KeyStream", RecordingStream),
        patch.object(training, "KeyedDPOptimizer", RecordingOptimizer),
        patch.object(vault, "train", recording_train),
        patch.object(Vault, "process", recording_process),
    ):
        yield draws


def reference_epsilon(
    steps: Sequence[tuple[float, float]], delta: float, *, cells: Sequence[float] = ()
) -> float:
    """Return PLD epsilon at a ten times finer interval than the product's, composed one step after another.

    `cells` are the deviations of the discrete Gaussian noise on each cell in which a patient is
    counted.
    """
    total = pld.identity(REFERENCE_INTERVAL)
    for rate, multiplier in steps:
        total = total.compose(_one_step(rate, multiplier))
    for deviation in cells:
        total = total.compose(_one_cell(deviation))
    return float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=32)
def _one_step(rate: float, multiplier: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        multiplier, value_discretization_interval=REFERENCE_INTERVAL, sampling_prob=rate
    )


@lru_cache(maxsize=32)
def _one_cell(deviation: float) -> pld.PrivacyLossDistribution:
    return pld.from_discrete_gaussian_mechanism(
        deviation, value_discretization_interval=REFERENCE_INTERVAL
    )


def exact_epsilon(steps: Sequence[tuple[float, float]], delta: float) -> float | None:
    """Return the exact epsilon of full-batch Gaussian steps (Balle & Wang 2018, Theorem 8); None where sampled.

    Gaussian steps compose to one with mu^2 = sum of 1 / multiplier^2.
    """
    if any(rate != 1.0 for rate, _ in steps):
        return None
    mu = sum(multiplier**-2 for _, multiplier in steps) ** 0.5

    def excess(epsilon: float) -> float:
        below = special.ndtr(mu / 2 - epsilon / mu)
        above = np.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu))
        return float(below - above - delta)

    return float(optimize.brentq(excess, 0.0, 1000.0, xtol=1e-10))


def repeated_noise(drawn: Sequence[Draws]) -> tuple[int, int]:
    """Return (pieces of noise from the key stream that stood before, all pieces of ten numbers or more)."""
    seen = [n.tobytes() for draws in drawn for n in draws.normals if len(n) >= 10]
    return len(seen) - len(set(seen)), len(seen)


def randomness_tests(drawn: Sequence[Draws]) -> list[tuple[str, str, float]]:
    """Return (test, what was found, p) for batch sizes and noise over all that was drawn."""
    found: list[tuple[str, str, float]] = []
    tosses = [toss for draws in drawn for toss in draws.tosses if Decimal(toss.asked_rate) != 1]
    for asked in sorted({toss.asked_rate for toss in tosses}):
        mine, rate = [t for t in tosses if t.asked_rate == asked], float(asked)
        sizes = np.array([len(t.chosen) for t in mine])
        population = np.array([len(t.coins) for t in mine])
        chosen, coins = int(sizes.sum()), int(population.sum())
        p = float(stats.binomtest(chosen, coins, rate).pvalue)
        what = f"{chosen} of {coins} coins = {chosen / coins:.5f}"
        found.append((f"share chosen at rate {rate:g} (binomial)", what, p))
        variance = population * rate * (1 - rate)
        spread = float(np.sum((sizes - population * rate) ** 2 / variance))
        what = f"{spread / len(mine):.3f} of the binomial variance, {len(mine)} batches"
        test = f"spread of batch sizes at rate {rate:g} (chi-squared)"
        found.append((test, what, _chi_squared(spread, len(mine))))
    noise = np.concatenate([n for draws in drawn for n in draws.standardised_noise()])
    squares = float(np.square(noise).sum())
    what = f"{(squares / len(noise)) ** 0.5:.4f} of what was claimed, {len(noise)} numbers"
    found.append(("deviation of the noise (chi-squared)", what, _chi_squared(squares, len(noise))))
    p = float(stats.kstest(noise, "norm").pvalue)
    found.append(("shape of the noise (Kolmogorov-Smirnov, normal)", f"{len(noise)} numbers", p))
    return found


def _chi_squared(value: float, degrees: int) -> float:
    """Return the two-sided p of a chi-squared value."""
    law = stats.chi2(degrees)
    return min(1.0, 2 * min(float(law.cdf(value)), float(law.sf(value))))
