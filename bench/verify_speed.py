"""How long `solblom-verify` takes for artefacts of 10 MB and 500 MB: a new process each time, without a network.

    python bench/verify_speed.py [--repeats 9] [--folder DIR] [--out FILE]

Cold: the process starts anew, and the artefact's pages are dropped from the cache before each run (posix_fadvise).
Each artefact stands in a log, with two hospitals, two rounds, and weights that fill it up.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from unit.verify.artefact_builder import ArtefactBuilder
from unit.verify.log_builder import LogBuilder

MEGABYTE = 1_000_000
GOALS = {10: 1.0, 500: 3.0}  # megabytes → seconds
WEIGHTS = "model/weights.safetensors"


class LargeArtefact(ArtefactBuilder):
    """An artefact whose weights have a given size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def _put(self, folder: Path, name: str, data: bytes) -> None:
        more = os.urandom(self.size) if name == WEIGHTS else b""
        super()._put(folder, name, data + more)


def without_network() -> list[str]:
    """Return the words that take the network away, where this machine allows it.

    Raises:
        SystemExit: it does not.
    """
    words = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        raise SystemExit("this machine does not let a process give up its network (unshare -n)")
    return words


def forget(folder: Path) -> None:
    """Drop a folder's pages from the cache, so that the next reader reads the disk."""
    for path in (p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class Times:
    """Seconds of each run: on the wall, and of the processor, which other programs do not lengthen as much."""

    wall: list[float]
    processor: list[float]


def measure(folder: Path, trust: Path, repeats: int, prefix: list[str]) -> Times:
    """Return the seconds of each run, from the start of the process to its end.

    Raises:
        SystemExit: the artefact was not verified.
    """
    times = Times([], [])
    command = [*prefix, sys.executable, "-m", "solblom_verify", str(folder), "--trust", str(trust)]
    for _ in range(repeats):
        forget(folder)
        began, used = time.perf_counter(), processor_seconds()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        times.wall.append(time.perf_counter() - began)
        times.processor.append(processor_seconds() - used)
        if result.returncode:
            raise SystemExit(result.stdout + result.stderr)
    return times


def processor_seconds() -> float:
    """Return what the processes that have ended used of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(size: int, what: str, values: list[float]) -> tuple[str, ...]:
    """Return median, least and most as text."""
    return f"{size} MB, {what}", *(f"{f(values):.2f}" for f in (statistics.median, min, max))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load, prefix = report.load_average(), without_network()
    found: dict[int, Times] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        for megabytes in GOALS:
            home = Path(place) / str(megabytes)
            folder = LogBuilder(LargeArtefact(megabytes * MEGABYTE)).write(home)
            found[megabytes] = measure(folder, home / "trust.json", options.repeats, prefix)
            shutil.rmtree(home)
    rows = [
        row(size, what, values)
        for size, times in found.items()
        for what, values in (("on the wall", times.wall), ("processor", times.processor))
    ]
    report.finish(
        "verify_speed",
        measures="seconds of solblom-verify, a new process without a network, pages dropped before",
        settings={"repeats": options.repeats, "prefix": prefix, "niceness": os.nice(0)},
        seeds=[],
        tables=[report.Table("Seconds", ("artefact", "median", "least", "most"), tuple(rows))],
        goals=[
            report.Goal(
                f"verify {size} MB",
                f"< {limit:g} s",
                f"{statistics.median(found[size].wall):.2f} s",
                statistics.median(found[size].wall) < limit,
            )
            for size, limit in GOALS.items()
        ],
        notes=[
            "a niceness below 0: other programs had the machine's cores too, and this one went first"
        ],
        results={str(size): asdict(times) for size, times in found.items()},
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
