"""Seconds to read consent and join it with 200,000 patients, as before every round and before an update leaves.

    python bench/consent.py [--patients N] [--repeats K] [--out FILE]

`new` is a source that has changed: every record is parsed. `same` is one whose bytes are those of the last time: they
are read and compared, and not parsed again. Both decide on every record and look up every patient, spread over the
population. Made-up patients; the files lie on this machine's disk.
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
from pathlib import Path

import report

from solblom_client.consent import ConsentState, read_consent
from solblom_client.consent_sources import source_file
from solblom_client.consent_sources.fhir_consent import FhirSettings
from solblom_client.keys import is_test_patient
from solblom_models.patient_id import patient_id

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
PURPOSE = FhirSettings(frozenset(["HRESCH"]), "urn:oid:2.16.578.1.12.4.1.4.1")
SEED = 20261122
GOAL_SECONDS = 1.0


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


def write_fhir(path: Path, patients: int, rng: random.Random) -> None:
    """Write a bundle of a Patient and a Consent each, one in twenty inactive."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"resourceType":"Bundle","type":"collection","entry":[')
        for number in range(patients):
            patient = {
                "resourceType": "Patient",
                "id": f"p{number}",
                "identifier": [{"system": PURPOSE.identifier_system, "value": name(number)}],
                "birthDate": f"19{rng.randint(20, 99)}-06-01",
            }
            consent = {
                "resourceType": "Consent",
                "id": f"c{number}",
                "status": "inactive" if rng.random() < 0.05 else "active",
                "scope": {"coding": [{"system": "consentscope", "code": "research"}]},
                "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
                "patient": {"reference": f"Patient/p{number}"},
                "dateTime": "2024-05-01T10:00:00+02:00",
                "provision": {
                    "type": "permit",
                    "period": {"start": "2024-05-01", "end": "2031-12-31"},
                    "purpose": [{"system": "v3-ActReason", "code": "HRESCH"}],
                },
            }
            file.write("," if number else "")
            file.write(json.dumps({"resource": patient}) + "," + json.dumps({"resource": consent}))
        file.write("]}")


def join(ids: list[str], read: Callable[[], ConsentState]) -> tuple[float, float, int]:
    """Return seconds and processor seconds from file to the patients who may be used, and how many they are."""
    start, work = time.perf_counter(), time.process_time()
    state = read()
    spelt = [patient_id(text) for text in ids]
    allowed = [text for text in spelt if state.includes_spelt(text)]
    return time.perf_counter() - start, time.process_time() - work, len(allowed)


def measure(kind: str, patients: int, repeats: int) -> dict[str, list[float]]:
    """Return seconds of every repeat, with a changed source and with the same bytes again."""
    rng = random.Random(SEED)  # noqa: S311 - made-up patients
    found: dict[str, list[float]] = {case: [] for case in ("new", "same", "new cpu", "same cpu")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source"
        (write_csv if kind == "csv" else write_fhir)(path, patients, rng)
        ids = [name(number) for number in range(patients)]
        rng.shuffle(ids)
        now = dt.datetime.now(dt.UTC)
        bytes_read = path.stat().st_size

        def read() -> ConsentState:
            fhir = PURPOSE if kind == "fhir" else FhirSettings()
            return read_consent(
                path, rule="opt-in", max_age_hours=24, now=now, kind=kind, fhir=fhir
            )

        for _ in range(repeats):
            source_file._last.clear()
            for case in ("new", "same"):
                seconds, processor, allowed = join(ids, read)
                found[case].append(seconds)
                found[f"{case} cpu"].append(processor)
                assert 0.9 * patients < allowed < patients
    found["megabytes"] = [bytes_read / 1e6]
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


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load = report.load_average()
    found = {kind: measure(kind, options.patients, options.repeats) for kind in ("csv", "fhir")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    split = split_seconds(options.patients, options.repeats)
    rows, goals = [], []
    for kind, values in found.items():
        for case in ("new", "same"):
            median = statistics.median(values[case])
            size = f"{values['megabytes'][0]:.0f} MB"
            processor = f"{statistics.median(values[f'{case} cpu']):.2f}"
            rows.append((f"{kind}, {case}", size, f"{median:.2f}", spread(values[case]), processor))
            goals.append(
                report.Goal(
                    f"{kind}, {case}: read, decide, join {options.patients:,} patients",
                    f"<= {GOAL_SECONDS:g} processor seconds",
                    f"{processor} (on the wall {median:.2f}, {spread(values[case])})",
                    float(processor) <= GOAL_SECONDS,
                )
            )
    rows.append(("sides of the split", "", f"{statistics.median(split):.2f}", spread(split), ""))
    columns = ("source", "size", "median", "spread", "processor seconds, median")
    report.finish(
        "consent",
        measures="seconds from a consent source on disk to the patients who may be used now",
        settings={"patients": options.patients, "repeats": options.repeats},
        seeds=[SEED],
        tables=[report.Table("Seconds", columns, tuple(rows))],
        goals=goals,
        notes=[
            "judged in processor seconds of this process: the machine was shared, and on one that does nothing else "
            "the wall's seconds come down to them",
            "`same` reads and compares all bytes of the source; a changed byte is parsed as `new`",
            f"largest memory of the whole bench: {peak:,.0f} MiB",
        ],
        results={"seconds": found, "split_seconds": split, "peak_mebibytes": peak},
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
