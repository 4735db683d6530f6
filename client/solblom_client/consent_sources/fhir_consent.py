"""One Consent of HL7 FHIR R4B: what it says about the study's purpose, and about whom.

Codes are checked here, against R4B's own lists (hl7.org/fhir/R4B/consent.html): parsers such as
fhir.resources accept any word as a status. An element that Solblom does not evaluate and that narrows
the permission excludes the patient, as FHIR asks of modifiers that are not understood.
"""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from solblom_client.consent_sources.record import Verdict, end_of, start_of
from solblom_models.patient_id import patient_id
from solblom_protocol.errors import DataError

# Members of R4B's Consent; anything else is another version's or a misspelling.
_MEMBERS = frozenset(
    [
        "resourceType",
        "id",
        "meta",
        "language",
        "text",
        "contained",
        "extension",
        "identifier",
        "status",
        "scope",
        "category",
        "patient",
        "dateTime",
        "performer",
        "organization",
        "sourceAttachment",
        "sourceReference",
        "policy",
        "policyRule",
        "verification",
        "provision",
    ]
)
_OTHER_VERSIONS = {
    **dict.fromkeys(
        [
            "decision",
            "grantor",
            "grantee",
            "manager",
            "controller",
            "subject",
            "date",
            "regulatoryBasis",
            "policyBasis",
            "policyText",
        ],
        "R5",
    ),
    **dict.fromkeys(["except", "consentingParty"], "STU3"),
}
_OTHER_NAMES = frozenset(_OTHER_VERSIONS)
_PROVISION = frozenset(["id", "extension", "type", "period", "purpose"])
_NARROWING = frozenset(
    ["actor", "action", "securityLabel", "class", "code", "dataPeriod", "data", "provision"]
)  # limits of a permission, among them exceptions to it (a provision in a provision)
_SCOPES = frozenset(["research", "patient-privacy"])  # not treatment, not advance directives
_REFERENCE = re.compile(r"(?:^|/)Patient/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?$")


@dataclass(frozen=True)
class FhirSettings:
    """What node.toml says of a FHIR source.

    Attributes:
        purposes: codes of provision.purpose, or `system|code`, one of which a consent must name; empty: any.
        identifier_system: of the identifier that is the patient's id in the hospital's own tables; None: the
            Patient's logical id and every identifier count.
    """

    purposes: frozenset[str] = frozenset()
    identifier_system: str | None = None


class FhirConsent(NamedTuple):
    """A Consent before its patient is known by name.

    Attributes:
        reference: the logical id of its patient, or the address of an entry of the bundle.
        identifiers: (system, value) by which it names the patient itself.
    """

    reference: str | None
    identifiers: tuple[tuple[str | None, str], ...]
    verdict: Verdict
    starts: dt.datetime | None
    ends: dt.datetime | None
    guardian: bool


def read_consent_resource(resource: dict[str, Any], settings: FhirSettings) -> FhirConsent:
    """Return what a Consent says.

    Raises:
        DataError: SB-308, it is of another version of FHIR, or does not say whose it is: it might be anybody's
            withdrawal.
    """
    if not _OTHER_NAMES.isdisjoint(resource):
        name = next(name for name in resource if name in _OTHER_VERSIONS)
        raise _other_version(name, _OTHER_VERSIONS[name])
    provision = resource.get("provision")
    if isinstance(provision, list):
        raise _other_version("provision, a list", "R5")
    patient = resource.get("patient")
    reference, identifiers = _patient(patient if isinstance(patient, dict) else {})
    if reference is None and not identifiers:
        raise DataError("SB-308", "The consent source has a consent without a patient")
    verdict, starts, ends = _verdict(resource, provision, settings)
    return FhirConsent(reference, identifiers, verdict, starts, ends, _by_guardian(resource))


def _other_version(name: str, version: str) -> DataError:
    return DataError(
        "SB-308",
        f"The consent source is FHIR {version} (a Consent has `{name}`); R4B is needed",
        "Export the consents as FHIR R4B",
    )


def _patient(reference: dict[str, Any]) -> tuple[str | None, tuple[tuple[str | None, str], ...]]:
    """Return to whom a reference points: by logical id or address, and by identifier."""
    target = reference.get("reference")
    found: str | None = None
    if isinstance(target, str):
        match = _REFERENCE.search(target)
        if match is not None:
            found = match[1]
        elif target.startswith("urn:"):
            found = target
    kind = reference.get("type", "Patient")
    if (target is not None and found is None) or kind != "Patient":
        return None, ()  # a Group, a contained resource, garbage
    identifier = reference.get("identifier")
    return found, () if identifier is None else identifiers_of([identifier])


