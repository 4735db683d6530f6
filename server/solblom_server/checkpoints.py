"""A checkpoint after every round: written beside, then renamed, so a crash leaves the old or the new one whole."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from solblom_protocol.errors import IntegrityError
from solblom_server.optimisers import ServerState


def write_checkpoint(folder: Path, round_number: int, state: ServerState) -> None:
    """Write the state after a round (0: before round 1)."""
    folder.mkdir(parents=True, exist_ok=True)
    data = save(
        {
            "model": state.model,
            "momentum": state.momentum,
            "averaged": state.averaged,
            "averaged_count": np.array([state.averaged_count], dtype=np.int64),
        }
    )
    target = folder / f"round-{round_number:05d}.safetensors"
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
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
        data = load_file(path)
        return ServerState(
            data["model"], data["momentum"], data["averaged"], int(data["averaged_count"][0])
        )
    except Exception as error:
        raise IntegrityError(
            "SB-405", f"The checkpoint of round {round_number} is unreadable"
        ) from error
