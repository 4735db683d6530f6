"""Does a run over the network survive what may happen to it?

A run of three rounds between two hospitals, real processes on loopback with TLS, is broken at one point: a process is
killed (kill -9) before or after a step of "One round", on either side; the line is cut; a disk is full; a clock jumps.
What died is started again, as systemd would. Each run must end in the undisturbed run's model, or stop and name the
reason; no patient may be charged twice.

GOALS: at least 60 points; every run ends in the same model or a named stop; nothing charged twice.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median

from report import Goal, Table, finish, load_average

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fault_points import POINTS, Point
from fault_runs import ROUNDS, Ending, broken, undisturbed

FEWEST = 60
GOOD = ("same model", "named stop")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help="points whose name holds this text")
    parser.add_argument("--out", type=Path, help="another result file")
    parser.add_argument("--notes", type=Path, help="note each ending here, and skip what it notes")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    load = load_average()
    chosen = [p for p in POINTS if options.only is None or options.only in p.name]
    if os.geteuid() != 0:
        chosen = [p for p in chosen if not p.do.startswith("disk")]
    endings = [] if options.notes is None else _noted(options.notes)
    done = {ending.point for ending in endings}
    with tempfile.TemporaryDirectory(prefix="sb") as name:
        digest, seconds = undisturbed(Path(name) / "u")
        for number, point in enumerate(chosen, start=1):
            if point.name in done:
                continue
            ending = _one(Path(name) / str(number), point)
            endings.append(ending)
            if options.notes is not None:
                with options.notes.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(ending)) + "\n")
            told = f"{ending.verdict(digest):12} {ending.recovery_seconds} s  {point.name}"
            print(f"{number} of {len(chosen)}: {told}", flush=True)
    report(digest, seconds, endings, load, options.out)


def _noted(notes: Path) -> list[Ending]:
    """Return the endings of an earlier part of this bench; the same code, or digests would differ."""
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    return [Ending(**json.loads(line)) for line in lines]


def _one(folder: Path, point: Point) -> Ending:
    folder.mkdir()
    try:
        return broken(folder, point)
    except (OSError, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        return Ending(point.name, False, "bench failed", type(error).__name__, None, {}, None)


def report(
    digest: str, seconds: list[float], endings: list[Ending], load: float, out: Path | None
) -> None:
    """Print and write what was found."""
    verdicts = [(e, e.verdict(digest)) for e in endings]
    good = sum(v in GOOD for _, v in verdicts)
    twice = sum(max(e.charges.values(), default=0) > ROUNDS for e, _ in verdicts)
    rows = [
        (
            e.point,
            v,
            "" if e.recovery_seconds is None else f"{e.recovery_seconds:.1f}",
            e.reason or "",
        )
        for e, v in verdicts
    ]
    recovered = [
        e.recovery_seconds for e, v in verdicts if v == "same model" and e.recovery_seconds
    ]
    counts = Counter(v for _, v in verdicts)
    finish(
        "faults",
        measures="how runs over a network end that are broken at one point",
        settings={"sites": 2, "rounds": ROUNDS, "undisturbed_round_seconds": seconds},
        seeds=[11],
        tables=[
            Table("One point a run", ("point", "ending", "recovery, s", "reason"), tuple(rows)),
        ],
        goals=[
            Goal("points", f"at least {FEWEST}", str(len(endings)), len(endings) >= FEWEST),
            Goal(
                "same model or named stop",
                "all",
                f"{good} of {len(endings)} ({dict(counts)})",
                good == len(endings),
            ),
            Goal("charged twice", "none", str(twice), twice == 0),
        ],
        notes=[
            "Recovery: from the fault to the close of the round it hit, an ordinary round's "
            f"{median(seconds):.1f} s included; median {median(recovered):.1f} s, "
            f"longest {max(recovered):.1f} s where the run ended in the same model.",
            "The harness starts service and node again at once; systemd waits as its unit says.",
        ],
        results={"undisturbed": digest, "endings": [asdict(e) for e, _ in verdicts]},
        load_at_start=load,
        out=out,
    )


if __name__ == "__main__":
    main()
