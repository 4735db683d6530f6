"""A bundle held against R4B's published structure, by fhir.resources: for a person who sets up an export.

Not part of a round: it takes about a millisecond a resource, and its lists of codes are open (it accepts the
status `withdrawn`, which R4B has not). What lets a patient in is decided in `fhir_consent` alone.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from solblom_client.consent.sources.json_stream import members
from solblom_protocol.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Structure:
    """How many resources were held against the structure, and where they do not fit it; never whose they are.

    Attributes:
        checked: Consents and Patients.
        faults: by resource and member, such as `Consent.scope`, how many do not fit there.
    """

    checked: int
    faults: dict[str, int]


def check_structure(data: bytes) -> Structure:
    """Hold every Consent and Patient of a bundle against R4B's structure.

    Raises:
        ConfigurationError: SB-118, fhir.resources is not installed.
        DataError: SB-308, no JSON object.
    """
    models, checked, faults = _models(), 0, Counter[str]()
    try:
        for name, entry, _, _ in members(data, streamed="entry"):
            resource = entry.get("resource") if isinstance(entry, dict) else None
            if name != "entry" or not isinstance(resource, dict):
                continue
            kind = resource.get("resourceType")
            if kind not in models:
                continue
            checked += 1
            faults.update({f"{kind}.{member}" for member in _misfits(models[str(kind)], resource)})
    except (ValueError, RecursionError):
        raise DataError("SB-308", "The consent source is not a FHIR bundle in JSON") from None
    return Structure(checked, dict(sorted(faults.items())))


def _models() -> dict[str, Any]:
    try:
        from fhir.resources.R4B.consent import Consent
        from fhir.resources.R4B.patient import Patient
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "The structure of FHIR resources is checked by the package fhir.resources",
            'pip install "solblom-client[fhir]"',
        ) from None
    return {"Consent": Consent, "Patient": Patient}


def _misfits(model: Any, resource: dict[str, Any]) -> set[str]:
    """Return the members that do not fit; a member that R4B has not is one `unknown member`, unnamed."""
    from pydantic import ValidationError

    known = {field.alias or name for name, field in model.model_fields.items()}
    validate: Callable[[Any], Any] = model.model_validate
    try:
        validate(resource)
    except ValidationError as error:
        firsts = [detail["loc"][0] if detail["loc"] else "" for detail in error.errors()]
        return {str(first) if first in known else "unknown member" for first in firsts}
    return set()
