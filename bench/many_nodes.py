"""Many hospitals in one federation: is the coordinator's memory flat, and its time linear in nodes and rounds?

Real federations on made-up patients: node.toml, keys, approvals, vaults and DP training as in any simulation, started
with the product's `start_run`. Each case is a process of its own for the coordinator, which reads its own memory and
CPU time from the kernel at the end of every round, and one process for all hospitals (`many_nodes_roles.py`):

* piped: the local grid; its nodes pass sealed orders through a pipe to the hospitals' process.
* files: the file grid; the hospitals' process makes passes of `exchange_once` over all hospitals, without a pause.
* in-process: the local grid as a simulation has it, vaults and all in one process: what a node costs there.
* a model of 10 MB, piped, where holding orders or replies would show; also with an allocator that returns large
  blocks at once, which tells what is held from what the C library keeps for later.
* 200 rounds of three hospitals over files: memory and disk over rounds.

GOALS: peak memory at most 10 MB more with the most nodes than with the fewest (10.3 MB model: at most one model more);
CPU seconds a node and round at most 1.25 times as many; memory and disk flat over 200 rounds but for the database's
rows. The first round is left out of times and of growth: it imports and fills caches.
"""

import argparse
import datetime as dt
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from heart_study import LOGISTIC, Problem, Setting, prepare
from many_nodes_roles import Case
from report import Goal, Table, finish, load_average

from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.order import OrderHeader, RosterEntry, read_order, write_order
from solblom_protocol.messages.seal import lock
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id

PATIENTS = 60
CONTRACT = """\
name = "made-up"
version = 1

[target]
name = "ill"
column = "ill"
positive = ["1"]
negative = ["0"]
meaning = { en = "Ill", no = "Syk" }

[[variable]]
kind = "number"
name = "age"
column = "age"
unit = "a"
minimum = 0
maximum = 120
center = 50
scale = 10
missing = ["?"]
meaning = { en = "Age", no = "Alder" }

[[variable]]
kind = "boolean"
name = "smoker"
column = "smoker"
true = ["1"]
false = ["0"]
meaning = { en = "Smoker", no = "Røyker" }
"""
LARGE = '{ kind = "mlp", hidden = [1600, 1600] }'
LARGE_MB = 10.27  # 2.57 million parameters
ROLES = Path(__file__).with_name("many_nodes_roles.py")
RETURNING = {
    "MALLOC_MMAP_THRESHOLD_": str(2**20)
}  # the C library gives blocks over 1 MiB back at once
SIZES = {"piped": (25, 50, 100, 200), "files": (5, 10, 20, 40), "in-process": (25, 50, 100, 200)}
LARGE_SIZES = (20, 40, 80)
ROUNDS, LARGE_ROUNDS, LONG_ROUNDS, LONG_NODES = 5, 4, 200, 3
LOOKED_AT = (20, 60, 100, 200)
MORE_MB, MORE_TIME = 10.0, 1.25
ORDERS = 50


@dataclass(frozen=True)
class Group:
    """Cases that differ in the number of nodes only."""

    name: str
    courier: str
    sizes: tuple[int, ...]
    rounds: int
    model: str = LOGISTIC
    environment: tuple[tuple[str, str], ...] = ()


GROUPS = (
    *(Group(courier, courier, sizes, ROUNDS) for courier, sizes in SIZES.items()),
    Group("10 MB model", "piped", LARGE_SIZES, LARGE_ROUNDS, LARGE),
    Group(
        "10 MB model, blocks returned",
        "piped",
        LARGE_SIZES[:2],
        LARGE_ROUNDS,
        LARGE,
        tuple(RETURNING.items()),
    ),
)


@dataclass(frozen=True)
class Roster:
    """What one order without a model costs."""

    nodes: int
    order_bytes: int
    write_ms: float
    read_ms: float


@dataclass(frozen=True)
class Seen:
    """One case: what its coordinator measured, and the machine's load when it began."""

    nodes: int
    load: float
    values: dict[str, Any]

    @property
    def peak_mb(self) -> float:
        """Highest memory of the coordinator in any round."""
        return float(max(self.values["peak_mb"]))

    def a_node(self, what: str) -> list[float]:
        """Return milliseconds a node in each round after the first: wall, cpu or nodes_cpu."""
        return [1000 * float(s) / self.nodes for s in np.diff(self.values[what])]


