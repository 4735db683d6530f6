"""Between a torch net and the flat array in which it travels."""

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.layout import Layout, TensorSpec, pack, unpack


def layout_of(model: torch.nn.Module, *, local: frozenset[str]) -> Layout:
    """Return the layout of the parameters that travel: all but the `local` ones, in the net's order.

    Raises:
        IntegrityError: SB-405, the net has buffers (running statistics would leak and do not add
        up).
    """
    if next(model.buffers(), None) is not None:
        raise IntegrityError("SB-405", "The net has buffers; use layers without running statistics")
    return Layout(
        tuple(
            TensorSpec(name, tuple(parameter.shape))
            for name, parameter in model.named_parameters()
            if name not in local
        )
    ).checked()


def flatten(model: torch.nn.Module, layout: Layout) -> bytes:
    """Return the net's travelling parameters as little-endian float32 bytes."""
    parameters = dict(model.named_parameters())
    return pack([parameters[t.name].detach().cpu().numpy() for t in layout.tensors])


def load_flat(model: torch.nn.Module, layout: Layout, values: NDArray[np.float32]) -> None:
    """Write a flat array into the net's parameters, in place."""
    parameters = dict(model.named_parameters())
    start = 0
    with torch.no_grad():
        for tensor in layout.tensors:
            part = np.array(values[start : start + tensor.size]).reshape(tensor.shape)
            parameters[tensor.name].copy_(torch.from_numpy(part))
            start += tensor.size


def load_weights(model: torch.nn.Module, weights: bytes, *, local: frozenset[str]) -> None:
    """Write weights, as `flatten` gives them, into the net's travelling parameters, in place.

    Raises:
        IntegrityError: SB-404 or SB-405, they are of another net.
    """
    layout = layout_of(model, local=local)
    load_flat(model, layout, unpack(weights, layout))
