"""How long an order's entries in the log of decisions take to be on disk, and how long checking the log takes.

    python bench/decision_log.py [--entries 5000] [--folder DIR] [--out FILE]

Five entries in one transaction, as an answered order makes them; then the whole tree anew, as `node log verify` does.
"""

import argparse
import datetime as dt
import statistics
import tempfile
import time
from pathlib import Path

import report
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.log.check import verify_log
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import DecisionLog, LogPlace
from solblom_client.state import create_state

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
BATCH = 5
GOAL_VERIFY_SECONDS = 2.0


def measure(folder: Path, entries: int) -> tuple[list[float], list[float], float]:
    """Return milliseconds of each append, on the wall and of the processor, and seconds of the check."""
    state, key = folder / "vault.sqlite", Ed25519PrivateKey.generate()
    create_state(state, {})
    place = LogPlace(folder / "log", "north", None, state)
    log, wall, processor = DecisionLog(place, key), [], []
    for number in range(entries // BATCH):
        decisions = [Decision("accepted", order=f"sha256:{number:064x}")] * BATCH
        began, cpu = time.perf_counter(), time.process_time()
        log.append(*decisions, now=NOW + dt.timedelta(minutes=number))
        wall.append(1000 * (time.perf_counter() - began))
        processor.append(1000 * (time.process_time() - cpu))
    log.close()
    began = time.perf_counter()
    found = verify_log(place, key.public_key())
    seconds = time.perf_counter() - began
    if found.problems or found.size != len(wall) * BATCH:
        raise SystemExit(f"the log does not hold: {found.problems}")
    return wall, processor, seconds


def row(name: str, values: list[float]) -> tuple[str, str, str]:
    """Return median and 95th percentile as text."""
    return name, f"{statistics.median(values):.1f}", f"{statistics.quantiles(values, n=20)[-1]:.1f}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load = report.load_average()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        wall, processor, seconds = measure(Path(folder), options.entries)
    rows = (row("on the wall", wall), row("of the processor", processor))
    report.finish(
        "decision_log",
        measures="milliseconds until five entries are on disk; seconds to check the whole log",
        settings={"entries": options.entries, "entries_in_one_append": BATCH},
        seeds=[],
        tables=[report.Table("Milliseconds", ("five entries", "median", "95th percentile"), rows)],
        goals=[
            report.Goal(
                f"check {options.entries:,} entries",
                f"<= {GOAL_VERIFY_SECONDS:g} s",
                f"{seconds:.2f} s",
                seconds <= GOAL_VERIFY_SECONDS,
            )
        ],
        notes=[
            "the wall's time is that of about ten syncs of this machine's disk, which was shared"
        ],
        results={"append_wall_ms": wall, "append_processor_ms": processor, "verify_s": seconds},
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
