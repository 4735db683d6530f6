"""A checkpoint after every round: written beside, then renamed, so a crash leaves the old or the new one whole."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from solblom_models.aggregation.optimisers import ServerState
from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import canonical_json, digest


def write_checkpoint(folder: Path, round_number: int, state: ServerState) -> None:
    """Write the state after a round (0: before round 1)."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "averaged": state.averaged,
        "averaged_count": np.array([state.averaged_count], dtype=np.int64),
        "model": state.model,
        "momentum": state.momentum,
        "second_moment": state.second_moment,
    }
    tensors = {name: array for name, array in parts.items() if array is not None}
    target = folder / f"round-{round_number:05d}.safetensors"
    partial = target.with_suffix(".partial")
    save_file(tensors, partial, metadata={"digest": _digest(tensors)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    for old in folder.glob("round-*.safetensors"):
        # The newest two are enough to resume; disk use does not grow with rounds.
        if int(old.stem.removeprefix("round-")) < round_number - 1:
            old.unlink()


def read_checkpoint(folder: Path, round_number: int) -> ServerState:
    """Read the state after a round.

    Raises:
        IntegrityError: SB-405, missing or damaged.
    """
    path = folder / f"round-{round_number:05d}.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = file.metadata()["digest"]
        if _digest(tensors) != expected:
            raise ValueError("the checkpoint's numbers have changed")
        count = int(tensors["averaged_count"][0])
        momentum, averaged = tensors.get("momentum"), tensors.get("averaged")
        second = tensors.get("second_moment")
        return ServerState(tensors["model"], momentum, averaged, count, second)
    except Exception as error:
        raise IntegrityError(
            "SB-405", f"The checkpoint of round {round_number} is unreadable"
        ) from error


def _digest(tensors: dict[str, Any]) -> str:
    """Return the digest of names, types, shapes and values: safetensors has no checksum of its own."""
    parts = [
        [
            name,
            str(array.dtype),
            list(array.shape),
            digest(np.ascontiguousarray(array).view("u1").data),
        ]
        for name, array in sorted(tensors.items())
    ]
    return digest(canonical_json(parts))
