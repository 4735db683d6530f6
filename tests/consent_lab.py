"""FHIR R4B bundles of made-up consents: one that lets its patient in, and what tests change in it."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest

from lab import NOW
from solblom_client.consent.join import ConsentState, read_consent
from solblom_client.consent.rules import AgeRules
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_protocol.errors import DataError

Rule = Literal["opt-in", "opt-out"]
BOTH_RULES = pytest.mark.parametrize("rule", ["opt-in", "opt-out"])
RESEARCH = FhirSettings(frozenset(["HRESCH"]))
SYSTEM = "urn:oid:2.16.578.1.12.4.1.4.1"
DROP = object()
Resource = dict[str, Any]


def coded(code: str, system: str = "http://terminology.hl7.org/CodeSystem/x") -> Resource:
    return {"coding": [{"system": system, "code": code}]}


def permit(**changes: Any) -> Resource:
    provision: Resource = {
        "type": "permit",
        "period": {"start": "2024-01-01", "end": "2030-12-31"},
        "purpose": [{"system": "v3-ActReason", "code": "HRESCH"}],
    }
    return merged(provision, changes)


def consent(who: str = "ola", **changes: Any) -> Resource:
    """Return a consent that lets somebody in, with changed members; DROP leaves one out."""
    resource: Resource = {
        "resourceType": "Consent",
        "status": "active",
        "scope": coded("research"),
        "category": [coded("59284-0", "http://loinc.org")],
        "patient": {"reference": f"Patient/{who}"},
        "dateTime": "2024-01-01",
        "provision": permit(),
    }
    return merged(resource, changes)


def merged(resource: Resource, changes: Resource) -> Resource:
    return {name: value for name, value in (resource | changes).items() if value is not DROP}


def patient(name: str = "ola", **changes: Any) -> Resource:
    return merged({"resourceType": "Patient", "id": name, "birthDate": "1970-06-01"}, changes)


def bundle(*resources: Resource, **changes: Any) -> Resource:
    entries = [{"resource": resource} for resource in resources]
    return merged({"resourceType": "Bundle", "type": "collection", "entry": entries}, changes)


def read_bytes(
    path: Path,
    data: bytes,
    *,
    rule: Rule = "opt-in",
    settings: FhirSettings = RESEARCH,
    ages: AgeRules = AgeRules(),  # noqa: B008 - frozen
    age: float = 0,
) -> ConsentState:
    file = path / "consent.json"
    file.write_bytes(data)
    written = NOW.timestamp() - 3600 * age
    os.utime(file, (written, written))
    return read_consent(
        file, rule=rule, max_age_hours=24, now=NOW, kind="fhir", fhir=settings, ages=ages
    )


def read(path: Path, *resources: Resource, **options: Any) -> ConsentState:
    return read_bytes(path, json.dumps(bundle(*resources)).encode(), **options)


def refusal(path: Path, value: Any, **options: Any) -> str:
    """Return the message of a source that stops the round."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(DataError) as caught:
        read_bytes(path, data, **options)
    assert caught.value.code == "SB-308"
    return f"{caught.value.message} {caught.value.hint}"
