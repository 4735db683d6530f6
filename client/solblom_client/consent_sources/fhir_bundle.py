"""A bundle of HL7 FHIR R4B Consents and Patients, as a JSON file.

A bundle that is not whole stops the round: a withdrawal may stand on the page that is missing. A patient
has several names (logical id, identifiers), and a consent may use any of them; a name that two patients
share takes part under no rule.
"""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from solblom_client.consent_sources.fhir_consent import (
    FhirConsent,
    FhirSettings,
    identifiers_of,
    read_consent_resource,
)
from solblom_client.consent_sources.json_stream import members
from solblom_client.consent_sources.record import (
    MAX_RECORDS,
    ConsentRecord,
    Person,
    Snapshot,
    add_person,
    birth_date,
    start_of,
)
from solblom_protocol.errors import DataError

# Tuples, which compare: a list in the place of a word has no hash.
_TYPES = ("searchset", "collection")  # others hold requests, or older versions beside new
_HARMLESS = ("information", "warning")


class _FhirPatient(NamedTuple):
    names: tuple[str, ...]
    person: Person
    merged: tuple[str, ...]  # logical ids with which the record was merged


@dataclass
class _Bundle:
    """What was read of a bundle so far."""

    consents: list[FhirConsent] = field(default_factory=list)
    patients: list[_FhirPatient] = field(default_factory=list)
    by_reference: dict[str, int] = field(default_factory=dict)  # logical id or address → patient
    about: dict[str, Any] = field(default_factory=dict)  # the bundle's own members
    matches: int = 0


def read_fhir(data: bytes, settings: FhirSettings) -> Snapshot:
    """Return what a Consent bundle says.

    Raises:
        DataError: SB-308, not such a bundle, not whole, of another version, or a consent whose patient is not
            known.
    """
    bundle = _Bundle()
    try:
        for name, value in members(data.decode("utf-8"), streamed="entry"):
            if name == "entry":
                _read_entry(value, bundle, settings)
            else:
                bundle.about[name] = value
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise DataError("SB-308", "The consent source is not a FHIR bundle in JSON") from None
    _check_whole(bundle)
    return _resolve(bundle, settings)


def _read_entry(entry: Any, bundle: _Bundle, settings: FhirSettings) -> None:
    resource = entry.get("resource") if isinstance(entry, dict) else None
    if not isinstance(resource, dict):
        raise DataError("SB-308", "The consent source has an entry without a resource")
    search = entry.get("search")
    mode = search.get("mode", "match") if isinstance(search, dict) else "match"
    bundle.matches += mode == "match"
    kind = resource.get("resourceType")
    if kind == "Consent":
        bundle.consents.append(read_consent_resource(resource, settings))
    elif kind == "Patient":
        _read_patient(resource, entry.get("fullUrl"), bundle, settings)
    elif kind == "OperationOutcome":
        _check_outcome(resource)
    elif kind == "Bundle":
        raise DataError("SB-308", "The consent source has a bundle inside a bundle")
    if len(bundle.consents) > MAX_RECORDS or len(bundle.patients) > MAX_RECORDS:
        raise DataError("SB-308", f"The consent source has over {MAX_RECORDS:,} records")


def _check_outcome(resource: dict[str, Any]) -> None:
    """Refuse a bundle in which the server itself says that something went wrong."""
    issues = resource.get("issue")
    for issue in issues if isinstance(issues, list) else [None]:
        if not isinstance(issue, dict) or issue.get("severity") not in _HARMLESS:
            raise DataError("SB-308", "The consent source reports an error of its server")


def _read_patient(
    resource: dict[str, Any], url: Any, bundle: _Bundle, settings: FhirSettings
) -> None:
    logical = resource.get("id")
    identifiers = identifiers_of(resource.get("identifier"))
    names = _names(logical if isinstance(logical, str) else None, identifiers, settings)
    dead = [resource.get("deceasedBoolean", False), resource.get("deceasedDateTime", False)]
    born = resource.get("birthDate")
    person = Person(
        any(value is not False for value in dead),  # a date, true, or what nobody can read
        birth_date(born) if isinstance(born, str) else None,
    )
    merged = _merged(resource.get("link"))
    references = [text for text in (logical, url) if isinstance(text, str)]
    places = {bundle.by_reference[text] for text in references if text in bundle.by_reference}
    if places:
        # The same resource again: the more careful of what both say.
        before = bundle.patients[min(places)]
        if len(places) > 1 or before.names != names:
            raise DataError("SB-308", "The consent source has one Patient twice, in two ways")
        both = {"": before.person}
        add_person(both, "", person)
        bundle.patients[min(places)] = _FhirPatient(names, both[""], before.merged + merged)
    else:
        bundle.patients.append(_FhirPatient(names, person, merged))
    place = min(places, default=len(bundle.patients) - 1)
    bundle.by_reference |= dict.fromkeys(references, place)


