"""What `speed.py` measures inside this process: the gate's decisions, rounds, the fold."""

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from heart_study import Setting, no_evaluation, prepare

from solblom_client.budget import ledger
from solblom_client.vault import Vault
from solblom_models import accountant
from solblom_models.aggregation.fold import Fold
from solblom_protocol.messages.layout import Float32, to_grid
from solblom_server.rounds.rounds import PROGRESS

GATE_ROUNDS = 100
FOLD_UPDATES, FOLD_SIZE, FOLD_PASSES = 50, 10_000_000, 3


@dataclass
class Decisions:
    """Seconds of the gate's decisions, and the accountant's part in each."""

    total: list[float] = field(default_factory=list)
    accounting: list[float] = field(default_factory=list)


def gates() -> dict[str, Decisions]:
    """Return the gate's decisions: full batch and sampled, state on disk and in memory."""
    found: dict[str, Decisions] = {}
    memory = Path("/dev/shm")  # noqa: S108 - the files hold public data only
    for scratch in (None, memory) if memory.is_dir() else (None,):
        for rate, steps in ((1.0, 1), (0.25, 5)):
            what = f"rate {rate:g}, {steps} local steps, state {'on disk' if scratch is None else 'in memory'}"
            print(f"gate: {what} ...", flush=True)
            setting = Setting(3.0, rounds=GATE_ROUNDS, sampling_rate=rate, local_steps=steps)
            with tempfile.TemporaryDirectory(dir=scratch) as folder, no_evaluation():
                ready = prepare(Path(folder) / "home", setting, seed=0)
                with _timed_gate() as found[what]:
                    ready.run()
    return found


@contextmanager
def _timed_gate() -> Iterator[Decisions]:
    decisions, started, spent = Decisions(), [0.0], [0.0]
    process, join = Vault.process, Vault._join
    pld, rdp = accountant.pld_epsilon, accountant.rdp_epsilon

    def timed_process(self: Vault, sealed: bytes) -> bytes:
        accountant._pld.cache_clear()
        accountant._rdp.cache_clear()
        started[0], spent[0] = time.perf_counter(), 0.0
        return process(self, sealed)

    def timed_join(self: Vault, *args: Any) -> Any:
        decisions.total.append(time.perf_counter() - started[0])
        decisions.accounting.append(spent[0])
        return join(self, *args)

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - begun

        return call

    with (
        patch.object(Vault, "process", timed_process),
        patch.object(Vault, "_join", timed_join),
        patch.object(ledger, "pld_epsilon", timed(pld)),
        patch.object(ledger, "rdp_epsilon", timed(rdp)),
    ):
        yield decisions


def round_seconds() -> list[float]:
    """Return the seconds of each round after the first: four hospitals on the local grid, state on disk."""
    print("rounds ...", flush=True)
    closed: list[float] = []
    token = PROGRESS.set(lambda number, rounds, text: closed.append(time.perf_counter()))
    with tempfile.TemporaryDirectory() as folder, no_evaluation():
        prepare(Path(folder) / "home", Setting(3.0, rounds=GATE_ROUNDS), seed=0).run()
    PROGRESS.reset(token)
    return np.diff(closed).tolist()


def fold_costs() -> dict[str, float]:
    """Return CPU seconds and megabytes of the fold and of plain numpy, median over the passes."""
    print("fold ...", flush=True)
    rng = np.random.default_rng(0)
    updates = [to_grid(rng.normal(scale=0.01, size=FOLD_SIZE)) for _ in range(2)]
    times: dict[str, list[float]] = {"fold": [], "saxpy": []}
    for _ in range(FOLD_PASSES):
        fold, plain = Fold(FOLD_SIZE), np.zeros(FOLD_SIZE, dtype=np.float32)
        times["fold"].append(_cpu(fold.add, updates))
        times["saxpy"].append(_cpu(partial(_saxpy, plain), updates))
    if not np.allclose(fold.mean(), plain, atol=1e-5):
        raise RuntimeError("fold and numpy differ")
    held, extra = _fold_memory(updates[0])
    fold_cpu, saxpy_cpu = median(times["fold"]), median(times["saxpy"])
    return {
        "fold_cpu_seconds": fold_cpu,
        "saxpy_cpu_seconds": saxpy_cpu,
        "ratio": fold_cpu / saxpy_cpu,
        "model_mb": 4 * FOLD_SIZE / 1e6,
        "held_mb": held / 1e6,
        "extra_peak_mb": extra / 1e6,
    }


def _saxpy(total: Float32, update: Float32) -> None:
    total += np.float32(1 / FOLD_UPDATES) * update


def _cpu(add: Callable[[Float32], None], updates: Sequence[Float32]) -> float:
    begun = time.process_time()
    for number in range(FOLD_UPDATES):
        add(updates[number % len(updates)])
    return time.process_time() - begun


def _fold_memory(update: Float32) -> tuple[int, int]:
    """Return the bytes that a fold holds, and what one `add` needs on top at its peak, the update not counted."""
    tracemalloc.start()
    fold = Fold(FOLD_SIZE)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    fold.add(update)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held, peak - held
