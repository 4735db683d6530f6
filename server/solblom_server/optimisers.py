"""Server optimisers: pure functions from (state, mean update) to the next state.

Post-processing of what hospitals released: they cost no privacy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.layout import Float32
from solblom_protocol.study_tables import TrainingTable


@dataclass(frozen=True)
class ServerState:
    """The global model between rounds.

    Attributes:
        model: flat float32 weights that the next order carries.
        momentum: running velocity, float64; None while it is zero, and where the study has no momentum.
        averaged: sum of the models of the second half, float64; None while there is none.
        averaged_count: how many models are in that sum.
    """

    model: Float32
    momentum: NDArray[np.float64] | None
    averaged: NDArray[np.float64] | None
    averaged_count: int

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

    FedAvg with server learning rate and momentum (McMahan et al. 2017; Hsu et al. 2019, FedAvgM): v
    = momentum * v + mean, w = w + server_learning_rate * v. Averaging starts after half of the
    rounds (Polyak & Juditsky 1992).
    """
    velocity = mean if state.momentum is None else training.server_momentum * state.momentum + mean
    moved = state.model.astype(np.float64) + training.server_learning_rate * velocity
    model = moved.astype(np.float32)
    averaged, count = state.averaged, state.averaged_count
    if training.averaging == "second-half" and round_number > training.rounds // 2:
        newest = model.astype(np.float64)
        averaged, count = newest if averaged is None else averaged + newest, count + 1
    return ServerState(model, velocity if training.server_momentum else None, averaged, count)
