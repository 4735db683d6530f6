"""Consent, joined anew before every round and again before the update leaves (privacy.md rules 10 and 13).

Opt-in: no record means excluded. Opt-out: no record means included. A record that is not understood
means excluded. A stale or unreadable source stops the round.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from solblom_client.consent.rules import AgeRules, Reason, Rule, decide
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.consent.sources.record import Snapshot
from solblom_client.consent.sources.source_file import parse_source, read_source_file
from solblom_models.patient_id import loose_id, patient_id
from solblom_protocol.errors import DataError
from solblom_verify.canonical import canonical_json
from solblom_verify.wording import counted

CLOCK_TOLERANCE = dt.timedelta(minutes=5)  # a source from further in the future: a wrong clock
ANY_CSV = FhirSettings()
NO_LIMITS = AgeRules()


@dataclass(frozen=True)
class ConsentState:
    """Who said what, read at one moment. Its text form names no patient.

    Attributes:
        allowed: patients whose records let them take part now.
        excluded: patients who may not, by their records or by what is known of them.
        reasons: why, for each of them.
        made: the oldest of what the source says of its own time, and the file's.
        nearly: what a spreadsheet leaves of the ids of those who may not (`loose_id`).
        min_age_years: where there is one, a patient of unknown age is excluded under either rule.
    """

    rule: Rule
    allowed: frozenset[str] = field(repr=False)
    excluded: frozenset[str] = field(repr=False)
    reasons: Mapping[str, Reason] = field(default_factory=dict, repr=False)
    made: dt.datetime | None = None
    min_age_years: int | None = None
    nearly: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def takes_in_the_absent(self) -> bool:
        """Whether a patient without a record takes part: a reservation has to be made, a consent given."""
        return self.rule == "opt-out" and self.min_age_years is None

    def includes(self, patient: str) -> bool:
        """Tell whether this patient's data may be used now, however the id is spelt."""
        return self.includes_spelt(patient_id(patient))

    def includes_spelt(self, patient: str) -> bool:
        """Tell it of an id that stands in its one spelling already."""
        if patient in self.excluded:
            return False
        if patient in self.allowed:
            return True
        # Who has no record of their own takes part; but a reservation whose id lost its zeros is somebody's.
        return self.takes_in_the_absent and loose_id(patient) not in self.nearly

    def reason(self, patient: str) -> Reason | Literal["no-record"] | None:
        """Return why a patient takes no part now; None where they may."""
        spelt = patient_id(patient)
        if self.includes_spelt(spelt):
            return None
        return self.reasons.get(spelt, "unclear" if self.takes_in_the_absent else "no-record")

    def counts(self) -> dict[str, int]:
        """Return how many patients of the source are excluded, by reason."""
        return dict(sorted(Counter(self.reasons.values()).items()))

    def record_bytes(self, patients: Iterable[str]) -> bytes:
        """Return the state as far as it concerns these patients: input of a keyed digest."""
        return canonical_json([self.rule, sorted(p for p in patients if self.includes(p))])


def read_consent(
    path: Path,
    *,
    rule: Rule,
    max_age_hours: float,
    now: dt.datetime,
    kind: Literal["csv", "fhir"] = "csv",
    fhir: FhirSettings = ANY_CSV,
    ages: AgeRules = NO_LIMITS,
) -> ConsentState:
    """Read a consent source: CSV or a FHIR R4B bundle. A patient who stands both ways is excluded.

    Raises:
        DataError: SB-308, unreadable, older than max_age_hours, or not what its kind says.
    """
    file = read_source_file(path)
    snapshot = parse_source(kind, file.data, fhir)
    made = _check_fresh(snapshot, file.changed, max_age_hours=max_age_hours, now=now)
    allowed, reasons = decide(snapshot, ages, now=now, zone=fhir.zone)
    nearly: frozenset[str] = frozenset()
    if rule == "opt-out":
        nearly = frozenset(map(loose_id, reasons))
        absent = snapshot.people.keys() - reasons.keys() - allowed
        # No record, but known: old enough where an age is asked for.
        allowed |= {patient for patient in absent if loose_id(patient) not in nearly}
    return ConsentState(
        rule,
        frozenset(allowed),
        frozenset(reasons),
        reasons,
        made,
        ages.min_age_years,
        nearly,
    )


def _check_fresh(
    snapshot: Snapshot, changed: dt.datetime, *, max_age_hours: float, now: dt.datetime
) -> dt.datetime:
    """Return when the source was made: a file copied today may hold consents of last year, so the older counts.

    Raises:
        DataError: SB-308, too old, or from the future.
    """
    moments = (changed, *snapshot.made)
    if max(moments) > now + CLOCK_TOLERANCE:
        raise DataError("SB-308", "The consent source is from the future: a clock is wrong")
    age = now - min(moments)
    if age > dt.timedelta(hours=max_age_hours):
        hours = round(age.total_seconds() / 3600)
        raise DataError(
            "SB-308",
            f"The consent source is {counted(hours, 'hour')} old; at most {max_age_hours:g} allowed",
        )
    return min(moments)
