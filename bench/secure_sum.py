"""What a secure sum costs a round: seconds and bytes, masked beside plain, in one run.

Real vaults, real DP training on made-up patients, sealed orders and replies, on the local grid in one process, one
hospital after another: so a round's seconds are those of all hospitals together, and on machines of their own they
would share them. Plain is noise = "local" with the same net, rounds and one step over all patients; masked is noise =
"shared": keys once, then each round a discrete Gaussian share, one mask for each other hospital, an opened sum.

With a threshold: four fifths of the hospitals are enough, so each sum takes four exchanges (setups, vectors,
signatures, shares); everybody is there, and the coordinator goes on with as many signatures and shares as it needs.

GOALS: at 1 million parameters a masked round takes at most twice as long as a plain one, and carries at most twice
its bytes, for 3, 10 and 20 hospitals.
"""

import argparse
import datetime as dt
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from flwr.app import Message
from report import Goal, Table, finish, load_average

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lab import CONTRACT, STUDY, patient_rows, write_table
from solblom_models.study_document import resolve
from solblom_protocol.contracts.table import Contract
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import StudyDocument, sign_study
from solblom_protocol.studies.tables import Study
from solblom_protocol.sums.secure_sum import Roster
from solblom_protocol.toml_file import parse
from solblom_server.coordinator import Coordinator
from solblom_server.rounds.conduct import conduct
from solblom_server.transports.grids.local import LocalGrid
from solblom_server.transports.grids.sealed import sealed_bytes
from solblom_server.transports.transports import PROGRESS
from solblom_simulation.federation import LocalTransport
from solblom_simulation.hospitals import SimulationPolicy, approve_everywhere, create_federation

NODES = (3, 10, 20)
HIDDEN = {"10 k": 95, "1 M": 994, "10 M": 3157}  # units of two hidden layers
ROUNDS, PATIENTS, SEED = 6, 60, 11
GOAL_SIZE, GOAL_RATIO = "1 M", 2.0
EPSILON = 8.0  # of little meaning here: it sets how much noise is drawn, not how long that takes


@dataclass
class Counted:
    """What went over a grid: bytes of sealed orders and replies."""

    grid: LocalGrid
    orders: int = 0
    replies: int = 0
    at_round: list[tuple[float, int, int]] = field(default_factory=list)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Count and hand on."""
        kept = list(messages)
        self.orders += sum(len(sealed_bytes(m.content) or b"") for m in kept)
        return self.grid.push_messages(kept)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Count and hand on."""
        for reply in self.grid.pull_messages(message_ids):
            self.replies += len(sealed_bytes(reply.content) or b"")
            yield reply

    def create_message(self, *arguments: Any) -> Message:
        """Hand on."""
        return self.grid.create_message(*arguments)

    def note(self, number: int, rounds: int, text: str) -> None:
        """Keep time and bytes at the end of a round."""
        self.at_round.append((time.monotonic(), self.orders, self.replies))


def study(hidden: int, roster: Roster | None, threshold: int | None) -> StudyDocument:
    """Return the study of one case; a roster makes it masked, a threshold lets hospitals drop out."""
    tables = {name: dict(table) for name, table in STUDY.items()}
    nodes = 3 if roster is None else len(roster.members)
    tables["task"]["model"] = {"kind": "mlp", "hidden": [hidden, hidden]}
    tables["training"] |= {"rounds": ROUNDS, "local_steps": 1, "learning_rate": 0.1}
    tables["privacy"] |= {"epsilon": EPSILON, "sampling_rate": 1.0}
    tables["cohort"] |= {"min_nodes": nodes, "quorum": threshold or nodes, "min_patients": 10}
    if roster is not None:
        tables["privacy"]["noise"] = "shared"
        tables["secure_sum"] = {"roster": "roster.json"}
        if threshold is not None:
            tables["secure_sum"]["threshold"] = threshold
    contract = parse(Contract, CONTRACT, source="bench")
    return resolve(parse(Study, tables, source="bench"), contract, roster)


