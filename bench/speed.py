"""How fast: whole processes as a user feels them, the vault's decision, a round, and the fold.

* `solblom demo heart`, with and without a network, `solblom --help`, `solblom model verify` and `solblom-verify`: wall
  seconds of the whole process, start of Python included; one warm-up, then median, least and most. `solblom demo
  histology` once, without a warm-up.
* The gate: from a sealed order's arrival until the first patient row may be read, signature, approval, policy, chain,
  accountant and the synced reservation included. The accountant's caches are emptied before each order: a real
  hospital asks about each total once. On disk and in memory, since most of the rest is waiting for fsync.
* Seconds per round of four hospitals on the local grid.
* The fold of 50 updates of 10 million values: CPU seconds and memory beside numpy's `sum += weight * update`.

GOALS: demo heart below 20 s, demo histology below 180 s, verify below 1 s; the gate at the 95th percentile below 10 ms
without the accountant and below 1 s with it. The machine is shared: see the load beside the figures.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from report import Goal, Table, finish, load_average
from speed_inside import (
    FOLD_PASSES,
    FOLD_SIZE,
    FOLD_UPDATES,
    GATE_ROUNDS,
    Decisions,
    fold_costs,
    gates,
    round_seconds,
)

DEMO_GOAL, HISTOLOGY_GOAL, VERIFY_GOAL = 20.0, 180.0, 1.0
HISTOLOGY, HISTOLOGY_REPEATS = "solblom demo histology", 1
GATE_MILLISECONDS, ACCOUNTED_MILLISECONDS = 10.0, 1000.0
QUIET_LOAD = 0.8  # over the last minute
NO_NETWORK = "solblom demo heart, no network"
BIN = Path(sys.executable).parent
SOLBLOM, VERIFY = str(BIN / "solblom"), str(BIN / "solblom-verify")
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Timing:
    """Wall and CPU seconds of a process, several times."""

    what: str
    wall: list[float]
    cpu: list[float]

    def row(self) -> tuple[str, ...]:
        """Return a line of the table."""
        cells = (median(self.wall), min(self.wall), max(self.wall), median(self.cpu))
        return (self.what, str(len(self.wall)), *(f"{value:.2f}" for value in cells))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each process")
    parser.add_argument(
        "--patience", type=float, default=10.0, help="minutes to wait for a quiet machine"
    )
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    _wait_until_quiet(options.patience)
    load_at_start = load_average()
    timings, failed = _processes(options.repeats)
    _report(timings, failed, gates(), round_seconds(), fold_costs(), load_at_start, options.out)


def _wait_until_quiet(minutes: float) -> None:
    """Wait until few others compute, or patience ends; the load is written down either way."""
    deadline = time.monotonic() + 60 * minutes
    while load_average() > QUIET_LOAD and time.monotonic() < deadline:
        print(f"load {load_average()}: waiting for a quiet machine ...", flush=True)
        time.sleep(30)


def _processes(repeats: int) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time the commands; return the timings, and why any could not be measured."""
    timings: dict[str, Timing] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "artefact"
        told = _call([SOLBLOM, "demo", "heart", "--json", "--out", str(first)])
        model = str(first / "models" / Path(json.loads(told)["model"]["path"]).name)
        commands = {
            "solblom demo heart": [SOLBLOM, "demo", "heart", "--out", "{new}"],
            NO_NETWORK: ["unshare", "-n", SOLBLOM, "demo", "heart", "--out", "{new}"],
            "solblom --help": [SOLBLOM, "--help"],
            "solblom model verify": [SOLBLOM, "model", "verify", model],
            "solblom-verify": [VERIFY, model],
        }  # fmt: skip
        if os.geteuid() != 0 or not shutil.which("unshare"):
            del commands[NO_NETWORK]
            failed[NO_NETWORK] = "needs root and unshare"
        for number in range(repeats + 1):  # in turn, so that other jobs disturb all alike
            print(f"processes, {number} of {repeats} ...", flush=True)
            for what, command in commands.items():
                if what in failed:
                    continue
                try:
                    wall, cpu = _time(command, Path(folder))
                except subprocess.CalledProcessError as error:
                    failed[what] = f"exit code {error.returncode}"
                    continue
                if number:  # the first is a warm-up
                    timing = timings.setdefault(what, Timing(what, [], []))
                    timing.wall.append(wall)
                    timing.cpu.append(cpu)
        timings[HISTOLOGY] = _histology(Path(folder))
    return {what: timing for what, timing in timings.items() if what not in failed}, failed


def _histology(folder: Path) -> Timing:
    """Time the demo of slides, which takes minutes: a few times, without a warm-up."""
    timing = Timing(HISTOLOGY, [], [])
    for number in range(HISTOLOGY_REPEATS):
        print(f"demo histology, {number} of {HISTOLOGY_REPEATS} ...", flush=True)
        wall, cpu = _time([SOLBLOM, "demo", "histology", "--out", "{new}"], folder)
        timing.wall.append(wall)
        timing.cpu.append(cpu)
    return timing


