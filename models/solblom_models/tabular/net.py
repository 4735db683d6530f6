"""Nets for tables."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class LogisticRegression(nn.Module):
    """One linear layer; starts at zero, so its first prediction is one half for everybody."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B, D) to logits (B,)."""
        logits: torch.Tensor = self.linear(x)
        return logits.squeeze(-1)


class MultilayerPerceptron(nn.Module):
    """Linear layers with tanh between them; initial weights follow from the public seed alone.

    Bounded activations keep per-patient gradients bounded too, which suits clipping
    (Papernot et al. 2021, arXiv:2007.14191).
    """

    def __init__(self, features: int, hidden: Sequence[int], *, seed: int) -> None:
        super().__init__()
        sizes = [features, *hidden, 1]
        # Without torch's own first values, which the next lines would overwrite.
        layers = [
            nn.utils.skip_init(nn.Linear, a, b)  # type: ignore[no-untyped-call]
            for a, b in pairwise(sizes)
        ]
        self.layers = nn.ModuleList(layers)
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B, D) to logits (B,)."""
        *inner, last = self.layers
        for layer in inner:
            x = torch.tanh(layer(x))
        logits: torch.Tensor = last(x)
        return logits.squeeze(-1)