def measure(folder: Path, nodes: int, hidden: int, *, form: str) -> dict[str, Any]:
    """Run one federation and return its rounds' seconds and bytes, the first left out."""
    sites = [f"h{number:02}" for number in range(nodes)]
    tables = {site: folder / f"{site}.csv" for site in sites}
    folder.mkdir(parents=True)
    for site, path in tables.items():
        write_table(path, patient_rows(PATIENTS, site=site))
    policy = SimulationPolicy(
        epsilon_budget=1000.0, study_epsilon=EPSILON, shared_noise=True, min_honest_nodes=2
    )
    home, now = folder / "home", dt.datetime.now(dt.UTC)
    coordinator = create_federation(home, seed=SEED, tables=tables, policy=policy)
    roster = None if form == "plain" else Roster.of(coordinator.nodes())
    document = study(hidden, roster, nodes * 4 // 5 if form == "threshold" else None)
    key = read_signing_key(home / "researcher" / "researcher.key")
    envelope = sign_study(document, key)
    for file in (home / "sites").glob("*/node.toml"):  # a share alone may cost what it likes here
        text = file.read_text().replace(
            "min_honest_nodes = 2", "min_honest_nodes = 2, alone_epsilon = 1e9"
        )
        file.write_text(text)
    approve_everywhere(home, envelope, seed=SEED, now=now)
    return _rounds(coordinator, document, envelope, now)


def _rounds(
    coordinator: Coordinator, document: StudyDocument, envelope: bytes, now: dt.datetime
) -> dict[str, Any]:
    transport = LocalTransport(coordinator.home)
    database = coordinator.database()
    row = database.create_run(
        study=document.digest,
        name=document.study.study.name,
        envelope=envelope,
        roster=",".join(sorted(transport.addresses)),
        transport="local",
        simulation=True,
        now=now,
    )
    database.close()
    counted = Counted(transport.grid)
    token = PROGRESS.set(counted.note)
    began = time.monotonic()
    try:
        conduct(coordinator, row.id, counted, transport.addresses)  # type: ignore[arg-type]
    finally:
        PROGRESS.reset(token)
        transport.close()
    marks = counted.at_round
    pairs = list(itertools.pairwise(marks))
    return {
        "seconds": [round(b[0] - a[0], 4) for a, b in pairs],
        "order_bytes": [b[1] - a[1] for a, b in pairs],
        "reply_bytes": [b[2] - a[2] for a, b in pairs],
        "first_round_seconds": round(marks[0][0] - began, 3),
        "parameters": document.secure_sum.values if document.secure_sum else None,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="another result file")
    parser.add_argument("--sizes", nargs="+", choices=HIDDEN, default=list(HIDDEN))
    parser.add_argument("--nodes", nargs="+", type=int, default=list(NODES))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    load, values = load_average(), {}
    for size in options.sizes:
        for nodes in options.nodes:
            for form in _forms(size, nodes):  # one after the other: they share the machine's mood
                name = f"{size}, {nodes}, {form}"
                with tempfile.TemporaryDirectory(prefix="sb") as folder:
                    found = measure(Path(folder) / "case", nodes, HIDDEN[size], form=form)
                values[name] = found
                print(f"{name}: {median(found['seconds']):.2f} s a round", flush=True)
    rows, goals = _table(values, options.sizes, options.nodes)
    finish(
        "secure_sum",
        measures=(__doc__ or "").strip().splitlines()[0],
        settings={"rounds": ROUNDS, "patients": PATIENTS, "hidden": HIDDEN, "seed": SEED},
        seeds=[SEED],
        goals=goals,
        tables=[rows, _dropouts(values, options.sizes, options.nodes)],
        results=values,
        load_at_start=load,
        notes=[
            "One process plays all hospitals, one after another; the first round is left out.",
            "Bytes are those of sealed orders and replies of one hospital and round; a ring of 32 bits.",
        ],
        out=options.out,
    )


def _forms(size: str, nodes: int) -> list[str]:
    """Return the forms of one case; three hospitals tolerate no dropout, and 10 million take too long here."""
    with_threshold = nodes >= 5 and size != "10 M"
    return ["plain", "masked"] + (["threshold"] if with_threshold else [])


def _dropouts(values: dict[str, Any], sizes: list[str], nodes: list[int]) -> Table:
    rows = []
    for size in sizes:
        for count in nodes:
            found = values.get(f"{size}, {count}, threshold")
            if found is None:
                continue
            plain = values[f"{size}, {count}, plain"]
            ratio = median(found["seconds"]) / median(plain["seconds"])
            carried = [
                (median(v["order_bytes"]) + median(v["reply_bytes"])) / count / 1e6
                for v in (plain, found)
            ]
            rows.append(
                (
                    size,
                    f"{count * 4 // 5} of {count}",
                    _spread(found["seconds"]),
                    f"{ratio:.2f}",
                    f"{carried[1]:.3f}",
                    f"{carried[1] / carried[0]:.3f}",
                )
            )
    columns = ("parameters", "hospitals", "seconds", "over plain", "MB", "over plain")
    return Table("With a threshold: four exchanges a sum, everybody is there", columns, tuple(rows))


def _table(values: dict[str, Any], sizes: list[str], nodes: list[int]) -> tuple[Table, list[Goal]]:
    rows, goals = [], []
    for size in sizes:
        for count in nodes:
            plain, masked = (values[f"{size}, {count}, {kind}"] for kind in ("plain", "masked"))
            seconds = median(masked["seconds"]) / median(plain["seconds"])
            carried = [
                (median(v["order_bytes"]) + median(v["reply_bytes"])) / count
                for v in (plain, masked)
            ]
            rows.append(
                (
                    size,
                    str(count),
                    _spread(plain["seconds"]),
                    _spread(masked["seconds"]),
                    f"{seconds:.2f}",
                    f"{carried[0] / 1e6:.3f}",
                    f"{carried[1] / 1e6:.3f}",
                    f"{carried[1] / carried[0]:.3f}",
                )
            )
            slow = values.get(f"{size}, {count}, threshold")
            if size == GOAL_SIZE and slow is not None:
                times = median(slow["seconds"]) / median(plain["seconds"])
                goals.append(
                    Goal(
                        f"seconds, {count} hospitals, with a threshold",
                        f"at most {GOAL_RATIO:g} times plain",
                        f"{times:.2f} times",
                        times <= GOAL_RATIO,
                    )
                )
            if size == GOAL_SIZE:
                goals += [
                    Goal(
                        f"seconds, {count} hospitals",
                        f"at most {GOAL_RATIO:g} times plain",
                        f"{seconds:.2f} times",
                        seconds <= GOAL_RATIO,
                    ),
                    Goal(
                        f"bytes, {count} hospitals",
                        f"at most {GOAL_RATIO:g} times plain",
                        f"{carried[1] / carried[0]:.3f} times",
                        carried[1] <= GOAL_RATIO * carried[0],
                    ),
                ]
    columns = (
        "parameters",
        "hospitals",
        "plain s",
        "masked s",
        "ratio",
        "plain MB",
        "masked MB",
        "ratio",
    )
    return Table(
        "A round, all hospitals one after another; MB a hospital", columns, tuple(rows)
    ), goals


def _spread(seconds: list[float]) -> str:
    low, _, high = quantiles(seconds, n=4)
    return f"{median(seconds):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
