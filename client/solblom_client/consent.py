"""Consent, joined anew before every round and again before the update leaves (privacy.md rules 10 and 13).

Opt-in: no record means excluded. Opt-out: no record means included. A status that is not known
means excluded. A stale or unreadable source stops the round.
"""

import csv
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from solblom_models.patient_id import patient_id
from solblom_protocol.errors import DataError
from solblom_verify.canonical import canonical_json
from solblom_verify.wording import counted

CLOCK_TOLERANCE = dt.timedelta(minutes=5)  # a source from further in the future: a wrong clock
COLUMNS = ("patient_id", "status", "valid_until")


@dataclass(frozen=True)
class ConsentState:
    """Who said what, read at one moment."""

    rule: Literal["opt-in", "opt-out"]
    allowed: frozenset[str]
    excluded: frozenset[str]

    def includes(self, patient: str) -> bool:
        """Tell whether this patient's data may be used now, however the id is spelt."""
        spelt = patient_id(patient)
        if spelt in self.excluded:
            return False
        return spelt in self.allowed or self.rule == "opt-out"

    def record_bytes(self, patients: Iterable[str]) -> bytes:
        """Return the state as far as it concerns these patients: input of a keyed digest."""
        return canonical_json([self.rule, sorted(p for p in patients if self.includes(p))])


def read_consent(
    path: Path, *, rule: Literal["opt-in", "opt-out"], max_age_hours: float, now: dt.datetime
) -> ConsentState:
    """Read a consent file: CSV with the columns patient_id, status, valid_until (a date or empty).

    Status `granted` allows until the end of valid_until; anything else excludes. A patient who
    stands both ways is excluded.

    Raises:
        DataError: SB-308, unreadable, older than max_age_hours, or without the three columns.
    """
    try:
        age = now - dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.UTC)
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(
                    "SB-308", f"The consent source needs the columns {', '.join(COLUMNS)}"
                )
            rows = [_clean(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError("SB-308", "The consent source cannot be read") from None
    if not -CLOCK_TOLERANCE <= age <= dt.timedelta(hours=max_age_hours):
        hours = round(age.total_seconds() / 3600)
        raise DataError(
            "SB-308",
            f"The consent source is {counted(hours, 'hour')} old; at most {max_age_hours:g} allowed",
        )
    allowed = {row["patient_id"] for row in rows if _grants(row, now.date())}
    excluded = {row["patient_id"] for row in rows if not _grants(row, now.date())}
    return ConsentState(rule, frozenset(allowed - excluded), frozenset(excluded))


def _clean(row: dict[str | None, Any]) -> dict[str, str]:
    """Return a row of the three columns; the id is spelt as in the patients' own table.

    Raises:
        DataError: SB-308; a row whose patient is not sure might be somebody's withdrawal.
    """
    cells = [row.get(name) for name in COLUMNS]
    if None in row or None in cells:
        raise DataError("SB-308", "The consent source has a row of another length than its header")
    clean = {name: str(row[name]) for name in COLUMNS}
    clean["patient_id"] = patient_id(clean["patient_id"])
    if not clean["patient_id"]:
        raise DataError("SB-308", "The consent source has a row without a patient")
    return clean


def _grants(row: dict[str, str], today: dt.date) -> bool:
    if row["status"] != "granted":
        return False
    until = row["valid_until"]
    if not until:
        return True
    try:
        return today <= dt.date.fromisoformat(until)
    except ValueError:
        return False
