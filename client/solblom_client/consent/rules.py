"""Who may take part at one moment, by what a source of consent says. Pure; each doubt excludes.

Several records of one patient: an exclusion outweighs every permission; a permission outweighs a record
about another purpose. What is known of the person (death, age) outweighs all of them.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo

from solblom_client.consent.sources.record import BirthDate, ConsentRecord, Person, Snapshot

Rule = Literal["opt-in", "opt-out"]
Reason = Literal[
    "withdrawn",  # the record says no
    "not-active",  # FHIR: a record that does not hold (draft, inactive, entered in error, unknown)
    "other-purpose",
    "narrowed",  # FHIR: a permission with limits that Solblom does not evaluate
    "unclear",
    "not-yet",
    "expired",
    "deceased",
    "too-young",
    "age-unknown",
    "guardian-ended",
]
BECAUSE_OF_TIME = frozenset({"expired", "deceased", "too-young", "guardian-ended"})
"""Reasons that nobody's will stands behind: they make no notice of a withdrawal."""

_WEAK = "other-purpose"


@dataclass(frozen=True)
class AgeRules:
    """What node.toml says about death and age; see `[consent]` in docs/reference/node-toml.md."""

    deceased: Literal["exclude", "keep"] = "exclude"
    min_age_years: int | None = None
    guardian_until_age: int = 16


def decide(
    snapshot: Snapshot, ages: AgeRules, *, now: dt.datetime, zone: str = "UTC"
) -> tuple[set[str], dict[str, Reason]]:
    """Return the patients who may take part by their records, and why others may not.

    Patients without a record are in neither, unless what is known of them excludes them. Birthdays are those of a
    time zone.
    """
    today = now.astimezone(ZoneInfo(zone)).date()
    allowed: set[str] = set()
    excluded: dict[str, Reason] = {}
    elsewhere: set[str] = set()
    people, simple = snapshot.people, ages.min_age_years is None
    for record in snapshot.records:
        patient, verdict, starts, ends, guardian, _ = record
        holds = (starts is None or starts <= now) and (ends is None or now < ends)
        if verdict == "granted" and holds and not guardian:
            allowed.add(patient)  # the common case, without a call: there are many
            continue
        reason = against_record(record, people.get(patient), ages, now=now, today=today)
        if reason is None:
            allowed.add(patient)
        elif reason == _WEAK:
            elsewhere.add(patient)
        else:
            _exclude(excluded, patient, reason)
    for patient, person in people.items():
        if simple and not person.deceased:
            continue  # the common case too
        reason = against_person(person, ages, today=today)
        if reason is not None:
            _exclude(excluded, patient, reason)
    if not simple:
        excluded |= {p: "age-unknown" for p in allowed - people.keys() - excluded.keys()}
    excluded |= {patient: "unclear" for patient in snapshot.doubtful}
    excluded |= {patient: "other-purpose" for patient in elsewhere - allowed - excluded.keys()}
    return allowed - excluded.keys(), excluded


def _exclude(excluded: dict[str, Reason], patient: str, reason: Reason) -> None:
    """Note why; of several reasons the first, but somebody's will before what time brings: notices go by it."""
    before = excluded.setdefault(patient, reason)
    if before in BECAUSE_OF_TIME:
        excluded[patient] = reason


def against_record(
    record: ConsentRecord,
    person: Person | None,
    ages: AgeRules,
    *,
    now: dt.datetime,
    today: dt.date,
) -> Reason | None:
    """Return why a record lets its patient take no part now; None where it does."""
    if record.verdict != "granted":
        return record.verdict
    if record.starts is not None and now < record.starts:
        return "not-yet"
    if record.ends is not None and now >= record.ends:
        return "expired"
    if not record.guardian:
        return None
    born = None if person is None else _born(person.born, today)
    if born is None:
        return "age-unknown"
    limit = record.guardian_until_age or ages.guardian_until_age
    # The earliest day on which the patient may have come of age: from then on it is their own to give.
    return "guardian-ended" if today >= _birthday(born.earliest, limit, late=False) else None


def against_person(person: Person, ages: AgeRules, *, today: dt.date) -> Reason | None:
    """Return why what is known of a patient lets them take no part, whatever the records say."""
    if person.deceased and ages.deceased == "exclude":
        return "deceased"
    if ages.min_age_years is None:
        return None
    born = _born(person.born, today)
    if born is None:
        return "age-unknown"
    # The latest day on which the patient may reach the age.
    return "too-young" if today < _birthday(born.latest, ages.min_age_years, late=True) else None


def _born(born: BirthDate | None, today: dt.date) -> BirthDate | None:
    """Return a day of birth that can be true: one in the future is unknown."""
    return born if born is not None and born.earliest <= today else None


def _birthday(born: dt.date, age: int, *, late: bool) -> dt.date:
    """Return the day on which somebody turns `age`; of 29 February the 28th or, `late`, 1 March."""
    year = born.year + age
    if year > dt.MAXYEAR:
        return dt.date.max
    try:
        return born.replace(year=year)
    except ValueError:
        return dt.date(year, 3, 1) if late else dt.date(year, 2, 28)
