"""The export gate: what an update must look like before it may leave. Numbers of the expected shape, nothing else."""

import math

import numpy as np
import torch

from solblom_client.training import TrainingSettings, TrainingTrace
from solblom_models.flat import layout_of
from solblom_protocol.errors import RefusedError
from solblom_protocol.layout import Float32, Layout, pack, to_grid

MAX_ABSOLUTE = 2.0**20  # far inside the int64 ring of the fold: 2^20 * 2^24 * 2^16 nodes < 2^63


def export_update(
    before: Float32,
    model: torch.nn.Module,
    layout: Layout,
    *,
    local: frozenset[str],
    settings: TrainingSettings,
    trace: TrainingTrace,
) -> bytes:
    """Return the update (new minus old weights) as bytes on the public grid of 2^-24.

    Raises:
        RefusedError: SB-213, other tensors than ordered, a value that is not finite, or a norm that
        training with these constants cannot produce.
    """
    if layout_of(model, local=local) != layout:
        raise RefusedError("SB-213", "The trained net has other tensors than the order asked for")
    parameters = dict(model.named_parameters())
    after = np.concatenate(
        [parameters[t.name].detach().cpu().numpy().reshape(-1) for t in layout.tensors]
    )
    update = after.astype(np.float64) - before.astype(np.float64)
    if not bool(np.isfinite(update).all()):
        raise RefusedError("SB-213", "The update has values that are not finite")
    norm, bound = float(np.linalg.norm(update)), norm_bound(layout.size, settings, trace)
    if norm > bound or float(np.abs(update).max(initial=0.0)) > MAX_ABSOLUTE:
        raise RefusedError(
            "SB-213", f"The update's norm is {norm:.3g}; at most {bound:.3g} is possible"
        )
    return pack([to_grid(update)])


def norm_bound(size: int, settings: TrainingSettings, trace: TrainingTrace) -> float:
    """Return the largest L2 norm that honest training can reach.

    Each step moves at most learning_rate / divisor * (batch * C + |noise|), and the norm of `size`
    normals exceeds (sqrt(size) + 6) deviations with probability below 1e-7 (Laurent & Massart
    2000).
    """
    noise = trace.noise_deviation * (math.sqrt(size) + 6.0)
    moved = sum(batch * trace.clipping_norm + noise for batch in trace.batch_sizes)
    return settings.learning_rate * moved / settings.expected_batch_size * 1.001 + 1e-6
