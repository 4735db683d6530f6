"""One Consent of HL7 FHIR R4B: what it says about the study's purpose, and about whom.

Codes are checked here, against R4B's own lists (hl7.org/fhir/R4B/consent.html): parsers such as
fhir.resources accept any word as a status. An element that Solblom does not evaluate and that narrows
the permission excludes the patient, as FHIR asks of modifiers that are not understood.
"""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from solblom_client.consent.sources.record import Verdict, end_of, start_of
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
_PERIOD = frozenset(["id", "extension", "start", "end"])
_NARROWING = frozenset(
    ["actor", "action", "securityLabel", "class", "code", "dataPeriod", "data", "provision"]
)  # limits of a permission, among them exceptions to it (a provision in a provision)
_SCOPES = frozenset(["research", "patient-privacy"])  # not treatment, not advance directives
_ID = "[A-Za-z0-9.-]{1,64}"
_RELATIVE = re.compile(rf"Patient/({_ID})(?:/_history/{_ID})?")
_ADDRESS = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*:[^\s]+?)(?:/_history/{_ID})?")
_KIND = re.compile(rf"(?:^|/)([A-Za-z]+)/({_ID})(?:/_history/{_ID})?$")
_OWN = frozenset(["Patient", "Practitioner", "PractitionerRole", "Organization"])
_BASE = re.compile(r"(https?://.+)/Consent/[^/]+")
_GUARDIAN = "RelatedPerson"


@dataclass(frozen=True)
class FhirSettings:
    """What node.toml says of a FHIR source.

    Attributes:
        purposes: codes of provision.purpose, or `system|code`, one of which a consent must name; empty: any.
        identifier_system: of the identifier that is the patient's id in the hospital's own tables; None: the
            Patient's logical id and every identifier count.
        zone: the time zone of days; of a table's, too.
    """

    purposes: frozenset[str] = frozenset()
    identifier_system: str | None = None
    zone: str = "UTC"


class FhirConsent(NamedTuple):
    """A Consent before its patient is known by name.

    Attributes:
        reference: the logical id of its patient; or an address, which has a colon and must be an entry's.
        identifiers: (system, value) by which it names the patient itself.
        patient_address: what the reference means if it is read from the address of the Consent's own entry.
    """

    reference: str | None
    identifiers: tuple[tuple[str | None, str], ...]
    patient_address: str | None
    verdict: Verdict
    starts: dt.datetime | None
    ends: dt.datetime | None
    guardian: bool


