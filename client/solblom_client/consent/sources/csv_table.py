"""Consent as CSV: patient_id, status, valid_until, and after them any of five columns more.

| column | |
|---|---|
| patient_id | as in the patients' own table |
| status | `granted` allows; any other word excludes |
| valid_until | last day of the consent, or empty |
| valid_from | first day, or empty |
| deceased | day of death; empty: alive. Anything else counts as a death |
| birth_date | YYYY, YYYY-MM or YYYY-MM-DD |
| given_by_guardian | yes, or no or empty; anything else excludes |
| guardian_until_age | age at which a guardian's consent ends; empty: as node.toml says |
"""

import csv
import datetime as dt
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from solblom_client.consent.sources.record import (
    MAX_RECORDS,
    ConsentRecord,
    Person,
    Snapshot,
    Verdict,
    add_person,
    birth_date,
    end_of,
    start_of,
)
from solblom_models.patient_id import is_rounded, patient_id
from solblom_protocol.errors import DataError

COLUMNS = ("patient_id", "status", "valid_until")
MORE_COLUMNS = ("valid_from", "deceased", "birth_date", "given_by_guardian", "guardian_until_age")
_GUARDIAN = {"yes": True, "no": False, "": False}
MAX_AGE_YEARS = 150
_ODD = re.compile(r"[\x00-\x1f\x7f]")  # at its ends a cell may have tabs, as it may have spaces


def read_csv(data: bytes, zone: str = "UTC") -> Snapshot:
    """Return what a consent table says; its days are those of a time zone.

    Raises:
        DataError: SB-308, not that table; a row whose patient is not sure might be somebody's withdrawal.
    """
    try:
        # A byte-order mark of a spreadsheet is read over.
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        more = _more_columns(next(reader, []))
        found = _read_rows(reader, more, zone)
        return found if data.endswith((b"\n", b"\r")) else _without_what_was_cut(found)
    except (UnicodeDecodeError, csv.Error):
        raise DataError("SB-308", "The consent source cannot be read") from None


def _more_columns(header: list[str]) -> tuple[str, ...]:
    """Return the columns after the first three.

    Raises:
        DataError: SB-308.
    """
    more = tuple(header[len(COLUMNS) :])
    if tuple(header[: len(COLUMNS)]) != COLUMNS:
        raise DataError("SB-308", f"The consent source needs the columns {', '.join(COLUMNS)}")
    if len(set(more)) != len(more) or not set(more) <= set(MORE_COLUMNS):
        raise DataError(
            "SB-308",
            f"After {', '.join(COLUMNS)} the consent source may have {', '.join(MORE_COLUMNS)}, each "
            "once, and nothing else",
        )
    return more


def _read_rows(reader: Iterator[list[str]], more: tuple[str, ...], zone: str) -> Snapshot:
    width = len(COLUMNS) + len(more)
    records: list[ConsentRecord] = []
    people: dict[str, Person] = {}
    cell = _cells(more)
    for row in reader:
        if not row:
            continue  # an empty line
        if len(row) != width:
            raise DataError(
                "SB-308", "The consent source has a row of another length than its header"
            )
        if not "".join(row).isprintable() and any(_ODD.search(cell.strip(" \t")) for cell in row):
            # A quote that was left open takes the next row into its cell, and that may be a withdrawal.
            raise DataError(
                "SB-308",
                "The consent source has a cell with a line break, a tab or a control character",
            )
        patient = patient_id(row[0])
        if not patient:
            raise DataError("SB-308", "The consent source has a row without a patient")
        if is_rounded(patient):
            raise DataError(
                "SB-308",
                "The consent source has a patient's id that a spreadsheet rounded, such as 1.0E+10",
                "Export it anew, with the column of ids as text",
            )
        if len(records) >= MAX_RECORDS:
            raise DataError("SB-308", f"The consent source has over {MAX_RECORDS:,} records")
        verdict, ends = _status(row[1]), None
        if row[2]:
            ends = _day(row[2], end_of, zone)
            verdict = verdict if ends is not None else _doubt(verdict)
        record = ConsentRecord(patient, verdict, None, ends)
        records.append(_with_more(record, row, cell, zone) if more else record)
        if "deceased" in cell or "birth_date" in cell:
            add_person(people, patient, _person(row, cell))
    return Snapshot(tuple(records), people)


def _without_what_was_cut(found: Snapshot) -> Snapshot:
    """Doubt the last row of a file without an end: where it was cut off, its last day, or a death, may be missing."""
    if not found.records:
        return found
    last = found.records[-1]
    return replace(
        found, records=(*found.records[:-1], last._replace(verdict=_doubt(last.verdict)))
    )


def _cells(more: tuple[str, ...]) -> dict[str, int]:
    return {name: len(COLUMNS) + number for number, name in enumerate(more)}


def _status(text: str) -> Verdict:
    return "granted" if text == "granted" else "withdrawn"


def _doubt(verdict: Verdict) -> Verdict:
    """Return a verdict of which something cannot be read: a withdrawal stays one."""
    return "unclear" if verdict == "granted" else verdict


def _day(
    text: str, bound: Callable[[str, str], dt.datetime | None], zone: str
) -> dt.datetime | None:
    """Return a bound of a whole day, YYYY-MM-DD; None where the text is something else."""
    return bound(text, zone) if len(text) == len("YYYY-MM-DD") else None


def _with_more(
    record: ConsentRecord, row: list[str], cell: dict[str, int], zone: str
) -> ConsentRecord:
    """Return a record with what the columns after the third say."""
    verdict, starts, until = record.verdict, None, None
    from_text = row[cell["valid_from"]] if "valid_from" in cell else ""
    if from_text:
        starts = _day(from_text, start_of, zone)
        verdict = verdict if starts is not None else _doubt(verdict)
    guardian = _GUARDIAN.get(row[cell["given_by_guardian"]] if "given_by_guardian" in cell else "")
    until_text = row[cell["guardian_until_age"]] if "guardian_until_age" in cell else ""
    if until_text:
        until = _age(until_text)
        verdict = verdict if until is not None else _doubt(verdict)
    if guardian is None:
        verdict = _doubt(verdict)
    return record._replace(
        verdict=verdict, starts=starts, guardian=bool(guardian), guardian_until_age=until
    )


def _age(text: str) -> int | None:
    """Return an age in whole years; None where the text is none."""
    digits = text.isascii() and text.isdigit() and len(text) <= 3
    return int(text) if digits and 0 < int(text) <= MAX_AGE_YEARS else None


def _person(row: list[str], cell: dict[str, int]) -> Person:
    deceased = bool(row[cell["deceased"]].strip()) if "deceased" in cell else False
    return Person(deceased, birth_date(row[cell["birth_date"]]) if "birth_date" in cell else None)
