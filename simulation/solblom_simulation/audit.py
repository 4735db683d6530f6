"""Test a study's privacy claim from outside: a canary audit in one training run.

Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv:2305.08846).
Each of m canaries is a made-up patient whose contribution points along an axis of its own; a coin
decides whether it takes part. The study's own training code runs with the study's settings, and an
attacker who sees every release guesses the coins. If the guesses are better than epsilon allows,
the claim is false.

The audit gives a lower bound. A pass says that this attack found no fault, not that there is none.
Canaries are mock patients: no real patient is touched and no budget is spent.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from scipy.stats import binom

from solblom_client.keys import derive
from solblom_client.training.dp_sgd import TrainingSettings, train
from solblom_client.training.keystream import KeyStream
from solblom_models.accountant import pld_epsilon
from solblom_models.metrics import auroc_with_interval
from solblom_models.task import AllShared
from solblom_protocol.messages.layout import to_grid
from solblom_protocol.studies.study import StudyDocument

FAILURE_LEVEL = 1e-4  # chance that a correct build is called false, over all guesses together
ABSTENTION = (1.0, 0.5, 0.2)  # shares of canaries that are guessed, fixed before looking
DELTA_PER_CANARY = 2.5e-4  # keeps the delta term of Theorem 5.2 below a fifth of the level
RELATIVES = (
    8  # patients of each canary family: bounding patients instead of families shows eightfold
)
ROWS = 8  # rows of each canary patient: clipping by row instead of by patient shows eightfold


@dataclass(frozen=True)
class AuditResult:
    """What the attacker reached.

    Attributes:
        claimed: the study's epsilon at `delta`, by its own accountant.
        delta: where the claim is tested. Smaller than the study's: a private mechanism keeps a
        whole curve of (epsilon, delta), and at a large delta a thousand guesses prove nothing.
        lower_bound: epsilon that the guesses prove, at failure level 1e-4.
        canaries: number of canaries, each in or out by a coin.
        correct: guesses that were right, when every canary is guessed.
        membership_auroc: how well in is told from out, with a 95 % interval.
        tpr_at_1_percent_fpr: share of members found at 1 % false alarms, with a 95 % interval.
    """

    claimed: float
    delta: float
    lower_bound: float
    canaries: int
    correct: int
    membership_auroc: tuple[float, float, float]
    tpr_at_1_percent_fpr: tuple[float, float, float]

    @property
    def passed(self) -> bool:
        """Whether the claim stands against this attack."""
        return self.lower_bound <= self.claimed


@dataclass(frozen=True)
class CanaryUnits:
    """Made-up patients, each with `ROWS` rows along one axis; who share an axis are a family."""

    ids: tuple[str, ...]
    axes: NDArray[np.int64]
    dimension: int

    @property
    def groups(self) -> dict[str, tuple[str | None, ...]]:
        """The canaries' families, where a study asks for them."""
        return {"family": tuple(f"axis-{axis}" for axis in self.axes)}

    @property
    def labels(self) -> NDArray[np.int64]:
        """All ones: the canaries' loss needs no label."""
        return np.ones(len(self.ids), dtype=np.int64)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return rows, shape (B, ROWS, dimension)."""
        rows = torch.zeros(len(indices), ROWS, self.dimension)
        for position, index in enumerate(indices):
            rows[position, :, int(self.axes[index])] = 1_000.0  # far above any clipping norm
        return rows

    def select(self, indices: Sequence[int]) -> "CanaryUnits":
        """Return these canaries only."""
        chosen = list(indices)
        return replace(self, ids=tuple(self.ids[i] for i in chosen), axes=self.axes[chosen])

    def row_bytes(self, index: int) -> bytes:
        """Return the canary's axis."""
        return int(self.axes[index]).to_bytes(8, "big")


