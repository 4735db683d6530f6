"""Does the verifier find every change to an artefact? Random changes in twelve classes, and every single bit.

    python bench/mutations.py [--random 10000] [--clean 1000] [--every 1] [--artefact DIR --trust FILE] [--out FILE]

A small artefact is made in memory: two hospitals, two signatures, released, cosigned. `--artefact` names another one,
such as a demo's: random changes are tried on a copy of it too.
"""

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from artefact_mutations import (
    CLASSES,
    Outcome,
    Target,
    bit_flips,
    false_alarms,
    random_mutations,
    small_target,
)
from solblom_verify.trust import load_trust

SEED = 20261129
MEMORY = Path("/dev/shm")  # noqa: S108


def table(title: str, outcome: Outcome) -> report.Table:
    """Return what was tried and found, a row each."""
    rows = [(n, f"{outcome.tried[n]:,}", f"{outcome.found[n]:,}") for n in sorted(outcome.tried)]
    total = ("all", f"{outcome.tried.total():,}", f"{outcome.found.total():,}")
    return report.Table(title, ("change", "tried", "found"), (*rows, total))


def goal(what: str, least: int, outcome: Outcome) -> report.Goal:
    """Return whether all of at least so many were found."""
    tried, found = outcome.tried.total(), outcome.found.total()
    return report.Goal(
        what, f"100 % of >= {least:,}", f"{found:,} of {tried:,}", found == tried >= least
    )


def other_target(artefact: Path, trust: Path, folder: Path) -> Target:
    """Copy an artefact into memory; all of its witnesses must have cosigned, so that one taken away is seen."""
    copy = folder / artefact.name
    shutil.copytree(artefact, copy)
    pinned = load_trust(trust)
    known = Target(copy, pinned, datetime.now(UTC))
    names = len(known.files["log/checkpoint.txt"].decode().splitlines()) - 5
    return replace(known, trust=replace(pinned, quorum=names))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=10_000)
    parser.add_argument("--clean", type=int, default=1000)
    parser.add_argument("--every", type=int, default=1, help="flip one bit in so many")
    parser.add_argument("--artefact", type=Path, default=None)
    parser.add_argument("--trust", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load, began = report.load_average(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        target = small_target(Path(folder) / "small")
        changes = random_mutations(target, options.random, seed=SEED)
        bits = bit_flips(target, every=options.every)
        alarms = false_alarms(target, options.clean)
        tables = [table("Random changes", changes), table("Single bits", bits)]
        goals = [
            goal(f"random changes in {len(changes.tried)} classes", 10_000, changes),
            goal("single bits of manifest, envelope, checkpoint and inclusion proof", 1, bits),
            report.Goal(
                f"false alarms in {options.clean:,} clean runs", "0", str(alarms), alarms == 0
            ),
        ]
        accepted = changes.accepted + bits.accepted
        if options.artefact and options.trust:
            other = random_mutations(
                other_target(options.artefact, options.trust, Path(folder)),
                options.random,
                seed=SEED,
            )
            tables.append(table("Random changes to a whole demo's artefact", other))
            goals.append(goal("random changes to a whole demo's artefact", 10_000, other))
            accepted += other.accepted
    seconds = time.perf_counter() - began
    report.finish(
        "mutations",
        measures="changes to an artefact that the verifier finds",
        settings={"random": options.random, "clean": options.clean, "every": options.every},
        seeds=[SEED],
        tables=tables,
        goals=goals,
        notes=[
            "the trust file asks for all witnesses: otherwise one may be missing, and the verdict names it",
            "modes and times of files are no part of an artefact: they do not survive a copy",
        ],
        results={"accepted": accepted, "seconds": round(seconds), "classes": sorted(CLASSES)},
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
