"""One entry of a bundle, whatever stands around it: a Consent, a Patient, or something that stops the round."""

from typing import Any

from solblom_client.consent.sources.fhir_consent import (
    FhirSettings,
    identifiers_of,
    logical_id,
    read_consent_resource,
)
from solblom_client.consent.sources.fhir_patients import FhirPatient, Said, names_of
from solblom_client.consent.sources.record import birth_date, person
from solblom_models.patient_id import patient_id
from solblom_protocol.errors import DataError

_HARMLESS = (
    "information",
    "warning",
)  # a tuple, which compares: a list in the place of a word has no hash
# With the underscore: FHIR's way to say that somebody died, and that the day is not known.
_DIED = ("deceasedDateTime", "_deceasedDateTime", "_deceasedBoolean")


def read_entry(entry: Any, settings: FhirSettings) -> tuple[Said | None, bool]:
    """Return what an entry says of consent, and whether it counts as a match of the search that the bundle answers.

    Depends on nothing else: the same text always says the same.

    Raises:
        DataError: SB-308.
    """
    resource = entry.get("resource") if isinstance(entry, dict) else None
    if not isinstance(resource, dict):
        raise DataError("SB-308", "The consent source has an entry without a resource")
    search = entry.get("search")
    mode = search.get("mode", "match") if isinstance(search, dict) else "match"
    kind = resource.get("resourceType")
    said: Said | None = None
    if kind == "Consent":
        said = read_consent_resource(resource, settings, url=entry.get("fullUrl"))
    elif kind == "Patient":
        said = _read_patient(resource, entry.get("fullUrl"), settings)
    elif kind == "OperationOutcome":
        _check_outcome(resource)
    elif kind == "Bundle":
        raise DataError("SB-308", "The consent source has a bundle inside a bundle")
    return said, mode == "match"


def _check_outcome(resource: dict[str, Any]) -> None:
    """Refuse a bundle in which the server itself says that something went wrong."""
    issues = resource.get("issue")
    for issue in issues if isinstance(issues, list) else [None]:
        if not isinstance(issue, dict) or issue.get("severity") not in _HARMLESS:
            raise DataError("SB-308", "The consent source reports an error of its server")


def _read_patient(resource: dict[str, Any], url: Any, settings: FhirSettings) -> FhirPatient:
    text = resource.get("id")
    logical = patient_id(text) if isinstance(text, str) else ""
    identifiers = identifiers_of(resource.get("identifier"))
    dead = resource.get("deceasedBoolean", False)
    died = any(name in resource for name in _DIED)
    born = resource.get("birthDate")
    known = person(
        dead is not False or died,  # a date, known or not, true, or what nobody can read
        birth_date(born) if isinstance(born, str) else None,
    )
    # An address has a colon, and a logical id has none.
    address = url if isinstance(url, str) and ":" in url else None
    return FhirPatient(
        names_of(logical, identifiers, settings),
        tuple(text for text in (logical, address) if text),
        known,
        _merged(resource.get("link")),
        address if _is_web(address) else None,
    )


def _is_web(address: str | None) -> bool:
    return address is not None and address.startswith(("http://", "https://"))


def _merged(links: Any) -> tuple[str, ...]:
    """Return all that names a record with which a Patient was merged; `?` for one that cannot be read."""
    if links is None:
        return ()
    found: list[str] = []
    for link in links if isinstance(links, list) else [links]:
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
