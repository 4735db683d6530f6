"""How fast rounds over a network are, beside stock Flower, and what grows with rounds.

Everything is real: processes on loopback with TLS, node keys, sealed orders, patient-level privacy, isolated vaults.

* Three hospitals, a toy perceptron with 16 hidden units, train only, beside a stock flower-superlink with three
  flower-supernodes and FedAvg on such a net in the same bench. Stock Flower trains without privacy and without sealing.
* A model of 45 MB (11.2 million float32), three hospitals: seconds a round, and bytes on the hospitals' wire (TLS and
  HTTP included, counted by a relay before the front) over raw float32, in both directions.
* Memory of the coordinator's processes and its disk over many rounds of the toy.

GOALS: at most 2 s a round and ten times faster than stock; 45 MB at most 8 s a round; bytes at most 1.02 of raw; memory
and disk do not grow with rounds.
"""

import argparse
import contextlib
import datetime as dt
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from report import Goal, Table, finish, load_average

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import itertools

from stock_flower import stock_round_seconds

from lab import study_document
from network_lab import NetworkLab, running
from solblom_server.rounds.rounds import initial_model
from solblom_server.service.certificates import create_certificates

TOY_ROUNDS, STOCK_ROUNDS, LARGE_ROUNDS, LONG_ROUNDS = 20, 4, 5, 100
LARGE_HIDDEN = 3350
ROUND_GOAL, RATIO_GOAL, LARGE_GOAL, BYTES_GOAL = 2.0, 10.0, 8.0, 1.02
COORDINATOR = ("service", "superlink", "front", "serverapp")


def study(hidden: list[int], rounds: int) -> dict[str, Any]:
    """Return changes to the laboratory's study for a perceptron."""
    return {
        "task": {"model": {"kind": "mlp", "hidden": hidden}},
        "training": {"rounds": rounds, "learning_rate": 0.05},
        "cohort": {"min_nodes": 3, "quorum": 3, "deadline_minutes": 10},
        "privacy": {"epsilon": 2.0},
    }


def timed(folder: Path, hidden: list[int], rounds: int) -> dict[str, Any]:
    """Run once; return seconds of each round, bytes and sizes after each."""
    lab = NetworkLab(folder / "home", changes=study(hidden, rounds))
    with running(lab):
        began = time.monotonic()
        run = lab.start_run()
        times, sent, received, memory, disk = [time.monotonic()], [0], [0], [], []
        for number in range(1, rounds + 1):
            lab.wait_for_rounds(run, number, seconds=600)
            times.append(time.monotonic())
            sent.append(lab.gate.sent)
            received.append(lab.gate.received)
            pids = lab.pids()
            memory.append({part: _resident_mib(pids[part]) for part in COORDINATOR})
            disk.append(_disk_bytes(lab.home))
        row = lab.wait(run)
        if row.status != "completed":
            raise RuntimeError(f"{row.status}: {row.reason}")
        total = time.monotonic() - began
    return {
        "round_seconds": [round(b - a, 3) for a, b in itertools.pairwise(times)],
        "sent": [b - a for a, b in itertools.pairwise(sent)],
        "received": [b - a for a, b in itertools.pairwise(received)],
        "memory_mib": memory,
        "disk_bytes": disk,
        "whole_seconds": round(total, 2),
    }


def _resident_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmRSS")), 0.0)


def _disk_bytes(home: Path) -> int:
    """Return the coordinator's own bytes on disk: everything but the simulated hospitals."""
    total = 0
    for folder, folders, files in os.walk(home):
        if Path(folder) == home:
            folders[:] = [name for name in folders if name != "sites"]
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # a journal that is gone again
                total += (Path(folder) / name).stat().st_size
    return total


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="another result file")
    parser.add_argument("--skip-long", action="store_true", help="leave out the many rounds")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    load = load_average()
    with tempfile.TemporaryDirectory(prefix="sb") as name:
        folder = Path(name)
        toy = timed(folder / "toy", [16], TOY_ROUNDS)
        create_certificates(folder / "stock/home", "127.0.0.1", now=dt.datetime.now(dt.UTC))
        stock = stock_round_seconds(folder / "stock", rounds=STOCK_ROUNDS)
        large = timed(folder / "large", [LARGE_HIDDEN, LARGE_HIDDEN], LARGE_ROUNDS)
        long = None if options.skip_long else timed(folder / "long", [16], LONG_ROUNDS)
    report(toy, stock, large, long, load, options.out)