class CanaryTask(AllShared):
    """The worst case for privacy: a patient's gradient is constant and points along its own axis."""

    name: ClassVar[str] = "canaries"
    connector: ClassVar[str] = "none"
    ragged: ClassVar[bool] = True

    def check(self, document: StudyDocument) -> None:
        """Accept every study: only its privacy settings are used."""

    def read_units(self, source: Any, document: StudyDocument) -> CanaryUnits:
        """Return the canaries unchanged."""
        units: CanaryUnits = source
        return units

    def build(self, document: StudyDocument) -> torch.nn.Module:
        """Not used: the net's size follows from the number of canaries."""
        raise NotImplementedError

    def losses(self, model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Return minus the linear response, summed over each patient's rows, shape (B,)."""
        response: torch.Tensor = model(batch)
        return -response.sum(dim=(1, 2))

    def scores(self, model: torch.nn.Module, units: Any) -> NDArray[np.float64]:
        """Not used."""
        raise NotImplementedError


def audit_study(
    document: StudyDocument, *, canaries: int = 1000, seed: int | None = None
) -> AuditResult:
    """Audit a study's settings with made-up patients.

    `seed` fixes coins and keys for tests; without it both come from the operating system.

    Raises:
        ValueError: fewer than 500 canaries, or the study's privacy is off.
    """
    if canaries < 500 or document.noise_multiplier is None:
        raise ValueError("an audit needs at least 500 canaries and a study with privacy")
    root = secrets.token_bytes(32) if seed is None else seed.to_bytes(32, "big")
    coins = KeyStream(derive(root, "cohort", "canaries"))
    members = (coins.integers(canaries) & np.uint64(1)).astype(bool)
    released = _train_all_rounds(document, members, root)
    delta = min(document.study.privacy.delta, DELTA_PER_CANARY / canaries)
    claimed = pld_epsilon([document.round_event] * document.study.training.rounds, delta)
    return judge(members, released, claimed=claimed, delta=delta)


def judge(
    members: NDArray[np.bool_], released: NDArray[np.float64], *, claimed: float, delta: float
) -> AuditResult:
    """Return what guessing the canaries' coins from all releases, shape (rounds, m), proves.

    Two attackers: one adds up all rounds, one looks at the last round alone, where noise that was
    drawn only once would be missing.
    """
    scores = released.sum(axis=0)
    attackers = (scores, released[-1])
    level = FAILURE_LEVEL / (len(ABSTENTION) * len(attackers))  # Bonferroni over all guesses
    bounds = []
    for guesses in attackers:
        order = np.argsort(guesses)
        for share in ABSTENTION:
            half = int(len(members) * share) // 2
            correct = int((~members[order[:half]]).sum() + members[order[-half:]].sum())
            bounds.append(epsilon_lower_bound(len(members), 2 * half, correct, delta, level))
    order = np.argsort(scores)
    half = len(members) // 2
    correct = int((~members[order[:half]]).sum() + members[order[half:]].sum())
    return AuditResult(
        claimed=claimed,
        delta=delta,
        lower_bound=max(bounds),
        canaries=len(members),
        correct=correct,
        membership_auroc=_auroc(members, scores),
        tpr_at_1_percent_fpr=_tpr(members, scores),
    )


def epsilon_lower_bound(m: int, guesses: int, correct: int, delta: float, level: float) -> float:
    """Return the largest epsilon that `correct` of `guesses` refutes at `level`; 0 when none is."""
    low, high = 0.0, 1.0
    while p_value(m, guesses, correct, high, delta) < level and high < 64:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if p_value(m, guesses, correct, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low


def p_value(m: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return how likely so many right guesses are under (epsilon, delta)-DP (Theorem 5.2)."""
    if correct <= 0:
        return 1.0
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, chance))
    # The most that delta can add: max over i of P[correct - i <= X < correct] / i, times 2 m delta.
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, chance))
    worst = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2.0 * m * delta * worst)


def _train_all_rounds(
    document: StudyDocument, members: NDArray[np.bool_], root: bytes
) -> NDArray[np.float64]:
    """Run every round of the study on the canaries that take part; return each axis' movement, (rounds, m)."""
    dimension = len(members)
    axes = np.nonzero(members)[0]
    batch = document.study.training.expected_batch_size
    # Where hospitals have their own divisors, any will do: the noise is on the sum before it.
    site = min(batch) if isinstance(batch, dict) else ""
    settings = TrainingSettings.of(document, site=site)
    relatives = RELATIVES if settings.by_family else 1
    axes = np.repeat(axes, relatives)
    names = (f"canary-{number // relatives}-{number % relatives}" for number in range(len(axes)))
    units = CanaryUnits(tuple(names), axes, dimension)
    moved: list[NDArray[np.float64]] = []
    for number in range(1, document.study.training.rounds + 1):
        net = torch.nn.Linear(dimension, 1, bias=False)
        torch.nn.init.zeros_(net.weight)
        work = f"round-{number}"
        train(
            CanaryTask(),
            net,
            units,
            settings,
            coins=KeyStream(derive(root, "sampling", work)),
            noise=KeyStream(derive(root, "noise", work)),
        )
        moved.append(to_grid(net.weight.detach().numpy().reshape(-1)).astype(np.float64))
    return np.stack(moved)


def _auroc(members: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[float, float, float]:
    found = auroc_with_interval(members.astype(np.int64), scores)
    if found.value is None or found.low is None or found.high is None:
        raise ValueError("too few canaries on one side")
    return found.value, found.low, found.high


def _tpr(members: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the share of members above the 99th percentile of the others (Clopper & Pearson 1934)."""
    threshold = np.quantile(scores[~members], 0.99)
    found, total = int((scores[members] > threshold).sum()), int(members.sum())
    low = float(beta_distribution.ppf(0.025, found, total - found + 1)) if found else 0.0
    high = float(beta_distribution.ppf(0.975, found + 1, total - found)) if found < total else 1.0
    return found / total, low, high
