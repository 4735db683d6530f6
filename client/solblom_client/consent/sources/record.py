"""What every source of consent gives, whatever its format: records about patients, and what it knows of them.

A source says what stands in it. Whether that lets a patient in today is decided in `consent_rules`.
"""

import calendar
import datetime as dt
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

Verdict = Literal["granted", "withdrawn", "not-active", "other-purpose", "narrowed", "unclear"]
"""What one record says of the study's purpose, whatever the day. Doubt is `unclear`, and excludes."""

MAX_RECORDS = 2_000_000  # consents or patients of one source
_CACHED_DATES = 65_536  # the same days stand in a source again and again
_PARTIAL = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)


class ConsentRecord(NamedTuple):
    """One record of a source.

    Attributes:
        patient: the id in its one spelling.
        starts: from when on it holds; None: always.
        ends: first moment at which it no longer holds; None: never.
        guardian: whether somebody else gave it for the patient.
        guardian_until_age: the age at which it then ends; None: as node.toml says.
    """

    patient: str
    verdict: Verdict
    starts: dt.datetime | None = None
    ends: dt.datetime | None = None
    guardian: bool = False
    guardian_until_age: int | None = None


class BirthDate(NamedTuple):
    """The first and the last day on which a patient may have been born: a source may give a year alone."""

    earliest: dt.date
    latest: dt.date


class Person(NamedTuple):
    """What a source knows of a patient besides consent. `born` None: unknown, or told in two ways."""

    deceased: bool
    born: BirthDate | None


@dataclass(frozen=True)
class Snapshot:
    """A source at one moment. Its text form names no patient.

    Attributes:
        records: every record, in the order of the source.
        people: what is known of a patient, by id.
        doubtful: ids that two different patients share; they take part under no rule.
        made: when the source itself says that it was made; the oldest where it says so twice.
    """

    records: tuple[ConsentRecord, ...] = field(repr=False)
    people: dict[str, Person] = field(repr=False)
    doubtful: frozenset[str] = field(default=frozenset(), repr=False)
    made: tuple[dt.datetime, ...] = ()


def add_person(people: dict[str, Person], patient: str, person: Person) -> None:
    """Note what a source says of a patient; where it says two things, the more careful one holds."""
    before = people.get(patient)
    if before is not None:
        born = person.born if person.born == before.born else None
        person = Person(before.deceased or person.deceased, born)
    people[patient] = person


person = lru_cache(maxsize=_CACHED_DATES)(Person)
"""A Person that many patients may share: most are alive, and share days of birth."""


@lru_cache(maxsize=_CACHED_DATES)
def birth_date(text: str) -> BirthDate | None:
    """Return YYYY, YYYY-MM or YYYY-MM-DD as the days that it may mean; None where it is none of them."""
    days = _days(text)
    return None if days is None else BirthDate(*days)


@lru_cache(maxsize=_CACHED_DATES)
def start_of(text: str, zone: str = "UTC") -> dt.datetime | None:
    """Return the first moment of a date or an instant (FHIR dateTime); None where it is neither.

    A day begins when it does in the time zone.
    """
    days = _days(text)
    return _instant(text) if days is None else _midnight(days[0], zone)


@lru_cache(maxsize=_CACHED_DATES)
def end_of(text: str, zone: str = "UTC") -> dt.datetime | None:
    """Return the first moment after a date or an instant, which is part of the period; None where it is neither."""
    days = _days(text)
    try:
        if days is not None:
            return _midnight(days[1] + dt.timedelta(days=1), zone)
        instant = _instant(text)
        return None if instant is None else instant + dt.timedelta(seconds=1)
    except OverflowError:  # the last day of the year 9999
        return dt.datetime.max.replace(tzinfo=dt.UTC)


def _days(text: str) -> tuple[dt.date, dt.date] | None:
    match = _PARTIAL.fullmatch(text)
    if match is None:
        return None
    year, month, day = match.groups()
    try:
        first = dt.date(int(year), int(month or 1), int(day or 1))
        if day is not None:
            return first, first
        if month is None:
            return first, dt.date(first.year, 12, 31)
        return first, first.replace(day=calendar.monthrange(first.year, first.month)[1])
    except ValueError:
        return None


def _instant(text: str) -> dt.datetime | None:
    """Return an instant with its offset; one without is refused, as FHIR says."""
    if _INSTANT.fullmatch(text) is None:
        return None
    try:
        # Python 3.11 reads at most six digits of a second.
        return dt.datetime.fromisoformat(re.sub(r"(\.[0-9]{6})[0-9]+", r"\1", text)).astimezone(
            dt.UTC
        )
    except (ValueError, OverflowError):
        return None


def _midnight(day: dt.date, zone: str) -> dt.datetime:
    """Return when a day begins, in UTC; where summer time leaves midnight out, the moment that it would have been."""
    here = dt.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    try:
        return here.astimezone(dt.UTC)
    except OverflowError:  # the first day of the year 1
        return dt.datetime.min.replace(tzinfo=dt.UTC)
