"""Nets that read labelled tiles: linear on contrasts of a tile with its surroundings, and a small CNN on pixels."""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd
from typing import ClassVar

import torch
from torch import nn

MOST_GROUPS = 8  # of a GroupNorm
CONTRAST_SCALES = (4.0, 2.0, 10.0)  # public; chosen on development patients (bench/idc_tiles.py)
HEAD_SCALES = (4.0, 3.0, 8.0)  # as CONTRAST_SCALES, for ContrastHeads


class ContrastRegression(nn.Module):
    """One linear layer on a tile minus its neighbours, neighbours minus the slide, and the sum of all; starts at zero.

    A head on these is one on the features as they stand, but two of three blocks have no mean, and clipped gradients
    are not spent on it.
    """

    scales: ClassVar[tuple[float, float, float]] = CONTRAST_SCALES

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features beside those of the surroundings (B, 3 K) to logits (B,)."""
        logits: torch.Tensor = self.linear(torch.cat(self.contrasts(x), dim=-1))
        return logits.squeeze(-1)

    def contrasts(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the three blocks of features (B, 3 K), each (B, K)."""
        own, near, whole = x.chunk(3, dim=-1)
        blocks = own - near, near - whole, own + near + whole
        return [block / scale for block, scale in zip(blocks, self.scales, strict=True)]


class ContrastHeads(ContrastRegression):
    """As ContrastRegression, but each block learns to say yes or no by itself; the logit is the sum of the three.

    Blocks tell much the same. Learned together each gets what the others leave, over many steps, and every step needs
    noise; learned apart each has most of what it can say after a few.
    """

    scales: ClassVar[tuple[float, float, float]] = HEAD_SCALES

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B, 3 K) to the logit of each block, (B, 3); the bias is the last one's."""
        weights = self.linear.weight.chunk(3, dim=-1)
        logits = [
            block @ weight[0] for block, weight in zip(self.contrasts(x), weights, strict=True)
        ]
        return torch.stack([*logits[:2], logits[2] + self.linear.bias], dim=-1)


class TileCnn(nn.Module):
    """Convolutions of stride 2 with GroupNorm, a mean over places, and a linear layer that starts at zero.

    GroupNorm, since a BatchNorm would let patients meet. Initial weights follow from the public seed alone.
    """

    def __init__(self, side: int, channels: Sequence[int], *, seed: int) -> None:
        super().__init__()
        self.side = side
        # Without torch's own first values, which the next lines would overwrite.
        convolutions = [
            nn.utils.skip_init(nn.Conv2d, a, b, 3, stride=2, padding=1)  # type: ignore[no-untyped-call]
            for a, b in pairwise([3, *channels])
        ]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.GroupNorm(gcd(MOST_GROUPS, n), n) for n in channels)
        self.linear = nn.Linear(channels[-1], 1)
        generator = torch.Generator().manual_seed(seed)
        for layer in convolutions:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels (B, 3 P P), channels first, to numbers (B, C)."""
        x = x.reshape(len(x), 3, self.side, self.side)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
        return x.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels (B, 3 P P), channels first, to logits (B,)."""
        logits: torch.Tensor = self.linear(self.trunk(x))
        return logits.squeeze(-1)
