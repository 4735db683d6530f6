"""Nets that read a whole bag: a mean over tiles, or gated attention over them."""

import torch
from torch import nn


class MeanPooling(nn.Module):
    """Logistic regression on the mean of a patient's tiles; starts at zero."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, bag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map a bag (n, D) to its logit, a scalar, and the weight of each tile (n,), which sum to 1."""
        logit: torch.Tensor = self.linear(bag.mean(dim=0))
        return logit.squeeze(-1), bag.new_full((len(bag),), 1.0 / len(bag))


class GatedAttention(nn.Module):
    """Gated attention pooling (Ilse, Tomczak & Welling 2018, arXiv:1802.04712, eq. 9) and a linear read-out.

    The weight of tile h is softmax over tiles of w (tanh(V h) * sigmoid(U h)). Initial weights follow from the public
    seed alone; the read-out starts at zero, and so does w, so that the first weights are those of a mean.
    """

    def __init__(self, features: int, hidden: int, *, seed: int) -> None:
        super().__init__()
        # Without torch's own first values, which the next lines would overwrite.
        layers = [nn.utils.skip_init(nn.Linear, features, hidden) for _ in range(2)]  # type: ignore[no-untyped-call]
        self.tanh, self.gate = layers
        self.weight = nn.Linear(
            hidden, 1, bias=False
        )  # a shift of all tiles alike changes no softmax
        self.linear = nn.Linear(features, 1)
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        for parameter in (self.weight.weight, self.linear.weight, self.linear.bias):
            nn.init.zeros_(parameter)

    def forward(self, bag: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map a bag (n, D) to its logit, a scalar, and the weight of each tile (n,), which sum to 1."""
        gated = torch.tanh(self.tanh(bag)) * torch.sigmoid(self.gate(bag))
        weights = torch.softmax(self.weight(gated).squeeze(-1), dim=0)
        logit: torch.Tensor = self.linear(weights @ bag)
        return logit.squeeze(-1), weights