def identifiers_of(value: Any) -> tuple[tuple[str | None, str], ...]:
    """Return (system, value) of every Identifier that has a value; a value has one spelling."""
    found = []
    for item in value if isinstance(value, list) else []:
        text = item.get("value") if isinstance(item, dict) else None
        if isinstance(text, str) and patient_id(text):
            system = item.get("system")
            found.append((system if isinstance(system, str) else None, patient_id(text)))
    return tuple(found)


def _verdict(
    resource: dict[str, Any], provision: Any, settings: FhirSettings
) -> tuple[Verdict, dt.datetime | None, dt.datetime | None]:
    """Return what a Consent says, and from when until when; each doubt is `unclear`."""
    kind = provision.get("type") if isinstance(provision, dict) else None
    if kind == "deny":
        return "withdrawn", None, None  # whatever its purpose, and whether or not it still holds
    if kind == "permit" and _is_about_something_else(resource, provision, settings):
        return "other-purpose", None, None
    if resource.get("status") != "active":
        return "not-active", None, None
    if kind != "permit" or not _known(resource, _MEMBERS) or _unverified(resource):
        return "unclear", None, None
    if not _NARROWING.isdisjoint(provision):
        return "narrowed", None, None
    starts, ends, clear = _period(provision.get("period"))
    made = resource.get("dateTime")
    if made is not None:
        signed = start_of(made) if isinstance(made, str) else None
        clear = clear and signed is not None
        starts = max((moment for moment in (starts, signed) if moment is not None), default=None)
    if not clear or not _known(provision, _PROVISION):
        return "unclear", None, None
    return "granted", starts, ends


def _known(members: dict[str, Any], names: frozenset[str]) -> bool:
    """Tell whether every member is of R4B and none a modifier (modifierExtension, implicitRules)."""
    if members.keys() <= names:
        return True
    return all(name in names or (name[:1] == "_" and name[1:] in names) for name in members)


def _unverified(resource: dict[str, Any]) -> bool:
    checks = resource.get("verification", [])
    if not isinstance(checks, list):
        return True
    return any(not isinstance(check, dict) or check.get("verified") is not True for check in checks)


def _is_about_something_else(
    resource: dict[str, Any], provision: dict[str, Any], settings: FhirSettings
) -> bool:
    """Tell whether a permission is for another scope or purpose than the study's."""
    scope = resource.get("scope")
    scopes = _codes(scope.get("coding") if isinstance(scope, dict) else None)
    if not scopes & _SCOPES:
        return True
    return bool(settings.purposes) and not _codes(provision.get("purpose")) & settings.purposes


def _codes(codings: Any) -> set[str]:
    """Return the codes of a list of Codings, each alone and as `system|code`."""
    found: set[str] = set()
    for coding in codings if isinstance(codings, list) else []:
        code = coding.get("code") if isinstance(coding, dict) else None
        if isinstance(code, str) and code:
            found |= {code, f"{coding.get('system', '')}|{code}"}
    return found


def _period(value: Any) -> tuple[dt.datetime | None, dt.datetime | None, bool]:
    """Return both ends of a Period, and whether it could be read; an end that is missing is open."""
    if value is None:
        return None, None, True
    if not isinstance(value, dict) or set(value) - {"id", "extension", "start", "end"}:
        return None, None, False
    start, end = value.get("start"), value.get("end")
    starts = start_of(start) if isinstance(start, str) else None
    ends = end_of(end) if isinstance(end, str) else None
    clear = (start is None or starts is not None) and (end is None or ends is not None)
    return starts, ends, clear


def _by_guardian(resource: dict[str, Any]) -> bool:
    """Tell whether somebody else than the patient agreed: a performer that is a RelatedPerson."""
    performers = resource.get("performer")
    for performer in performers if isinstance(performers, list) else []:
        if not isinstance(performer, dict):
            continue
        target = performer.get("reference")
        named = isinstance(target, str) and "RelatedPerson/" in target
        if named or performer.get("type") == "RelatedPerson":
            return True
    return False