def read_consent_resource(
    resource: dict[str, Any], settings: FhirSettings, *, url: Any
) -> FhirConsent:
    """Return what a Consent says, in an entry with this address.

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
    guardian = _by_guardian(resource)
    if guardian is None and verdict == "granted":
        verdict = "unclear"
    address = _patient_address(reference, url)
    return FhirConsent(reference, identifiers, address, verdict, starts, ends, bool(guardian))


def _patient_address(reference: str | None, url: Any) -> str | None:
    """Return what a relative reference means in an entry with this address; None where that says nothing.

    FHIR reads it from the address of the entry in which it stands (hl7.org/fhir/R4B/bundle.html#references).
    """
    base = _BASE.fullmatch(url) if isinstance(url, str) else None
    if reference is None or ":" in reference or base is None:
        return None
    return f"{base[1]}/Patient/{reference}"


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
        match = _RELATIVE.fullmatch(target) or _ADDRESS.fullmatch(target)
        found = None if match is None else match[1]
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
    """Return what a Consent says, and from when until when; each doubt is `unclear`.

    `other-purpose` is the one reason that a permission outweighs, so it is given to nothing in doubt.
    """
    kind = provision.get("type") if isinstance(provision, dict) else None
    if kind == "deny":
        return "withdrawn", None, None  # whatever its purpose, and whether or not it still holds
    if isinstance(provision, dict) and "provision" in provision:
        return "narrowed", None, None  # it may deny this purpose, whatever stands around it
    ours = kind == "permit" and _is_for_the_study(resource, provision, settings)
    if kind == "permit" and not ours and _is_surely_another(resource, provision, settings):
        return "other-purpose", None, None
    if resource.get("status") != "active":
        return "not-active", None, None
    if not ours or not _known(resource, _MEMBERS) or _unverified(resource):
        return "unclear", None, None
    if not _NARROWING.isdisjoint(provision):
        return "narrowed", None, None
    starts, ends, clear = _period(provision.get("period"), settings.zone)
    made = resource.get("dateTime")
    if made is not None:
        signed = start_of(made, settings.zone) if isinstance(made, str) else None
        clear = clear and signed is not None
        if signed is not None:
            starts = signed if starts is None else max(starts, signed)
    if not clear or not _known(provision, _PROVISION):
        return "unclear", None, None
    return "granted", starts, ends


def _known(members: dict[str, Any], names: frozenset[str]) -> bool:
    """Tell whether every member is of R4B and none a modifier (modifierExtension, implicitRules)."""
    if members.keys() <= names:
        return True
    return all(name in names or (name[:1] == "_" and name[1:] in names) for name in members)


def _unverified(resource: dict[str, Any]) -> bool:
    checks = resource.get("verification")
    if checks is None:
        return "verification" in resource
    if not isinstance(checks, list):
        return True
    return any(not isinstance(check, dict) or check.get("verified") is not True for check in checks)


def _is_for_the_study(
    resource: dict[str, Any], provision: dict[str, Any], settings: FhirSettings
) -> bool:
    """Tell whether a permission plainly names a scope and, where node.toml names any, a purpose of the study's."""
    scope = resource.get("scope")
    if not _names_one(scope.get("coding") if isinstance(scope, dict) else None, _SCOPES):
        return False
    return not settings.purposes or _names_one(provision.get("purpose"), settings.purposes)


def _is_surely_another(
    resource: dict[str, Any], provision: dict[str, Any], settings: FhirSettings
) -> bool:
    """Tell whether a permission is for another purpose beyond doubt.

    Without a purpose it is, in FHIR, for any. Scope and purpose must be there and be read to the last code,
    and nothing else may change what they mean. Where node.toml names no purpose, the scope decides.
    """
    scope = resource.get("scope")
    scopes = _plain_codes(scope.get("coding") if isinstance(scope, dict) else None)
    purposes = _plain_codes(provision.get("purpose"))
    if not scopes or not purposes:
        return False
    if not _known(resource, _MEMBERS) or not _known(provision, _PROVISION | _NARROWING):
        return False
    if not settings.purposes:
        return scopes.isdisjoint(_SCOPES)
    # Another system's code of the same name, or another case of it, is a doubt.
    return purposes.isdisjoint(_plain(name.rpartition("|")[2]) for name in settings.purposes)


def _plain_codes(codings: Any) -> set[str]:
    """Return the bare codes of a list of Codings; none where one of them cannot be read."""
    if not isinstance(codings, list):
        return set()
    codes = [coding.get("code") if isinstance(coding, dict) else None for coding in codings]
    if not all(isinstance(code, str) and code.strip() for code in codes):
        return set()
    return {_plain(str(code)) for code in codes}


def _plain(code: str) -> str:
    return code.strip().casefold()


def _names_one(codings: Any, wanted: frozenset[str]) -> bool:
    """Tell whether a list of Codings has one of these codes, alone or as `system|code`."""
    for coding in codings if isinstance(codings, list) else []:
        code = coding.get("code") if isinstance(coding, dict) else None
        if not isinstance(code, str) or not code:
            continue
        if code in wanted or f"{coding.get('system', '')}|{code}" in wanted:
            return True
    return False


def _period(value: Any, zone: str) -> tuple[dt.datetime | None, dt.datetime | None, bool]:
    """Return both ends of a Period, and whether it could be read; an end that is missing is open."""
    if value is None:
        return None, None, True
    if not isinstance(value, dict) or not value.keys() <= _PERIOD:
        return None, None, False
    start, end = value.get("start"), value.get("end")
    starts = start_of(start, zone) if isinstance(start, str) else None
    ends = end_of(end, zone) if isinstance(end, str) else None
    clear = (start is None or starts is not None) and (end is None or ends is not None)
    return starts, ends, clear


def _by_guardian(resource: dict[str, Any]) -> bool | None:
    """Tell whether somebody else agreed for the patient: a performer that is a RelatedPerson; None: nobody can tell.

    Each performer must say by the path of its reference, or by its type, what it is.
    """
    performers = resource.get("performer", [])
    patient = resource.get("patient")
    if not isinstance(performers, list) or not isinstance(patient, dict):
        return None
    guardian = False
    for performer in performers:
        kind = _kind(performer) if isinstance(performer, dict) else None
        if kind == _GUARDIAN:
            guardian = True
        elif kind not in _OWN or (kind == "Patient" and _is_another_patient(performer, patient)):
            return None
    return guardian


def _kind(reference: dict[str, Any]) -> str | None:
    """Return the kind of resource to which a reference points; None where it does not say, or says two."""
    target, kind = reference.get("reference"), reference.get("type")
    path = _KIND.search(target) if isinstance(target, str) else None
    named = {path[1]} if path is not None else set()
    if kind is not None:
        named.add(kind if isinstance(kind, str) else "")
    return named.pop() if len(named) == 1 else None


def _is_another_patient(performer: dict[str, Any], patient: dict[str, Any]) -> bool:
    """Tell whether a performer is not the consent's own patient, as far as both say: a mother may be a Patient too."""
    one, other = performer.get("reference"), patient.get("reference")
    if one is not None and other is not None:
        return logical_id(one) != logical_id(other)
    one, other = (identifiers_of([who.get("identifier")]) for who in (performer, patient))
    return bool(one and other) and one[0][1] != other[0][1]


def logical_id(target: Any) -> str:
    """Return the logical id at the end of a reference, or all of it."""
    path = _KIND.search(target) if isinstance(target, str) else None
    return str(target) if path is None else path[2]
