"""Opacus' optimiser with noise from the node's own key stream instead of a torch generator."""

from typing import Any

import torch
from opacus.optimizers import DPOptimizer

from solblom_client.training.keystream import KeyStream


class KeyedDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """`DPOptimizer` whose noise comes from ChaCha20 (privacy.md rule 3).

    Clipping and scaling are Opacus' own. A step is taken by `noisy_step`, once the clipped sum over
    the patients of the step stands in `summed_grad`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        stream: KeyStream,
        noise_multiplier: float,
        clipping_norm: float,
        expected_batch_size: float,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_batch_size,
            loss_reduction="mean",
        )
        self._stream = stream

    def set_empty_sum(self) -> None:
        """Begin a step: the sum over nobody is zero."""
        for parameter in self.params:
            parameter.summed_grad = torch.zeros_like(parameter)
            parameter.grad_sample = (
                None  # Opacus makes the attribute in `zero_grad`, which not every sum needs
            )

    def clip_and_add(self, shares: torch.Tensor | None) -> None:
        """Clip each patient's gradient, `grad_sample`, and add it to the sum; of families, each by its share.

        Without shares it is Opacus' own; with them its arithmetic, factors times shares, shape (B,).
        """
        if shares is None:
            self.clip_and_accumulate()
        else:
            norms = [g.reshape(len(g), -1).norm(2, dim=-1) for g in self.grad_samples]
            factor = self.max_grad_norm / (torch.stack(norms, dim=1).norm(2, dim=1) + 1e-6)
            factor = factor.clamp(max=1.0) * shares.to(factor.device)
            for parameter in self.params:
                self.add_to_sum(parameter, torch.einsum("i,i...", factor, parameter.grad_sample))
        for parameter in self.params:
            parameter.grad_sample = None

    def add_to_sum(self, parameter: Any, clipped: torch.Tensor) -> None:
        """Add clipped contributions of some patients to a parameter's sum."""
        parameter.summed_grad += clipped

    def noisy_step(
        self, *, proximal: float = 0.0, anchor: list[torch.Tensor] | None = None
    ) -> None:
        """Add noise to the sum, divide by the public divisor, step.

        `proximal` pulls towards `anchor`, the round's first model (FedProx, Li et al. 2020, eq. 2).
        It is added after the noise, from public values alone, so it costs nothing; inside the loss
        Opacus would drop it without a word.
        """
        self.add_noise()
        for index, parameter in enumerate(self.params):
            parameter.grad /= self.expected_batch_size
            if proximal and anchor is not None:
                parameter.grad += proximal * (parameter.detach() - anchor[index])
        self.original_optimizer.step()

    def add_noise(self) -> None:
        """Add N(0, (noise_multiplier * clipping_norm)^2) to each clipped sum; `grad` holds the result."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            clipped = parameter.summed_grad
            noise = self._stream.normals(clipped.numel()).view(clipped.shape).to(clipped.device)
            parameter.grad = clipped.add(noise.to(clipped.dtype), alpha=scale).view_as(parameter)
            parameter.summed_grad = None
