"""Server optimisers: pure functions from (state, mean update) to the next state.

Post-processing of what hospitals released: they cost no privacy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.messages.layout import Float32
from solblom_protocol.studies.checks import ADAPTIVE
from solblom_protocol.studies.tables import TrainingTable


@dataclass(frozen=True)
class ServerState:
    """The global model between rounds.

    Attributes:
        model: flat float32 weights that the next order carries.
        momentum: running velocity, or the first moment of an adaptive strategy, float64; None while it is
            zero, and where the study has neither.
        averaged: sum of the models of the second half, float64; None while there is none.
        averaged_count: how many models are in that sum.
        second_moment: of an adaptive strategy, float64; None before round 1, and for other strategies.
    """

    model: Float32
    momentum: NDArray[np.float64] | None
    averaged: NDArray[np.float64] | None
    averaged_count: int
    second_moment: NDArray[np.float64] | None = None

    @classmethod
    def initial(cls, model: Float32) -> "ServerState":
        """Return the state before round 1."""
        return cls(model, None, None, 0)

    def final_model(self) -> Float32:
        """Return the model that is released: the mean of the second half's models, or the last one."""
        if self.averaged is None:
            return self.model
        return (self.averaged / self.averaged_count).astype(np.float32)


def step(
    state: ServerState, mean: NDArray[np.float64], training: TrainingTable, *, round_number: int
) -> ServerState:
    """Return the state after one round.

    FedAvg and FedProx: server learning rate and momentum (McMahan et al. 2017; Hsu et al. 2019,
    FedAvgM), v = momentum * v + mean, w = w + server_learning_rate * v. FedAdam and FedYogi: see
    `_moments`. Averaging starts after half of the rounds (Polyak & Juditsky 1992).
    """
    second = None
    if training.strategy in ADAPTIVE:
        first, second, tau = _moments(state, mean, training)
        direction = first / (np.sqrt(second) + tau)
        kept: NDArray[np.float64] | None = first
    else:
        old = state.momentum
        direction = mean if old is None else training.server_momentum * old + mean
        kept = direction if training.server_momentum else None
    moved = state.model.astype(np.float64) + training.server_learning_rate * direction
    model = moved.astype(np.float32)
    averaged, count = state.averaged, state.averaged_count
    if training.averaging == "second-half" and round_number > training.rounds // 2:
        newest = model.astype(np.float64)
        averaged, count = newest if averaged is None else averaged + newest, count + 1
    return ServerState(model, kept, averaged, count, second)


def _moments(
    state: ServerState, mean: NDArray[np.float64], training: TrainingTable
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return both moments after a round, and tau (Reddi et al. 2021, arXiv:2003.00295, Algorithm 2).

    Before round 1 the first is zero and the second tau squared, the smallest that the algorithm's first
    line allows. The paper corrects no bias, nor does this.

    Raises:
        ValueError: the study has no constants of an adaptive strategy, which `check_study` refuses.
    """
    beta_1, beta_2, tau = training.beta_1, training.beta_2, training.tau
    if beta_1 is None or beta_2 is None or tau is None:
        raise ValueError(f"{training.strategy} without beta_1, beta_2 and tau")
    old = np.zeros_like(mean) if state.momentum is None else state.momentum
    spread = np.full_like(mean, tau * tau) if state.second_moment is None else state.second_moment
    square = mean * mean
    first = beta_1 * old + (1.0 - beta_1) * mean  # Algorithm 2, m_t
    if training.strategy == "fedyogi":
        # Algorithm 2, the line of FedYogi. Yogi moves v by at most (1 - beta_2) of the square.
        second = spread - (1.0 - beta_2) * square * np.sign(spread - square)
    else:
        second = beta_2 * spread + (1.0 - beta_2) * square  # Algorithm 2, the line of FedAdam
    return first, second, tau
