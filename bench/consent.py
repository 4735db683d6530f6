"""Seconds to read consent and join it with 200,000 patients, as before every round and before an update leaves.

    python bench/consent.py [--patients N] [--repeats K] [--out FILE]

The bundle has a Patient and a Consent for each patient. How it differs from the one that was read before:

- `same`: in nothing. Its bytes are read and compared.
- `changed`: of all entries, a third of the share has other words (a birthday, or a withdrawal), a third is gone, and a
  third is new and stands anywhere; the rest stands in the order and with the bytes of before.
- `first`: there was none before, as when a vault starts.
- `every entry new`: none has the bytes of before.

The goal is the join's, before a round: what a register costs as it changes from one round to the next. The last two
are readings of a whole bundle, and have none: the first is done before a vault takes orders, and where every entry has
other bytes the round waits for as long as it says.

`csv, reservations` is a table with only those who have said no, one patient in twenty, under the opt-out rule:
everybody else has no record, and the ids of all of them are compared with those reserved (`loose_id`).

Every row decides on every record and looks up every patient, spread over the population. Made-up patients; the files
lie on this machine's disk.
"""

import argparse
import datetime as dt
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import report

from solblom_client.consent.join import ConsentState, read_consent
from solblom_client.consent.rules import Rule
from solblom_client.consent.sources import source_file
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.keys import is_test_patient
from solblom_models.patient_id import patient_id

PURPOSE = FhirSettings(frozenset(["HRESCH"]), "urn:oid:2.16.578.1.12.4.1.4.1")
SEED = 20261122
GOAL_SECONDS = 1.0
NO_JOIN = ("fhir, first", "fhir, every entry new")  # readings of a whole bundle
SHARES = {"changed, 0.1 %": 0.001, "changed, 1 %": 0.01}


def name(number: int) -> str:
    """Return a made-up patient's id."""
    return f"patient-{number:07d}"