def made_up_tables(folder: Path, count: int) -> dict[str, Path]:
    """Write one table of made-up patients for each hospital."""
    folder.mkdir(parents=True)
    tables = {}
    for number in range(1, count + 1):
        site, rng = f"site-{number:03d}", random.Random(number)  # noqa: S311 - made-up patients
        lines = ["patient_id,age,smoker,ill"]
        for patient in range(PATIENTS):
            age, smoker = rng.randint(20, 90), rng.random() < 0.4
            ill = rng.random() < 0.2 + 0.5 * (age > 55) + 0.2 * smoker
            lines.append(f"{site}-{patient:03d},{age},{smoker:d},{ill:d}")
        tables[site] = folder / f"{site}.csv"
        tables[site].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tables


def run_case(group: Group, nodes: int, *, disk_at: tuple[int, ...] = ()) -> Seen:
    """Make a federation and run it; return what its coordinator measured."""
    with tempfile.TemporaryDirectory() as name:
        folder, load = Path(name), load_average()
        setting = Setting(3.0, rounds=group.rounds, model=group.model)
        problem = Problem(made_up_tables(folder / "tables", nodes), CONTRACT, "ill", PATIENTS)
        ready = prepare(folder / "home", setting, seed=nodes, problem=problem)
        study, case, result = folder / "study.json", folder / "case.json", folder / "result.json"
        study.write_bytes(ready.envelope)
        what = Case(
            group.courier, nodes, group.rounds, str(folder / "home"), str(study), disk_at=disk_at
        )
        case.write_text(json.dumps(asdict(what)), encoding="utf-8")
        environment = {"OMP_NUM_THREADS": "1"} | os.environ | dict(group.environment)
        command = [sys.executable, str(ROLES), str(case), str(result)]
        subprocess.run(command, check=True, env=environment)
        seen = Seen(nodes, load, json.loads(result.read_text(encoding="utf-8")))
    cpu = median(seen.a_node("cpu"))
    print(f"{group.name}: {nodes} nodes, peak {seen.peak_mb:.0f} MB, {cpu:.1f} ms", flush=True)
    return seen


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=[g.name for g in GROUPS] + ["long"], action="append")
    parser.add_argument("--join", type=Path, nargs="+", help="results of --only, instead of a run")
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    if options.only and not options.out:
        parser.error("--only needs --out: the kept result has all groups")
    load_at_start = load_average()
    found, long = (
        _joined(options.join)
        if options.join
        else _run(options.only or [g.name for g in GROUPS] + ["long"])
    )
    roster = [roster_cost(nodes) for nodes in SIZES["piped"]]
    _report(found, roster, long, load_at_start, options.out)


def _run(chosen: list[str]) -> tuple[dict[str, list[Seen]], Seen | None]:
    groups = [group for group in GROUPS if group.name in chosen]
    found = {group.name: [run_case(group, nodes) for nodes in group.sizes] for group in groups}
    if "long" not in chosen:
        return found, None
    group = Group("200 rounds", "files", (LONG_NODES,), LONG_ROUNDS)
    return found, run_case(group, LONG_NODES, disk_at=LOOKED_AT)


def _joined(files: list[Path]) -> tuple[dict[str, list[Seen]], Seen | None]:
    """Return what earlier runs measured; a group that was measured again stands beside the first."""
    found: dict[str, list[Seen]] = {}
    long = None
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
        for name, cases in results["cases"].items():
            again = f"{name}, again" if name in found else name
            found[again] = [Seen(**case) for case in cases]
        long = Seen(**results["long"]) if results["long"] else long
    return found, long


def roster_cost(nodes: int) -> Roster:
    """Return what the roster of all nodes costs in one order: the order has no model."""
    signing, sealing = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    some, now = digest(b"x"), timestamp(dt.datetime.now(dt.UTC))
    node = key_id(signing.public_key())
    header = OrderHeader(
        schema="solblom.order/1",
        kind="train",
        coordinator=node,
        site="site-001",
        node=node,
        study=some,
        run="bench-1",
        round=1,
        attempt=1,
        issued=now,
        expires=now,
        base_model=digest(b""),
        layout=[],
        roster=[RosterEntry(site=f"site-{n:03d}", node=node) for n in range(1, nodes + 1)],
        noise="local",
        previous_order=some,
        last_receipt=some,
        masking=(),
    )

    def write() -> bytes:
        return write_order(header, lock(b""), key=signing, recipient=sealing.public_key()).sealed

    sealed = write()
    read = partial(read_order, sealed, key=sealing, coordinator=signing.public_key())
    return Roster(nodes, len(sealed), _milliseconds(write), _milliseconds(read))


