"""Checkpoints: whole or not there, damaged ones refused, and disk use that does not grow."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solblom_models.aggregation.optimisers import ServerState
from solblom_protocol.errors import IntegrityError
from solblom_server.rounds.checkpoints import read_checkpoint, write_checkpoint

STATE = ServerState(
    np.array([0.5, -1.25, 3.0], dtype=np.float32),
    np.array([0.1, 0.2, 0.3]),
    np.array([1.0, 2.0, 3.0]),
    4,
    np.array([0.01, 0.02, 0.03]),
)


def bits(state: ServerState) -> list[Any]:
    arrays = (state.model, state.momentum, state.averaged, state.second_moment)
    return [None if a is None else a.tobytes() for a in arrays] + [state.averaged_count]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new", 3, STATE)
    assert bits(read_checkpoint(tmp_path / "new", 3)) == bits(STATE)


def test_a_state_without_momentum_and_average_comes_back_without_them(tmp_path: Path) -> None:
    plain = ServerState(STATE.model, None, None, 0)
    write_checkpoint(tmp_path, 1, plain)
    assert bits(read_checkpoint(tmp_path, 1)) == bits(plain)
    assert (tmp_path / "round-00001.safetensors").stat().st_size < 400


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for number in range(12):
        write_checkpoint(tmp_path, number, STATE)
    assert files(tmp_path) == ["round-00010.safetensors", "round-00011.safetensors"]


def test_the_same_state_gives_the_same_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_checkpoint(tmp_path / folder, 1, STATE)
    first, second = ((tmp_path / f / "round-00001.safetensors").read_bytes() for f in ("a", "b"))
    assert first == second


def test_a_crash_while_writing_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, 1, STATE)
    changed = ServerState(STATE.model * 2, STATE.momentum, STATE.averaged, 5)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _crash)
        with pytest.raises(OSError, match="power"):
            write_checkpoint(tmp_path, 1, changed)
    assert bits(read_checkpoint(tmp_path, 1)) == bits(STATE)


def test_what_a_crash_left_does_not_disturb_the_next_write(tmp_path: Path) -> None:
    (tmp_path / "round-00001.partial").write_bytes(b"half a checkpoint")
    write_checkpoint(tmp_path, 1, STATE)
    assert bits(read_checkpoint(tmp_path, 1)) == bits(STATE)
    assert files(tmp_path) == ["round-00001.safetensors"]


def assert_refused(folder: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_checkpoint(folder, 1)
    assert caught.value.code == "SB-405"


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path)


def test_every_cut_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, STATE)
    path = tmp_path / "round-00001.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert_refused(tmp_path)


def test_every_flipped_byte_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, STATE)
    path = tmp_path / "round-00001.safetensors"
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        path.write_bytes(bytes(changed))
        assert_refused(tmp_path)


def _crash(_: int) -> None:
    raise OSError("power cut")
