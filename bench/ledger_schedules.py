"""Does the privacy ledger hold under any order of death, replay, restart and change?

Ten thousand random schedules of eight to sixteen steps against the real vault and ledger on files: orders of two
coordinators for three studies (training, evaluation, Table 1), each answered by one of two open vaults; replays; deaths
of the machine at any of fourteen points between the first transaction and the reply; errors at the same points;
restarts; withdrawn consent, corrected and unreadable tables; restored backups. After every step all claims of
`tests/schedules/machine.py` are checked against what was really drawn. Then schedules run against fourteen broken
ledgers, and each must be found.

GOALS: no claim broken; every broken ledger found; at least 100 deaths at every point; at most 25 minutes of one core.

Files lie in memory (where the system has such a place), and the machine's death is the state of the files at that
moment: that a commit survives a power cut is SQLite's promise and is not tested here. That the charge is synced before
a row is read is seen by strace in tests/security/test_fsync_before_rows.py; test_kill_nine.py kills real processes.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from draws import REFERENCE_INTERVAL, reference_epsilon
from report import Goal, Table, finish, load_average

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from schedules.machine import CLAIMS, Campaign, Cells, Steps, run_schedules
from schedules.mutants import MUTANTS
from schedules.plan import BUDGETS, Template, folder_in_memory, templates
from schedules.watch import POINTS, Watch, watched

SCHEDULES, HUNTED, BATCH = 10_000, 300, 500
FIRST_SEED, FIRST_SEED_OF_A_HUNT = 0, 50_000_000
MOST_SECONDS, FEWEST_DEATHS = 25 * 60, 100


@dataclass(frozen=True)
class Hunt:
    """What the schedules found in one broken ledger."""

    name: str
    schedules: int
    found: int
    first: int | None  # how many schedules it took
    claims: dict[str, int]


@lru_cache(maxsize=4096)
def reference(steps: Steps, cells: Cells, delta: float) -> float:
    """Return the epsilon of what was drawn, by separate code."""
    return reference_epsilon(steps, delta, cells=cells)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    parser.add_argument("--hunted", type=int, default=HUNTED, help="schedules for each mutant")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="seed of the first schedule")
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    load_at_start = load_average()
    with folder_in_memory() as name:
        hospitals = templates(Path(name))
        begun, begun_cpu = time.monotonic(), time.process_time()
        with watched() as watch:
            found = _many(options.seed, options.schedules, hospitals, Path(name), watch)
        seconds, cpu_seconds = time.monotonic() - begun, time.process_time() - begun_cpu
        hunts = [_hunt(mutant, options.hunted, hospitals, Path(name)) for mutant in MUTANTS]
    _report(options, found, (seconds, cpu_seconds), hunts, load_at_start)


def _many(
    first: int, count: int, hospitals: tuple[Template, ...], folder: Path, watch: Watch
) -> Campaign:
    total = Campaign()
    for start in range(first, first + count, BATCH):
        seeds = range(start, min(start + BATCH, first + count))
        part = run_schedules(seeds, hospitals, folder, watch, reference)
        total.schedules += part.schedules
        total.counts += part.counts
        total.violations += part.violations
        print(f"{total.schedules} schedules, {len(total.violations)} violations", flush=True)
    return total


def _hunt(mutant: Any, count: int, hospitals: tuple[Template, ...], folder: Path) -> Hunt:
    seeds = range(FIRST_SEED_OF_A_HUNT, FIRST_SEED_OF_A_HUNT + count)
    with watched() as watch, mutant.applied():
        found = run_schedules(seeds, hospitals, folder, watch, reference)
    first = found.violations[0][0] - FIRST_SEED_OF_A_HUNT + 1 if found.violations else None
    claims = Counter(broken.claim for _, broken in found.violations)
    print(f"{mutant.name}: {len(found.violations)} of {count}", flush=True)
    return Hunt(mutant.name, count, len(found.violations), first, dict(claims))


def _report(
    options: argparse.Namespace,
    found: Campaign,
    seconds: tuple[float, float],
    hunts: list[Hunt],
    load_at_start: float,
) -> None:
    finish(
        "ledger_schedules",
        measures="Random schedules of death, replay, restart and change against the real vault and ledger",
        settings={
            "schedules": options.schedules,
            "schedules_for_each_broken_ledger": options.hunted,
            "lifetime_budgets": BUDGETS,
            "reference_interval": REFERENCE_INTERVAL,
        },
        seeds=[options.seed, options.seed + options.schedules - 1],
        tables=_tables(found, hunts),
        goals=_goals(found, seconds, hunts),
        notes=[
            "Files in memory; a death is the state of all files at that moment. Power cuts are SQLite's promise; "
            "syncing before the first row and kill -9 of real processes are tested in tests/security.",
            "Fewer noises than charges: a charge whose training never began, or that was taken again for the same "
            "work after other patients had been asked in between (A, B, A). Both err towards more loss.",
            "The search for installed tasks and the check of the study's signature are done once, not per order.",
        ],
        results={
            "counts": dict(sorted(found.counts.items())),
            "violations": [
                {"seed": seed, "claim": broken.claim, "what": str(broken)}
                for seed, broken in found.violations
            ],
            "seconds": round(seconds[0], 1),
            "cpu_seconds": round(seconds[1], 1),
            "broken_ledgers": [hunt.__dict__ for hunt in hunts],
        },
        load_at_start=load_at_start,
        out=options.out,
    )


def _tables(found: Campaign, hunts: list[Hunt]) -> list[Table]:
    broken, counts = Counter(b.claim for _, b in found.violations), found.counts
    steps = sum(count for kind, count in counts.items() if kind.startswith("step: "))
    happened = [("schedules", found.schedules), ("steps", steps)]
    happened += [
        (kind, n) for kind, n in sorted(counts.items()) if kind[:6] not in ("death:", "error:")
    ]
    points = [(p, str(counts[f"death: {p}"]), str(counts[f"error: {p}"])) for p in POINTS]
    return [
        Table("Claims", ("claim", "broken"), tuple((c, str(broken[c])) for c in CLAIMS)),
        Table("What happened", ("what", "times"), tuple((k, str(n)) for k, n in happened)),
        Table(
            "Where the machine died, or an error came", ("point", "deaths", "errors"), tuple(points)
        ),
        Table(
            "Broken ledgers, and how the schedules found them",
            ("what is broken", "schedules", "found", "first after", "claim"),
            tuple(
                (h.name, str(h.schedules), str(h.found), str(h.first or "-"), ", ".join(h.claims))
                for h in hunts
            ),
        ),
    ]


def _goals(found: Campaign, seconds: tuple[float, float], hunts: list[Hunt]) -> list[Goal]:
    caught = sum(hunt.found > 0 for hunt in hunts)
    fewest = min(found.counts[f"death: {point}"] for point in POINTS)
    return [
        Goal(
            "claims broken by random schedules",
            "0",
            f"{len(found.violations)} in {found.schedules} schedules",
            not found.violations,
        ),
        Goal(
            "broken ledgers that the schedules find",
            "all",
            f"{caught} of {len(hunts)}",
            caught == len(hunts),
        ),
        Goal(
            "deaths at each of the points",
            f"at least {FEWEST_DEATHS}",
            f"{fewest} at the rarest",
            fewest >= FEWEST_DEATHS,
        ),
        Goal(
            "time of all schedules on one core",
            f"at most {MOST_SECONDS / 60:.0f} minutes of CPU",
            f"{seconds[1] / 60:.1f} minutes of CPU, {seconds[0] / 60:.1f} by the clock",
            seconds[1] <= MOST_SECONDS,
        ),
    ]


if __name__ == "__main__":
    main()