def _milliseconds(action: Callable[[], object]) -> float:
    found = []
    for _ in range(ORDERS):
        begun = time.process_time()
        action()
        found.append(1000 * (time.process_time() - begun))
    return median(found)


def _report(
    found: dict[str, list[Seen]],
    roster: list[Roster],
    long: Seen | None,
    load_at_start: float,
    out: Path | None,
) -> None:
    finish(
        "many_nodes",
        measures="Memory, time and disk of a coordinator with many hospitals and many rounds",
        settings={
            "patients_a_hospital": PATIENTS,
            "epsilon": 3.0,
            "rounds": {g.name: g.rounds for g in GROUPS} | {"200 rounds": LONG_ROUNDS},
            "large_model": LARGE,
        },
        seeds=sorted({seen.nodes for cases in found.values() for seen in cases}),
        tables=[_table(name, cases) for name, cases in found.items()]
        + [_roster_table(roster)]
        + ([] if long is None else [_over_rounds(long), _rows(long)]),
        goals=[goal for name, cases in found.items() for goal in _goals(name, cases)]
        + ([] if long is None else _long_goals(long)),
        notes=[
            "Peak: the kernel's VmHWM of the coordinator's process, reset before each round; the highest of all. "
            "About 400 MB of it are the imports of torch and Flower, before the run begins.",
            "Milliseconds: of a round over its nodes, median, least and most of the rounds after the first; hospitals: "
            "CPU of their process. In-process, everything is in the coordinator's figures.",
            "Hospitals behind files answer one after another in one process, so wall time is theirs; the coordinator "
            "looks every half second.",
            "Every order names all hospitals of the run, so a round's orders grow with the square of their number; "
            "reading is the hospital's CPU time.",
            "Memory over rounds: no Python object is left behind; SQLite keeps pages of the growing database, "
            "up to 2 MB, and the C library keeps some of what was freed.",
            "The exact evaluation of a simulation, which reads all patients, is left out.",
            "A result's order and receipt must be kept: they stand in the artefact, and resuming needs them.",
        ],
        results={
            "roster": [asdict(row) for row in roster],
            "cases": {name: [asdict(seen) for seen in cases] for name, cases in found.items()},
            "long": None if long is None else asdict(long),
        },
        load_at_start=load_at_start,
        out=out,
    )


def _table(name: str, cases: list[Seen]) -> Table:
    columns = ("nodes", "peak MB", "after imports", "coordinator CPU ms", "wall ms")
    columns += ("hospitals CPU ms", "hospitals peak MB", "release s CPU", "release peak MB", "load")
    rows = tuple(
        (
            str(seen.nodes),
            f"{seen.peak_mb:.0f}",
            f"+{seen.peak_mb - seen.values['before_mb']:.0f}",
            _spread(seen.a_node("cpu")),
            _spread(seen.a_node("wall")),
            _spread(seen.a_node("nodes_cpu")),
            f"{seen.values['hospitals_process'].get('peak_mb', math.nan):.0f}".replace("nan", "-"),
            f"{seen.values['release_cpu']:.2f}",
            f"{seen.values['release_peak_mb']:.0f}",
            f"{seen.load:.1f}",
        )
        for seen in cases
    )
    return Table(f"{name}: memory, and time a node and round", columns, rows)


def _spread(values: list[float]) -> str:
    if not any(values):
        return "-"
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _roster_table(roster: list[Roster]) -> Table:
    rows = tuple(
        (str(r.nodes), str(r.order_bytes), f"{r.write_ms:.2f}", f"{r.read_ms:.2f}") for r in roster
    )
    columns = ("hospitals", "bytes", "writing ms CPU", "reading ms CPU")
    return Table("One order without a model: the roster of all hospitals in it", columns, rows)


