"""Run all benches in turn and write `results/summary.md`: goals beside results, pass or miss said plainly.

The summary is made from the JSON results alone; `--summary-only` makes it again without running
anything. A missed goal is reported, not an error; the exit status is 1 when a bench could not be run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plain_rows import finish_dp_step, finish_flamby_epsilon
from report import RESULTS, Goal, Table, load_average, verdict

BENCHES = {
    "speed": "about 13 minutes",
    "consent": "about 3 minutes",
    "decision_log": "about a minute",
    "compare": "about 10 minutes",
    "replay": "about 20 minutes",
    "mutations": "about 6 minutes",
    "verify_speed": "about a minute",
    "transparency_log": "about a minute",
    "steward_page": "about 3 minutes",
    "dp_step": "about a minute",
    "opacus_modes": "about a minute",
    "epsilon": "about 4 minutes",
    "compositions": "about 15 minutes",
    "ledger_schedules": "about 25 minutes",
    "flamby_epsilon": "about a minute",
    "flamby_heart": "about 5 minutes",
    "many_nodes": "about 20 minutes",
    "released_metrics": "about a minute",
    "utility": "about 12 minutes",
    "second_set": "about 15 minutes",
    "presets": "about 15 minutes",
    "robust": "about 4 minutes",
    "network": "about 8 minutes",
    "faults": "about 35 minutes",
    "secure_sum": "about 15 minutes",
    "shared_noise": "about 3 minutes",
    "coadread": "about 5 minutes",
    "phenopackets": "about 5 minutes",
    "rare_disease": "about 20 minutes",
    "mil": "about 30 minutes",
    "slides": "about 5 minutes",
    "idc_tiles": "about 10 minutes",
    "idc_dev": "about 5 minutes",
    "idc_sites": "about 12 minutes",
    "idc_cnn": "about 20 minutes",
}
# These print rows only; here they get the shape of the others.
PLAIN: dict[str, Callable[[Any, float, Path | None], None]] = {
    "dp_step": finish_dp_step,
    "flamby_epsilon": finish_flamby_epsilon,
}
HERE = Path(__file__).parent


def main() -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=30, help="seeds of utility and second_set")
    parser.add_argument("--only", choices=BENCHES, action="append", help="run this one; repeatable")
    parser.add_argument("--summary-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    broken: list[str] = []
    if not options.summary_only:
        chosen = options.only or list(BENCHES)
        for number, name in enumerate(chosen, start=1):
            print(f"\n=== {number} of {len(chosen)}: {name}, {BENCHES[name]} ===", flush=True)
            if not _run(name, options.seeds):
                broken.append(name)
    found = [_read(name) for name in BENCHES if (RESULTS / f"{name}.json").is_file()]
    (RESULTS / "summary.md").write_text(_summary(found, broken), encoding="utf-8")
    print("\n" + _goals(found).as_text())
    print("\nWritten: bench/results/summary.md")
    for name in broken:
        print(
            f"error: the bench {name} could not be run; an older result may stand", file=sys.stderr
        )
    return 1 if broken else 0


def _run(name: str, seeds: int) -> bool:
    command = [sys.executable, str(HERE / f"{name}.py")]
    if name in ("utility", "second_set"):
        command += ["--seeds", str(seeds)]
    if name == "rare_disease":
        command.append("--final")
    load_at_start, started = load_average(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        if name in PLAIN:
            command += ["--json", str(rows)]
        done = subprocess.run(command, check=False, env={"OMP_NUM_THREADS": "1"} | os.environ)
        if name in PLAIN and done.returncode == 0:
            PLAIN[name](json.loads(rows.read_text(encoding="utf-8")), load_at_start, None)
    print(f"=== {name}: {time.monotonic() - started:.0f} s ===", flush=True)
    return done.returncode == 0


def _read(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return value


def _goals(found: list[dict[str, Any]]) -> Table:
    rows = []
    for result in found:
        for goal in (Goal(**goal) for goal in result["goals"]):
            rows.append((verdict(goal.met), result["name"], goal.what, goal.goal, goal.found))
    return Table("Goals", ("outcome", "bench", "what", "goal", "found"), tuple(rows))


def _summary(found: list[dict[str, Any]], broken: list[str]) -> str:
    goals = _goals(found)
    missed = [row for row in goals.rows if row[0] != "pass"]
    lines = [
        "# What was measured",
        "",
        "Made by `make bench` from the JSON files beside this one. [How to read it](../README.md).",
        "",
        f"{len(goals.rows) - len(missed)} of {len(goals.rows)} goals are met."
        + ("" if not missed else f" Not met or not measured: {'; '.join(r[2] for r in missed)}."),
        "",
        *(f"The bench {name} could not be run; what stands here is older.\n" for name in broken),
        _goals_markdown(goals),
    ]
    if len({result["code_digest"] for result in found}) > 1:
        lines += ["", "**The benches were run on different versions of the code: run all again.**"]
    for result in found:
        lines += ["", f"## {result['name']}", "", result["measures"] + ".", ""]
        for table in result["tables"]:
            rows = tuple(tuple(row) for row in table["rows"])
            lines += [Table(table["title"], tuple(table["columns"]), rows).as_markdown(), ""]
        lines += [f"* {note}" for note in result["notes"]]
        lines += [f"* {_where(result)}"]
    return "\n".join(lines) + "\n"


def _goals_markdown(goals: Table) -> str:
    lines = [f"| {' | '.join(goals.columns)} |", "|" + " --- |" * len(goals.columns)]
    for outcome, *rest in goals.rows:
        shown = outcome if outcome == "pass" else f"**{outcome}**"
        lines.append(f"| {' | '.join([shown, *rest])} |")
    return "\n".join(lines)


def _where(result: dict[str, Any]) -> str:
    machine, seeds = result["machine"], result["seeds"]
    span = f"Seeds {seeds[0]} to {seeds[-1]}; " if len(seeds) > 1 else ""
    return (
        f"{span}Python {machine['python']}, {machine['cpu_count']} cores ({machine['architecture']}), "
        f"load {machine['load_at_start']} at the start and {machine['load_at_end']} at the end; "
        f"code {result['code_digest'][:19]}."
    )


if __name__ == "__main__":
    sys.exit(main())
