"""Opacus' optimiser with noise from the node's own key stream instead of a torch generator."""

import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

from solblom_client.keystream import KeyStream


class KeyedDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """`DPOptimizer` whose noise comes from ChaCha20 (privacy.md rule 3). Clipping and scaling are Opacus' own."""

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

    def add_noise(self) -> None:
        """Add N(0, (noise_multiplier * clipping_norm)^2) to each clipped sum, float64, then cast."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            _check_processed_flag(parameter.summed_grad)
            clipped = parameter.summed_grad
            noise = torch.from_numpy(self._stream.normals(clipped.numel()) * scale)
            noisy = clipped.double().cpu() + noise.view(clipped.shape)
            parameter.grad = noisy.to(dtype=parameter.dtype, device=parameter.device).view_as(
                parameter
            )
            _mark_as_processed(parameter.summed_grad)