def write_csv(path: Path, patients: int, rng: random.Random) -> None:
    """Write a table in which one patient in twenty has withdrawn, and half have a last day."""
    lines = ["patient_id,status,valid_until"]
    for number in range(patients):
        status = "withdrawn" if rng.random() < 0.05 else "granted"
        lines.append(f"{name(number)},{status},{'2031-12-31' if rng.random() < 0.5 else ''}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def patient_entry(number: int, version: int) -> str:
    """Return a Patient; versions differ in the birthday."""
    found = {
        "resourceType": "Patient",
        "id": f"p{number}",
        "identifier": [{"system": PURPOSE.identifier_system, "value": name(number)}],
        "birthDate": f"19{20 + (7 * number + version) % 80}-06-01",
    }
    return json.dumps({"resource": found})


def consent_entry(number: int, version: int) -> str:
    """Return a Consent, of which one in twenty is inactive; versions differ in that, and in the time."""
    found = {
        "resourceType": "Consent",
        "id": f"c{number}",
        "status": "inactive" if (number + version) % 20 == 0 else "active",
        "scope": {"coding": [{"system": "consentscope", "code": "research"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/p{number}"},
        "dateTime": f"2024-05-01T10:{version % 60:02d}:00+02:00",
        "provision": {
            "type": "permit",
            "period": {"start": "2024-05-01", "end": "2031-12-31"},
            "purpose": [{"system": "v3-ActReason", "code": "HRESCH"}],
        },
    }
    return json.dumps({"resource": found})


@dataclass
class Register:
    """What an export holds: for each patient a number, and versions of both entries. Written anew each time."""

    rng: random.Random
    patients: list[tuple[int, int, int]]
    next_number: int = field(init=False)

    def __post_init__(self) -> None:
        self.next_number = len(self.patients)

    def write(self, path: Path) -> None:
        """Write the bundle."""
        with path.open("w", encoding="utf-8") as file:
            file.write('{"resourceType":"Bundle","type":"collection","entry":[')
            for place, (number, first, second) in enumerate(self.patients):
                entries = patient_entry(number, first), consent_entry(number, second)
                file.write(("," if place else "") + ",".join(entries))
            file.write("]}")

    def change(self, share: float) -> None:
        """Change a share of all entries, in three ways."""
        third = round(share * 2 * len(self.patients) / 3)
        for place in self.rng.sample(range(len(self.patients)), third):
            number, first, second = self.patients[place]
            either = self.rng.random() < 0.5
            self.patients[place] = (number, first + either, second + (not either))
        gone = set(self.rng.sample(range(len(self.patients)), third // 2))
        self.patients = [one for place, one in enumerate(self.patients) if place not in gone]
        for _ in range(third // 2):
            self.patients.insert(self.rng.randrange(len(self.patients)), (self.next_number, 0, 0))
            self.next_number += 1

    def change_all(self) -> None:
        """Change every entry."""
        self.patients = [(number, one + 1, other + 1) for number, one, other in self.patients]


def join(ids: list[str], read: Callable[[], ConsentState]) -> tuple[float, float, int]:
    """Return seconds and processor seconds from file to the patients who may be used, and how many they are."""
    start, work = time.perf_counter(), time.process_time()
    state = read()
    spelt = [patient_id(text) for text in ids]
    allowed = [text for text in spelt if state.includes_spelt(text)]
    return time.perf_counter() - start, time.process_time() - work, len(allowed)


@dataclass
class Case:
    """One row: wall and processor seconds of every repeat."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    megabytes: float = 0.0
    peak_mebibytes: float = 0.0  # of the whole process, up to the first repeat of this row


def write_reservations(path: Path, patients: int, rng: random.Random) -> None:
    """Write a table of the one patient in twenty who has said no."""
    lines = ["patient_id,status,valid_until"]
    lines += [f"{name(number)},withdrawn," for number in range(patients) if rng.random() < 0.05]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(path: Path, kind: str, ids: list[str], case: Case, *, rule: Rule = "opt-in") -> None:
    """Read a source once, as a round does."""
    now, fhir = dt.datetime.now(dt.UTC), PURPOSE if kind == "fhir" else FhirSettings()

    def read() -> ConsentState:
        return read_consent(path, rule=rule, max_age_hours=24, now=now, kind=kind, fhir=fhir)

    seconds, processor, allowed = join(ids, read)
    case.seconds.append(seconds)
    case.processor.append(processor)
    case.megabytes = path.stat().st_size / 1e6
    # The first repeat's: later ones come after everything else.
    case.peak_mebibytes = (
        case.peak_mebibytes or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    if not 0.8 * len(ids) < allowed < len(ids):
        raise ValueError(f"{allowed} of {len(ids)} allowed: not what was written")


def measure_csv(folder: Path, ids: list[str], repeats: int) -> dict[str, Case]:
    """Return what a table takes, new and the same again, and one of reservations."""
    path = folder / "consent.csv"
    write_csv(path, len(ids), random.Random(SEED))  # noqa: S311 - made-up patients
    reserved = folder / "reserved.csv"
    write_reservations(reserved, len(ids), random.Random(SEED))  # noqa: S311 - made-up patients
    found = {"new": Case(), "same": Case(), "reservations": Case()}
    for _ in range(repeats):
        source_file._last.clear()
        for row in ("new", "same"):
            measure(path, "csv", ids, found[row])
        measure(reserved, "csv", ids, found["reservations"], rule="opt-out")
    return found


def measure_fhir(folder: Path, ids: list[str], repeats: int) -> dict[str, Case]:
    """Return what a bundle takes, by how it differs from the one before."""
    path, rng = folder / "consent.json", random.Random(SEED)  # noqa: S311 - made-up patients
    register = Register(rng, [(number, 0, 0) for number in range(len(ids))])
    found = {row: Case() for row in ("first", "same", *SHARES, "every entry new")}
    for _ in range(repeats):
        source_file._last.clear()
        register.write(path)
        for row in ("first", "same"):
            measure(path, "fhir", ids, found[row])
        for row, share in SHARES.items():
            register.change(share)
            register.write(path)
            measure(path, "fhir", ids, found[row])
        register.change_all()
        register.write(path)
        measure(path, "fhir", ids, found["every entry new"])
    return found


def split_seconds(patients: int, repeats: int) -> list[float]:
    """Return seconds to put every patient on a side of the split."""
    ids = [name(number) for number in range(patients)]
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for text in ids:
            is_test_patient(b"s" * 32, text, 0.3)
        found.append(time.perf_counter() - start)
    return found


def spread(values: list[float]) -> str:
    """Return the smallest and the largest value."""
    return f"{min(values):.2f}-{max(values):.2f}"


def goal(row: str, case: Case, patients: int) -> report.Goal:
    """Return the goal of a row: what a round waits for takes at most a second of the processor."""
    processor = statistics.median(case.processor)
    wall = f"on the wall {statistics.median(case.seconds):.2f}, {spread(case.seconds)}"
    return report.Goal(
        f"{row}: read, decide, join {patients:,} patients",
        f"<= {GOAL_SECONDS:g} processor seconds",
        f"{processor:.2f} ({wall})",
        round(processor, 2) <= GOAL_SECONDS,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load = report.load_average()
    ids = [name(number) for number in range(options.patients)]
    random.Random(SEED).shuffle(ids)  # noqa: S311 - made-up patients
    with tempfile.TemporaryDirectory() as folder:
        found = {
            f"{kind}, {row}": case
            for kind, measured in (("csv", measure_csv), ("fhir", measure_fhir))
            for row, case in measured(Path(folder), ids, options.repeats).items()
        }
    split = split_seconds(options.patients, options.repeats)
    rows = [
        (
            *(row, f"{case.megabytes:.0f} MB"),
            *(f"{statistics.median(case.processor):.2f}", spread(case.processor)),
            *(f"{statistics.median(case.seconds):.2f}", spread(case.seconds)),
        )
        for row, case in found.items()
    ]
    rows.append(
        ("sides of the split", "", "", "", f"{statistics.median(split):.2f}", spread(split))
    )
    columns = ("source", "size", "processor seconds, median", "spread", "wall, median", "spread")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.finish(
        "consent",
        measures="seconds from a consent source on disk to the patients who may be used now",
        settings={"patients": options.patients, "repeats": options.repeats},
        seeds=[SEED],
        tables=[report.Table("Seconds", columns, tuple(rows))],
        goals=[
            goal(row, case, options.patients) for row, case in found.items() if row not in NO_JOIN
        ],
        notes=[
            "judged in processor seconds of this process: the machine was shared, and on one that does nothing else "
            "the wall's seconds come down to them",
            "`changed`: a third of the share of entries has other words, a third is gone, a third is new and stands "
            "anywhere; `every entry new`: none has the bytes of before",
            "`first` is read when a vault starts, before it takes orders; the first round after that compares",
            f"largest memory of the whole bench: {peak:,.0f} MiB, of which "
            f"{found['fhir, first'].peak_mebibytes:,.0f} MiB were reached before a second bundle came",
        ],
        results={
            "cases": {row: asdict(case) for row, case in found.items()},
            "split_seconds": split,
            "peak_mebibytes": peak,
        },
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
