"""Made-up runs in which people withdraw between and during rounds, and an oracle that knows when each did.

The hospital's side is the product's own: a consent file on disk, `join_cohort` before a round,
`check_consent_holds` before its update leaves. The oracle reads no file and calls none of it: it remembers at
which step somebody said no, and counts whom an update that left had used after that.
"""

import datetime as dt
import json
import os
import random
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lab import NOW
from solblom_client.cohorts import cohort as cohort_module
from solblom_client.keys import NodeKeys
from solblom_client.policy import NodeConfig
from solblom_models.tabular.data import TableUnits
from solblom_protocol.errors import DataError
from solblom_protocol.studies.study import StudyDocument

ROUNDS = 5
PATIENTS = 14
# How a withdrawal is written down; each takes effect the moment the file stands there.
CSV_WAYS = ("withdrawn", "expired", "deceased", "gone", "other-spelling", "unseen-sign", "tonight")
FHIR_WAYS = ("inactive", "deny", "expired", "deceased", "gone", "tonight")
STEP = dt.timedelta(
    hours=1.9
)  # the sixth, when an update leaves, lies between midnight in Oslo and in UTC
OSLO = dt.timedelta(hours=1)  # ahead of UTC in November


def name(number: int) -> str:
    """Return an id with a letter that has two spellings."""
    return f"p\u00e5l-{number}"


def day_at(step: int) -> dt.date:
    """Return the day on the hospital's wall at a step."""
    return (NOW + step * STEP + OSLO).date()


def units() -> TableUnits:
    """Return the hospital's patients: the rows are the same in every round."""
    labels = np.arange(PATIENTS) % 2
    features = np.arange(PATIENTS, dtype=np.float32)[:, None]
    return TableUnits(tuple(name(number) for number in range(PATIENTS)), features, labels)


@dataclass
class Oracle:
    """When each patient's withdrawal took effect, in steps of the run, and who was used after that."""

    withdrew_at: dict[int, int] = field(default_factory=dict)
    used_after: int = 0
    wrongly_left_out: int = 0
    released: int = 0
    dropped: int = 0

    def left(self, patients: list[int], *, step: int) -> None:
        """Note that an update over these patients left at a step."""
        self.released += 1
        self.used_after += sum(self.withdrew_at.get(n, step + 1) <= step for n in patients)

    def joined(self, patients: list[int], *, step: int) -> None:
        """Note who was joined: whoever had not withdrawn must be there, or the rest proves nothing."""
        willing = {n for n in range(PATIENTS) if self.withdrew_at.get(n, step + 1) > step}
        self.wrongly_left_out += len(willing - set(patients))


@dataclass
class Register:
    """The hospital's consent file and how each withdrawal stands in it."""

    path: Path
    kind: str
    rule: str
    ways: dict[int, str] = field(default_factory=dict)
    last_days: dict[int, dt.date] = field(default_factory=dict)  # of who said: until tonight

    def write(self) -> None:
        """Write the file anew, as fresh as the laboratory's clock, whole before it has its name."""
        text = self._csv() if self.kind == "csv" else json.dumps(self._fhir())
        partial = self.path.with_suffix(".new")
        partial.write_text(text, encoding="utf-8")
        os.utime(partial, (NOW.timestamp(),) * 2)
        partial.replace(self.path)

    def _csv(self) -> str:
        lines = ["patient_id,status,valid_until,deceased"]
        for number in range(PATIENTS):
            way = self.ways.get(number)
            until = self._until(number, "2030-01-01")
            status = "withdrawn" if way in ("withdrawn", "other-spelling") else "granted"
            died = "2026-11-22" if way == "deceased" else ""
            if way != "gone":
                lines.append(f"{name(number)},{'granted' if died else status},{until},{died}")
            other = {
                "other-spelling": unicodedata.normalize("NFD", name(number)),
                "unseen-sign": f"{name(number)}\u200b",
            }
            if way in other:
                lines[-1] = f"{name(number)},granted,,"
                lines.append(f"{other[way]},withdrawn,,")
        return "\n".join(lines) + "\n"

    def _until(self, number: int, otherwise: str) -> str:
        """Return the last day of somebody's consent."""
        if self.ways.get(number) == "expired":
            return "2026-11-21"
        return str(self.last_days.get(number, otherwise))

    def _fhir(self) -> dict[str, object]:
        entries: list[dict[str, object]] = []
        for number in range(PATIENTS):
            way = self.ways.get(number)
            entries.append(
                {
                    "resourceType": "Patient",
                    "id": f"id-{number}",
                    "identifier": [{"value": name(number)}],
                    "deceasedBoolean": way == "deceased",
                }
            )
            consent = {
                "resourceType": "Consent",
                "status": "inactive" if way == "inactive" else "active",
                "scope": {"coding": [{"code": "research"}]},
                "patient": {"reference": f"Patient/id-{number}"},
                "provision": {
                    "type": "deny" if way == "deny" else "permit",
                    "period": {"end": self._until(number, "2030")},
                },
            }
            if way != "gone":
                entries.append(consent)
        whole = [{"resource": entry} for entry in entries]
        return {"resourceType": "Bundle", "type": "collection", "entry": whole}


@dataclass(frozen=True)
class Hospital:
    """What the product's functions are called with."""

    folder: Path
    config: NodeConfig
    keys: NodeKeys
    document: StudyDocument


def simulate(hospital: Hospital, seed: int) -> Oracle:
    """Return what the oracle saw of one run with random withdrawals."""
    rng = random.Random(seed)  # noqa: S311 - made-up withdrawals
    kind, rule = rng.choice(["csv", "fhir"]), rng.choice(["opt-in", "opt-out"])
    table = hospital.config.consent.model_copy(update={"kind": kind, "rule": rule})
    config = hospital.config.model_copy(update={"consent": table})
    config._folder = hospital.folder
    register = Register(config.path(table.source), kind, rule)
    register.write()
    oracle, everybody, step = Oracle(), units(), 0
    ways = [
        way
        for way in (CSV_WAYS if kind == "csv" else FHIR_WAYS)
        if way != "gone" or rule == "opt-in"
    ]

    def time_passes() -> None:
        nonlocal step
        step += 1
        leaving = [n for n in range(PATIENTS) if n not in register.ways and rng.random() < 0.04]
        for number in leaving:
            register.ways[number] = rng.choice(ways)
            oracle.withdrew_at[number] = step
            if register.ways[number] == "tonight":
                register.last_days[number] = day_at(step)
                oracle.withdrew_at[number] = next(
                    later for later in range(step, step + 99) if day_at(later) > day_at(step)
                )
        if leaving:
            register.write()

    for _ in range(ROUNDS):
        time_passes()  # between rounds
        joined = cohort_module.join_cohort(
            config, hospital.keys, hospital.document, everybody, now=NOW + step * STEP
        )
        used = [int(text.rpartition("-")[2]) for text in joined.training.ids]
        present = [int(text.rpartition("-")[2]) for text in joined.everybody.ids]
        oracle.joined(present, step=step)
        time_passes()  # while it is worked on
        try:
            cohort_module.check_consent_holds(config, joined.training, now=NOW + step * STEP)
        except DataError:
            oracle.dropped += 1
            continue
        oracle.left(used, step=step)
    return oracle