def _time(command: list[str], folder: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of one process."""
    with tempfile.TemporaryDirectory(dir=folder) as new:
        filled = [part.replace("{new}", f"{new}/demo") for part in command]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        _call(filled)
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _call(command: list[str]) -> str:
    environment = os.environ | QUIET
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def _report(
    timings: dict[str, Timing],
    failed: dict[str, str],
    decided: dict[str, Decisions],
    rounds: list[float],
    fold: dict[str, float],
    load_at_start: float,
    out: Path | None,
) -> None:
    processes = [t.row() for t in timings.values()]
    processes += [(what, "0", why, "-", "-", "-") for what, why in failed.items()]
    process_columns = ("process", "runs", "median s", "least", "most", "median CPU s")
    decisions = [_gate_row(what, found) for what, found in decided.items()]
    gate_columns = (
        "gate, milliseconds",
        "decisions",
        "p50",
        "p95",
        "p50 without accountant",
        "p95",
    )
    model = fold["model_mb"]
    others = (
        ("one round, four hospitals, local grid: seconds", f"{median(rounds):.3f}"),
        ("fold of 50 x 10M values: CPU seconds", f"{fold['fold_cpu_seconds']:.2f}"),
        ("numpy sum += weight * update, same: CPU seconds", f"{fold['saxpy_cpu_seconds']:.2f}"),
        ("fold over numpy, CPU", f"{fold['ratio']:.1f}"),
        ("fold: memory held, in copies of the model", f"{fold['held_mb'] / model:.1f}"),
        ("fold: more at the peak of one update, in copies", f"{fold['extra_peak_mb'] / model:.1f}"),
    )
    finish(
        "speed",
        measures="Seconds of whole processes, gate decisions, rounds and the fold",
        settings={
            "repeats": max(len(t.wall) for t in timings.values()),
            "gate_rounds": GATE_ROUNDS,
            "hospitals": 4,
            "fold": {"updates": FOLD_UPDATES, "size": FOLD_SIZE, "passes": FOLD_PASSES},
        },
        seeds=[0],
        tables=[
            Table("Whole processes", process_columns, tuple(processes)),
            Table("The gate, before patient rows are read", gate_columns, tuple(decisions)),
            Table("Round and fold", ("what", "found"), others),
        ],
        goals=[
            _goal(timings, failed, "solblom demo heart", DEMO_GOAL),
            _goal(timings, failed, NO_NETWORK, DEMO_GOAL),
            _goal(timings, failed, HISTOLOGY, HISTOLOGY_GOAL),
            _goal(timings, failed, "solblom model verify", VERIFY_GOAL),
            _goal(timings, failed, "solblom-verify", VERIFY_GOAL),
            *(goal for what, found in decided.items() for goal in _gate_goals(what, found)),
        ],
        notes=[
            "Two shared cores with other jobs running: wall times are upper bounds, CPU times steadier.",
            "The accountant's caches are emptied before each gate decision; dp-accounting is loaded already.",
        ],
        results={
            "processes": {what: asdict(timing) for what, timing in timings.items()},
            "not_measured": failed,
            "gate": {what: asdict(found) for what, found in decided.items()},
            "round_seconds": rounds,
            "fold": fold,
        },
        load_at_start=load_at_start,
        out=out,
    )


def _gate_row(what: str, found: Decisions) -> tuple[str, ...]:
    cells = [np.percentile(ms, share) for ms in _milliseconds(found) for share in (50, 95)]
    return (what, str(len(found.total)), *(f"{cell:.1f}" for cell in cells))


def _milliseconds(found: Decisions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what each decision took, and what of it was not the accountant."""
    total = 1000 * np.array(found.total)
    return total, total - 1000 * np.array(found.accounting)


def _gate_goals(what: str, found: Decisions) -> tuple[Goal, Goal]:
    with_it, without = (float(np.percentile(ms, 95)) for ms in _milliseconds(found))
    return (
        Goal(
            f"gate without accountant, {what}",
            f"95th percentile below {GATE_MILLISECONDS:g} ms",
            f"{without:.1f} ms",
            without < GATE_MILLISECONDS,
        ),
        Goal(
            f"gate with accountant, {what}",
            f"95th percentile below {ACCOUNTED_MILLISECONDS:g} ms",
            f"{with_it:.1f} ms",
            with_it < ACCOUNTED_MILLISECONDS,
        ),
    )


def _goal(timings: dict[str, Timing], failed: dict[str, str], what: str, limit: float) -> Goal:
    goal = f"median below {limit:g} s"
    if what not in timings:
        return Goal(what, goal, failed[what], None)
    wall = timings[what].wall
    return Goal(what, goal, f"{median(wall):.2f} s (most {max(wall):.2f})", median(wall) < limit)


if __name__ == "__main__":
    main()
