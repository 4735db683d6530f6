"""What an update holds besides clipped gradients: its noise, of which only a verdict is given out.

For K steps from the weights w_0 with learning rate l, divisor b, clipped sums S_k and FedProx's mu,

    update = - l/b * sum_k (S_k + n_k) - l*mu * sum_k (w_k - w_0)

and everything but the noise n_k is seen while the round is worked on again with the same coins. So what is left of
the update that was sent, divided by - l/b, is the sum of K noises, N(0, K * (noise_multiplier * clipping_norm)^2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from solblom_client.replaying.noise_verdict import MIN_GRID_STEPS, Values
from solblom_client.training.dp_sgd import TrainingSettings
from solblom_client.work import OrderedModel
from solblom_models.task import Task
from solblom_protocol.errors import RunError
from solblom_protocol.messages.layout import FIXED_POINT_BITS, Float32
from solblom_protocol.studies.study import StudyDocument


@dataclass
class NoiseResidual:
    """Looks on while a round is worked on again. What it holds is without noise and stays in memory.

    Attributes:
        settings: the study's public constants.
        places: for each parameter that is trained and travels, its place among trained ones and in the flat array.
    """

    settings: TrainingSettings
    places: list[tuple[int, slice]]
    _moved: list[torch.Tensor] = field(default_factory=list, repr=False)
    _first: list[torch.Tensor] = field(default_factory=list, repr=False)

    @classmethod
    def of(
        cls, document: StudyDocument, model: OrderedModel, task: Task, *, site: str
    ) -> "NoiseResidual":
        """Begin to look.

        Raises:
            RunError: SB-441, the noise is as small as the grid on which updates travel.
        """
        found = cls(TrainingSettings.of(document, site=site), [])
        if found.deviation < MIN_GRID_STEPS * 2.0**-FIXED_POINT_BITS:
            raise RunError("SB-441", "The round's noise is too small against the grid of updates")
        trained = [n for n, p in model.net.named_parameters() if p.requires_grad]
        start = 0
        for tensor in model.layout.tensors:
            if tensor.name in trained:
                found.places.append((trained.index(tensor.name), slice(start, start + tensor.size)))
            start += tensor.size
        return found

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise in each value of the update, as the study promises it."""
        s = self.settings
        noise = float(s.noise_multiplier) * s.clipping_norm * math.sqrt(s.steps)
        return noise * s.learning_rate / s.expected_batch_size

    def look(self, parameters: Sequence[torch.nn.Parameter], sums: Sequence[torch.Tensor]) -> None:
        """Add up what one step moves the weights by, without its noise."""
        settings = self.settings
        if not self._first:
            self._first = [p.detach().clone() for p in parameters]
            self._moved = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
        for moved, first, parameter, clipped in zip(
            self._moved, self._first, parameters, sums, strict=True
        ):
            step = clipped.detach().double() / settings.expected_batch_size
            step += settings.proximal * (parameter.detach() - first).double()
            moved -= settings.learning_rate * step

    def of_update(self, sent: Float32) -> Values:
        """Return the noise in an update over its promised deviation, shape (trained values,)."""
        parts = [
            (sent[where].astype(np.float64) - self._moved[index].numpy().reshape(-1))
            / self.deviation
            for index, where in self.places
        ]
        whole: Values = np.concatenate(parts)
        return whole
