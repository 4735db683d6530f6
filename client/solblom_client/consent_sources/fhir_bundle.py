"""A bundle of HL7 FHIR R4B Consents and Patients, as a JSON file.

A bundle that is not whole stops the round: a withdrawal may stand on the page that is missing. A patient
has several names (logical id, identifiers), and a consent may use any of them; a name that two patients
share takes part under no rule.
"""

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import Any

from solblom_client.consent_sources.fhir_consent import (
    FhirSettings,
    identifiers_of,
    logical_id,
    read_consent_resource,
)
from solblom_client.consent_sources.fhir_patients import (
    ConsentEntry,
    FhirPatient,
    names_of,
    resolve,
)
from solblom_client.consent_sources.json_stream import members
from solblom_client.consent_sources.record import (
    MAX_RECORDS,
    Person,
    Snapshot,
    add_person,
    birth_date,
    start_of,
)
from solblom_models.patient_id import patient_id
from solblom_protocol.errors import DataError

# Tuples, which compare: a list in the place of a word has no hash.
_TYPES = ("searchset", "collection")  # others hold requests, or older versions beside new
_BASE = re.compile(r"(https?://.+)/Consent/[^/]+")
_HARMLESS = ("information", "warning")


@dataclass
class _Bundle:
    """What was read of a bundle so far."""

    consents: list[ConsentEntry] = field(default_factory=list)
    patients: list[FhirPatient] = field(default_factory=list)
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
    found = resolve(bundle.consents, bundle.patients, bundle.by_reference, settings)
    return Snapshot(*found, _made(bundle.about))


def _read_entry(entry: Any, bundle: _Bundle, settings: FhirSettings) -> None:
    resource = entry.get("resource") if isinstance(entry, dict) else None
    if not isinstance(resource, dict):
        raise DataError("SB-308", "The consent source has an entry without a resource")
    search = entry.get("search")
    mode = search.get("mode", "match") if isinstance(search, dict) else "match"
    bundle.matches += mode == "match"
    kind = resource.get("resourceType")
    if kind == "Consent":
        consent = read_consent_resource(resource, settings)
        address = _patient_address(consent.reference, entry.get("fullUrl"))
        bundle.consents.append(ConsentEntry(consent, address))
    elif kind == "Patient":
        _read_patient(resource, entry.get("fullUrl"), bundle, settings)
    elif kind == "OperationOutcome":
        _check_outcome(resource)
    elif kind == "Bundle":
        raise DataError("SB-308", "The consent source has a bundle inside a bundle")
    if len(bundle.consents) > MAX_RECORDS or len(bundle.patients) > MAX_RECORDS:
        raise DataError("SB-308", f"The consent source has over {MAX_RECORDS:,} records")


def _patient_address(reference: str | None, url: Any) -> str | None:
    """Return what a relative reference means in an entry with this address; None where that says nothing.

    FHIR reads it from the address of the entry in which it stands (hl7.org/fhir/R4B/bundle.html#references).
    """
    base = _BASE.fullmatch(url) if isinstance(url, str) else None
    if reference is None or ":" in reference or base is None:
        return None
    return f"{base[1]}/Patient/{reference}"


def _check_outcome(resource: dict[str, Any]) -> None:
    """Refuse a bundle in which the server itself says that something went wrong."""
    issues = resource.get("issue")
    for issue in issues if isinstance(issues, list) else [None]:
        if not isinstance(issue, dict) or issue.get("severity") not in _HARMLESS:
            raise DataError("SB-308", "The consent source reports an error of its server")


def _read_patient(
    resource: dict[str, Any], url: Any, bundle: _Bundle, settings: FhirSettings
) -> None:
    text = resource.get("id")
    logical = patient_id(text) if isinstance(text, str) else ""
    identifiers = identifiers_of(resource.get("identifier"))
    names = names_of(logical, identifiers, settings)
    dead = [resource.get("deceasedBoolean", False), resource.get("deceasedDateTime", False)]
    born = resource.get("birthDate")
    person = Person(
        any(value is not False for value in dead),  # a date, true, or what nobody can read
        birth_date(born) if isinstance(born, str) else None,
    )
    merged = _merged(resource.get("link"))
    # An address has a colon, and a logical id has none.
    address = url if isinstance(url, str) and ":" in url else None
    references = [text for text in (logical, address) if text]
    found = FhirPatient(names, person, merged, address if _is_web(address) else None)
    _add_patient(found, references, bundle)


def _is_web(address: str | None) -> bool:
    return address is not None and address.startswith(("http://", "https://"))


def _add_patient(patient: FhirPatient, references: list[str], bundle: _Bundle) -> None:
    """Add a Patient, or join it with what the bundle says of the same one: the more careful of both.

    Raises:
        DataError: SB-308, the two are not the same.
    """
    places = {bundle.by_reference[text] for text in references if text in bundle.by_reference}
    if places:
        before = bundle.patients[min(places)]
        addresses = {before.address, patient.address} - {None}
        if len(places) > 1 or before.names != patient.names or len(addresses) > 1:
            raise DataError("SB-308", "The consent source has one Patient twice, in two ways")
        both = {"": before.person}
        add_person(both, "", patient.person)
        bundle.patients[min(places)] = FhirPatient(
            patient.names,
            both[""],
            before.merged + patient.merged,
            before.address or patient.address,
        )
    else:
        bundle.patients.append(patient)
    place = min(places, default=len(bundle.patients) - 1)
    bundle.by_reference |= dict.fromkeys(references, place)


def _merged(links: Any) -> tuple[str, ...]:
    """Return all that names a record with which a Patient was merged; `?` for one that cannot be read."""
    found: list[str] = []
    for link in links if isinstance(links, list) else [] if links is None else [links]:
        if isinstance(link, dict) and link.get("type") == "seealso":
            continue
        other = link.get("other") if isinstance(link, dict) else None
        target = other.get("reference") if isinstance(other, dict) else None
        if isinstance(target, str):
            found += [target, logical_id(target)]
        if isinstance(other, dict):
            found += [value for _, value in identifiers_of([other.get("identifier")])]
        found.append("?")  # merged, whatever the link says
    return tuple(found)


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