def _merged(links: Any) -> tuple[str, ...]:
    """Return the logical ids of records with which a Patient was merged; `?` for one that cannot be read."""
    found = []
    for link in links if isinstance(links, list) else [] if links is None else [links]:
        if isinstance(link, dict) and link.get("type") == "seealso":
            continue
        other = link.get("other") if isinstance(link, dict) else None
        target = other.get("reference") if isinstance(other, dict) else None
        found.append(target.rpartition("/")[2] if isinstance(target, str) else "?")
    return tuple(found)


def _names(
    logical: str | None, identifiers: tuple[tuple[str | None, str], ...], settings: FhirSettings
) -> tuple[str, ...]:
    """Return every name that a patient may have in the hospital's own tables."""
    system = settings.identifier_system
    if system is not None:
        return tuple(dict.fromkeys(value for kind, value in identifiers if kind == system))
    values = (value for _, value in identifiers)
    return tuple(dict.fromkeys((*([logical] if logical else []), *values)))


def _check_whole(bundle: _Bundle) -> None:
    """Refuse a bundle that is another thing, or one page of several.

    Raises:
        DataError: SB-308.
    """
    about = bundle.about
    if about.get("resourceType") != "Bundle" or about.get("type") not in _TYPES:
        raise DataError("SB-308", "The consent source is not a FHIR searchset or collection")
    links = about.get("link", [])
    for link in links if isinstance(links, list) else [None]:
        if not isinstance(link, dict) or link.get("relation") != "self":
            raise DataError(
                "SB-308",
                "The consent source is one page of several: its bundle links to others",
                "Export all pages into one bundle",
            )
    total = about.get("total")
    if total is not None and total != bundle.matches:
        raise DataError(
            "SB-308", f"The consent source has {bundle.matches} of {total} matches: it is not whole"
        )


def _resolve(bundle: _Bundle, settings: FhirSettings) -> Snapshot:
    """Give each consent its patient's names."""
    owners: dict[str, str] = {}  # name → the patient whose it is
    doubtful: set[str] = set()
    people: dict[str, Person] = {}
    for number, patient in enumerate(bundle.patients):
        key = str(number)
        for name in patient.names:
            if owners.setdefault(name, key) != key:
                doubtful.add(name)
            add_person(people, name, patient.person)
        if patient.merged:
            doubtful.update(patient.names)
            for other in patient.merged:
                found = bundle.by_reference.get(other)
                doubtful.update([other] if found is None else bundle.patients[found].names)
    records: list[ConsentRecord] = []
    for consent in bundle.consents:
        key, names = _whose(consent, bundle, owners, settings)
        if not names:
            raise DataError("SB-308", "The consent source has a consent of an unknown patient")
        for name in names:
            if owners.setdefault(name, key) != key:
                doubtful.add(name)
            records.append(ConsentRecord(name, *consent[2:]))
    made = _made(bundle.about)
    return Snapshot(tuple(records), people, frozenset(doubtful), made)


def _whose(
    consent: FhirConsent, bundle: _Bundle, owners: dict[str, str], settings: FhirSettings
) -> tuple[str, tuple[str, ...]]:
    """Return who a consent's patient is, and by which names."""
    reference = consent.reference
    number = None if reference is None else bundle.by_reference.get(reference)
    if reference is not None and number is None:
        logical = None if reference.startswith("urn:") else reference
        names = _names(logical, consent.identifiers, settings)
        return f"Patient/{reference}", names
    own = _names(None, consent.identifiers, settings)
    if number is not None:
        return str(number), tuple(dict.fromkeys((*bundle.patients[number].names, *own)))
    # By identifier alone: a Patient of the bundle who has it, or nobody else's.
    held = [owners[name] for name in own if name in owners]
    key = held[0] if held else f"identifier/{own[0]}" if own else ""
    if key.isdigit():
        own = tuple(dict.fromkeys((*bundle.patients[int(key)].names, *own)))
    return key, own


def _made(about: dict[str, Any]) -> tuple[dt.datetime, ...]:
    """Return when the bundle says that it was made: its timestamp and meta.lastUpdated.

    Raises:
        DataError: SB-308, one of them cannot be read.
    """
    meta = about.get("meta", {})
    updated = meta.get("lastUpdated") if isinstance(meta, dict) else ""
    found = []
    for text in (about.get("timestamp"), updated):
        if text is None:
            continue
        moment = start_of(text) if isinstance(text, str) else None
        if moment is None:
            raise DataError("SB-308", "The consent source does not say clearly when it was made")
        found.append(moment)
    return tuple(found)
