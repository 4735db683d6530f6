"""What the coordinator's log costs: milliseconds a round and a hospital, proofs, and the check of a whole log.

    python bench/transparency_log.py [--entries 20000] [--rounds 200] [--hospitals 4] [--folder DIR] [--out FILE]

A round as a run makes it: heads shown to all hospitals, each receipt in an append of its own, the round's end; every
commit synced (`synchronous=FULL`). Then proofs from a log of many entries, and everything about it computed anew.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import report
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.logs.cosignature import cosign, read_cosigned
from solblom_protocol.logs.merkle import leaf_hash
from solblom_protocol.logs.transparency import verify_consistency, verify_inclusion
from solblom_protocol.logs.tree_file import recomputed
from solblom_server.database import ReplyRow
from solblom_server.log.entries import LogEntry, answer, round_closed
from solblom_server.log.report import check_log
from solblom_server.log.transparency_log import TransparencyLog

TIME = "2026-11-29T12:00:00Z"
SEED = 20261129
PROOFS = 500
GOAL_ROUND_MS, GOAL_RECOMPUTE_SECONDS, GOAL_CHECK_SECONDS = 250.0, 1.0, 10.0


def receipt(number: int, site: str) -> LogEntry:
    """Return the entry of one receipt."""
    digest = f"sha256:{number:064x}"
    row = ReplyRow(number, site, digest, "result", None, digest, None, TIME, 0.1)
    entry = answer("run-1", row)
    if entry is None:
        raise SystemExit("a receipt was not logged")
    return entry


def closed(run: str, number: int) -> LogEntry:
    """Return the entry of a round's end."""
    return round_closed(run, number, base="a", result="b", time=TIME)


def timed(action: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def rounds_of(log: TransparencyLog, rounds: int, hospitals: int) -> tuple[list[float], list[float]]:
    """Return milliseconds a round, on the wall and of the processor, as the log alone costs them."""
    sites = [f"site-{number}" for number in range(hospitals)]
    wall, processor = [], []
    for number in range(1, rounds + 1):
        began, cpu = time.perf_counter(), time.process_time()
        shown = log.show(sites)
        for site in sites:
            log.show([site])  # as each order asks
        for site in sites:
            log.append(receipt(number, site), seen={site: shown[site].size})
        log.append(closed("run-1", number))
        wall.append(1000 * (time.perf_counter() - began))
        processor.append(1000 * (time.process_time() - cpu))
    return wall, processor


def proofs_of(log: TransparencyLog) -> dict[str, list[float]]:
    """Return milliseconds of heads, proofs and their verification."""
    rng, size, entries = random.Random(SEED), log.size(), log.entries()  # noqa: S311 - indices
    head = log.head()
    found: dict[str, list[float]] = {
        name: []
        for name in ("inclusion", "inclusion verified", "consistency", "consistency verified")
    }
    for _ in range(PROOFS):
        index, old = rng.randrange(size), rng.randrange(1, size)
        began = time.perf_counter()
        proof = log.inclusion(index, size)
        found["inclusion"].append(1000 * (time.perf_counter() - began))
        leaf, older = leaf_hash(entries[index].encode()), log.head(old)
        began = time.perf_counter()
        holds = verify_inclusion(leaf, index, head, proof)
        found["inclusion verified"].append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        proof = log.consistency(old, size)
        found["consistency"].append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        holds = verify_consistency(older, head, proof) and holds
        found["consistency verified"].append(1000 * (time.perf_counter() - began))
        if not holds:
            raise SystemExit("a proof does not hold")
    return found


def cosigned(log: TransparencyLog, hospitals: int) -> dict[str, list[float]]:
    """Return milliseconds to cosign a head for all hospitals, and to read the note with all lines."""
    keys = {
        f"site-{n}": Ed25519PrivateKey.from_private_bytes(n.to_bytes(32, "big"))
        for n in range(hospitals)
    }
    public, note = {name: key.public_key() for name, key in keys.items()}, log.note(log.size())
    made, read = [], []
    for _ in range(50):
        began = time.perf_counter()
        lines = [cosign(note, name, key, time=1795953600) for name, key in sorted(keys.items())]
        made.append(1000 * (time.perf_counter() - began))
        whole = note + "".join(f"{line}\n" for line in lines)
        began = time.perf_counter()
        read_cosigned(whole, log.origin, log.public, public)
        read.append(1000 * (time.perf_counter() - began))
    return {f"{hospitals} cosignatures made": made, "a note with them read": read}


def row(name: str, values: list[float]) -> tuple[str, str, str]:
    """Return median and 95th percentile as text."""
    return name, f"{statistics.median(values):.2f}", f"{statistics.quantiles(values, n=20)[-1]:.2f}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--hospitals", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to be measured")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load = report.load_average()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        log = TransparencyLog(Path(folder), Ed25519PrivateKey.generate())
        wall, processor = rounds_of(log, options.rounds, options.hospitals)
        one = [timed(lambda n=n: log.append(closed("run-2", n))) for n in range(200)]
        log.append(*(closed("run-3", n) for n in range(options.entries - log.size())))
        small = proofs_of(log) | cosigned(log, options.hospitals)
        entries = log.entries()
        recompute = timed(lambda: recomputed(entries)) / 1000
        began = time.perf_counter()
        found = check_log(log, {})
        check = time.perf_counter() - began
        log.close()
    if found.problems or found.size != options.entries:
        raise SystemExit(f"the log does not hold: {found.problems}")
    name = f"a round of {options.hospitals} hospitals"
    rows = [
        row(f"{name}, on the wall", wall),
        row(f"{name}, of the processor", processor),
        row("one entry appended", one),
    ]
    rows += [row(name, values) for name, values in small.items()]
    report.finish(
        "transparency_log",
        measures="milliseconds that the coordinator's log costs; seconds to compute and check all of it",
        settings={
            "entries": options.entries,
            "rounds": options.rounds,
            "hospitals": options.hospitals,
            "proofs": PROOFS,
        },
        seeds=[SEED],
        tables=[report.Table("Milliseconds", ("what", "median", "95th percentile"), tuple(rows))],
        goals=[
            report.Goal(
                name,
                f"<= {GOAL_ROUND_MS:g} ms",
                f"{statistics.median(wall):.0f} ms",
                statistics.median(wall) <= GOAL_ROUND_MS,
            ),
            report.Goal(
                f"compute every hash of {options.entries:,} entries",
                f"<= {GOAL_RECOMPUTE_SECONDS:g} s",
                f"{recompute:.2f} s",
                recompute <= GOAL_RECOMPUTE_SECONDS,
            ),
            report.Goal(
                f"check {options.entries:,} entries and {found.proofs:,} proofs",
                f"<= {GOAL_CHECK_SECONDS:g} s",
                f"{check:.2f} s",
                check <= GOAL_CHECK_SECONDS,
            ),
        ],
        notes=["the wall's time is mostly that of syncs of this machine's disk, which was shared"],
        results={"round_wall_ms": wall, "round_processor_ms": processor, "append_ms": one}
        | {"recompute_s": recompute, "check_s": check},
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
