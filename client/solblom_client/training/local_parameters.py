"""Parameters that stay at the hospital: packed for the vault's own store, never part of an update."""

import torch
from safetensors.torch import load, save

from solblom_protocol.errors import IntegrityError


def pack_local(model: torch.nn.Module, names: frozenset[str]) -> bytes:
    """Return the named parameters as safetensors bytes; empty when there are none."""
    if not names:
        return b""
    return save(
        {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if n in names}
    )


def load_local(model: torch.nn.Module, names: frozenset[str], data: bytes) -> None:
    """Write packed parameters into the net, in place; empty data leave the initial values.

    Raises:
        IntegrityError: SB-405, other names than the task's.
    """
    if not data:
        return
    stored = load(data)
    if set(stored) != names:
        raise IntegrityError("SB-405", "The stored local parameters are of another net")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in stored.items():
            parameters[name].copy_(value)
