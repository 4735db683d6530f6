"""The export gate: what an update must look like before it may leave. Numbers of the expected shape, nothing else.

Whether an update passes must not become an answer about patients. Tensors, finiteness and size are
judged by the study's public constants and by the update itself, which is private already: judging
it costs nothing. The norm's bound alone uses what stays here, the realised batch sizes. It is a
check of this program, not of the data: training as it is written here reaches the bound with
probability below 1e-23, whatever the patients, the batch sizes and the order's weights
(`norm_bound`). What it refuses shares the one outside code of all failures after rows were read
(SB-209), keeps its charge, and the third stops the study.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_client.training.dp_sgd import TrainingSettings, TrainingTrace
from solblom_models.flat import layout_of
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.layout import Float32, Layout, pack, to_grid

TAIL = 12.0  # standard deviations beyond the expected norm of the noise
BLOCK = 65_536  # values judged at a time: they stay in the processor's cache
ROUNDING = 2.0**-24 * 1.001  # of a float32, relative
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
    update = np.empty_like(after)
    squares, largest = 0.0, 0.0
    for start in range(0, after.size, BLOCK):
        part = slice(start, start + BLOCK)
        moved = after[part].astype(np.float64) - before[part]
        if not bool(np.isfinite(moved).all()):
            raise RefusedError("SB-213", "The update has values that are not finite")
        squares += float(np.dot(moved, moved))
        largest = max(largest, float(moved.max()), -float(moved.min()))
        update[part] = to_grid(moved)
    norm, bound = math.sqrt(squares), norm_bound(before, settings, trace)
    if norm > bound or largest > MAX_ABSOLUTE:
        raise RefusedError(
            "SB-213", f"The update's norm is {norm:.3g}; at most {bound:.3g} is possible"
        )
    return pack([update])


def export_sum(sums: dict[str, torch.Tensor], layout: Layout) -> NDArray[np.float64]:
    """Return a clipped sum in the order of the layout, float64, before noise and masks.

    Raises:
        RefusedError: SB-213, other tensors than ordered.
    """
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    if {name: tuple(value.shape) for name, value in sums.items()} != shapes:
        raise RefusedError("SB-213", "The clipped sum has other tensors than the order asked for")
    parts = [sums[t.name].cpu().double().numpy().reshape(-1) for t in layout.tensors]
    whole: NDArray[np.float64] = np.concatenate(parts)
    return whole


def norm_bound(before: Float32, settings: TrainingSettings, trace: TrainingTrace) -> float:
    """Return the largest L2 norm that honest training from the weights `before` can reach.

    * A step moves by learning_rate / divisor * (batch * C + |noise|). FedProx only pulls back: the
      study keeps learning_rate * proximal at or below 2.
    * The norm of d normals exceeds sqrt(d) + t with probability below exp(-t^2 / 2) (Laurent &
      Massart 2000): with t = 12 below 1e-31 a step, and no study has more than 1e8 steps.
    * Sums over a batch are rounded by up to a half unit in the last place for each addend (Higham
      2002, section 4.2); the factor of 1e-3 covers clipping and division.
    * New weights are rounded once a step, by up to 2^-24 of the largest. Without this term, weights
      chosen by a hostile coordinator could make rounding errors larger than the steps.
    """
    size = len(before)
    noise = trace.noise_deviation * (math.sqrt(size) + TAIL)
    moved = sum(
        (batch * trace.clipping_norm + noise) * (1.001 + batch * 2.0**-23)
        for batch in trace.batch_sizes
    )
    moved *= settings.learning_rate / settings.expected_batch_size
    largest = float(np.abs(before).max(initial=0.0)) + moved
    return moved + len(trace.batch_sizes) * math.sqrt(size) * largest * ROUNDING + 1e-6