def report(
    toy: dict[str, Any],
    stock: list[float],
    large: dict[str, Any],
    long: dict[str, Any] | None,
    load: float,
    out: Path | None,
) -> None:
    """Print and write what was found."""
    ours, theirs = toy["round_seconds"][1:], stock[1:]
    big = large["round_seconds"][1:]
    raw = 4 * initial_model(study_document(**study([LARGE_HIDDEN] * 2, 1)))[1].size
    up = [value / (3 * raw) for value in large["sent"][1:]]
    down = [value / (3 * raw) for value in large["received"][1:]]
    ratio = median(theirs) / median(ours) if theirs else None
    rows = [
        ("toy, Solblom", *_spread(ours)),
        ("toy, stock Flower", *_spread(theirs)),
        ("45 MB, Solblom", *_spread(big)),
    ]
    tables = [
        Table(
            "Seconds a round, the first left out", ("what", "median", "quartiles", "n"), tuple(rows)
        )
    ]
    goals = [
        Goal(
            "a toy round",
            f"at most {ROUND_GOAL:g} s",
            f"{median(ours):.2f} s",
            median(ours) <= ROUND_GOAL,
        ),
        Goal(
            "faster than stock Flower",
            f"at least {RATIO_GOAL:g} times",
            "not measured" if ratio is None else f"{ratio:.1f} times",
            None if ratio is None else ratio >= RATIO_GOAL,
        ),
        Goal(
            "a round of 45 MB",
            f"at most {LARGE_GOAL:g} s",
            f"{median(big):.2f} s",
            median(big) <= LARGE_GOAL,
        ),
        Goal(
            "bytes over raw float32",
            f"at most {BYTES_GOAL:g}",
            f"{max(*up, *down):.4f}",
            max(*up, *down) <= BYTES_GOAL,
        ),
    ]
    if long is not None:
        tables.append(_growth_table(long))
        goals += _growth_goals(long)
    notes = [
        f"The first round waits for processes to load: toy {toy['round_seconds'][0]:.1f} s.",
        "Stock Flower starts a process for each message and imports torch in it; it trains without privacy.",
        f"Bytes towards the coordinator {median(up):.4f}, towards hospitals {median(down):.4f} of raw (medians).",
    ]
    finish(
        "network",
        measures="seconds a round over a network, bytes on the wire, growth with rounds",
        settings={
            "sites": 3,
            "toy": "perceptron, 16 hidden units",
            "large_parameters": raw // 4,
            "epsilon": 2.0,
        },
        seeds=[11],
        tables=tables,
        goals=goals,
        notes=notes,
        results={"toy": toy, "stock_round_seconds": stock, "large": large, "long": long},
        load_at_start=load,
        out=out,
    )


def _spread(values: list[float]) -> tuple[str, str, str]:
    if len(values) < 2:
        return ("", "", str(len(values)))
    low, _, high = quantiles(values, n=4)
    return (f"{median(values):.2f}", f"{low:.2f} to {high:.2f}", str(len(values)))


def _growth_table(long: dict[str, Any]) -> Table:
    chosen = [n for n in (10, 25, 50, 75, 100) if n <= len(long["disk_bytes"])]
    rows = [
        (
            str(n),
            *(f"{long['memory_mib'][n - 1][part]:.0f}" for part in COORDINATOR),
            f"{long['disk_bytes'][n - 1] / 1024:.0f}",
        )
        for n in chosen
    ]
    columns = ("after round", *(f"{part} MiB" for part in COORDINATOR), "disk KiB")
    return Table("The coordinator over many rounds of the toy", columns, tuple(rows))


def _growth_goals(long: dict[str, Any]) -> list[Goal]:
    totals = [sum(sizes.values()) for sizes in long["memory_mib"]]
    middle, last = median(totals[20:40]), median(totals[-20:])
    each = (long["disk_bytes"][-1] - long["disk_bytes"][20]) / (len(totals) - 21)
    return [
        Goal(
            "memory after 100 rounds over that after 30",
            "at most 1.05",
            f"{last / middle:.3f}",
            last / middle <= 1.05,
        ),
        Goal("disk a round", "at most 16 KiB", f"{each / 1024:.1f} KiB", each <= 16 * 1024),
    ]


if __name__ == "__main__":
    main()