def _over_rounds(long: Seen) -> Table:
    values, rows = long.values, []
    cpu = np.diff(values["cpu"], prepend=0.0)
    nodes_cpu = np.diff(values["nodes_cpu"], prepend=0.0)
    for number in LOOKED_AT:
        disk, last = values["disk"][str(number)], slice(number - 20, number)
        rows.append(
            (
                str(number),
                f"{values['rss_mb'][number - 1]:.1f}",
                f"{max(values['peak_mb'][last]):.1f}",
                f"{disk['python_objects']}",
                f"{1000 * median(cpu[last]) / long.nodes:.1f}",
                f"{1000 * np.mean(nodes_cpu[last]) / long.nodes:.0f}",
                f"{disk['database_file'] / 1e3:.0f}",
                f"{disk['runs'] / 1e3:.0f}",
                f"{disk['exchange_files']}",
                f"{disk['hospitals'] / long.nodes / 1e3:.0f}",
            )
        )
    columns = (
        "round",
        "memory MB",
        "peak MB",
        "Python objects",
        "CPU ms a node",
        "hospital CPU ms",
    )
    columns += ("database kB", "runs/ kB", "files in exchange/", "a hospital's folder kB")
    title = f"{long.nodes} hospitals over files, {LONG_ROUNDS} rounds; times of the last 20 rounds"
    return Table(title, columns, tuple(rows))


def _rows(long: Seen) -> Table:
    disk = long.values["disk"][str(LONG_ROUNDS)]
    rows = [
        (
            table,
            str(disk[f"{table}_rows"]),
            f"{disk[f'{table}_bytes'] / disk[f'{table}_rows']:.0f}",
        )
        for table in ("orders", "replies", "charges", "rounds")
    ]
    rows.append(("database file, a node and round", "", f"{_bytes_a_node_and_round(long):.0f}"))
    return Table("What must grow: rows of the database", ("table", "rows", "bytes each"), (*rows,))


def _bytes_a_node_and_round(long: Seen) -> float:
    first, last = LOOKED_AT[0], LOOKED_AT[-1]
    disk = long.values["disk"]
    grown = disk[str(last)]["database_file"] - disk[str(first)]["database_file"]
    return float(grown / (last - first) / long.nodes)


def _goals(name: str, cases: list[Seen]) -> list[Goal]:
    few, many = cases[0], cases[-1]
    more = many.peak_mb - few.peak_mb
    span = f"{few.nodes} to {many.nodes} nodes"
    ratio = median(many.a_node("cpu")) / median(few.a_node("cpu"))
    time_goal = Goal(
        f"{name}: {'all' if name == 'in-process' else 'coordinator'} CPU a node and round, {span}",
        f"at most {MORE_TIME:g} times",
        f"{ratio:.2f} times",
        ratio <= MORE_TIME,
    )
    if name == "in-process":
        a_node = more / (many.nodes - few.nodes)
        what = f"{name}: memory a node ({span})"
        return [Goal(what, "at most 1 MB", f"{a_node:.2f} MB", a_node <= 1.0), time_goal]
    most = LARGE_MB if name.startswith("10 MB") else MORE_MB
    what = f"{name}: more peak memory, {span}"
    return [Goal(what, f"at most {most:.1f} MB", f"{more:.1f} MB", more <= most), time_goal]


def _long_goals(long: Seen) -> list[Goal]:
    first, last = LOOKED_AT[0], LOOKED_AT[-1]
    rss, disk = long.values["rss_mb"], long.values["disk"]
    more = rss[last - 1] - rss[first - 1]
    objects = disk[str(last)]["python_objects"] / disk[str(first)]["python_objects"]
    files = [disk[str(number)]["runs"] + disk[str(number)]["exchange"] for number in LOOKED_AT]
    return [
        Goal(
            f"more memory in round {last} than in {first}",
            "at most 2 MB",
            f"{more:.1f} MB",
            more <= 2,
        ),
        Goal(
            f"Python objects in round {last} over those in {first}",
            "at most 1.01",
            f"{objects:.4f}",
            objects <= 1.01,
        ),
        Goal(
            f"checkpoints and folders of orders and replies, rounds {first} to {last}",
            "no growth",
            f"{files[0] / 1e3:.0f} to {files[-1] / 1e3:.0f} kB",
            files[-1] <= files[0],
        ),
        Goal(
            "database, a node and round",
            "at most 4 kB",
            f"{_bytes_a_node_and_round(long) / 1e3:.1f} kB",
            _bytes_a_node_and_round(long) <= 4000,
        ),
    ]


if __name__ == "__main__":
    main()
