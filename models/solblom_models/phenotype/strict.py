"""Strict validation of a phenopacket against the GA4GH schema itself, by the optional package `phenopackets`.

The reader in `phenopacket.py` takes what a study needs and counts the rest; this tells a hospital whether its
export obeys the whole schema. About 0.7 ms a case, so for a check by hand, not for every round.
"""

from enum import StrEnum

from solblom_models.phenotype.documents import json_object
from solblom_models.phenotype.reading import Reason
from solblom_protocol.errors import ConfigurationError


class StrictReason(StrEnum):
    """What the schema does not allow. Protobuf's own words are not shown: they quote the patient's values."""

    UNKNOWN_FIELD = "a field that the schema does not have"
    WRONG_VALUE = "a value that the schema does not allow"


def strict_error(document: bytes) -> Reason | StrictReason | None:
    """Return why a JSON document is not a Phenopacket v2 to the letter; None where it is.

    Raises:
        ConfigurationError: SB-118 the package is not installed.
    """
    try:
        from google.protobuf.json_format import ParseDict, ParseError
        from phenopackets.schema.v2 import Phenopacket
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "Strict validation needs the package phenopackets, which is not installed",
            "pip install 'solblom-models[phenopackets]'",
        ) from None
    found = json_object(document)
    if isinstance(found, Reason):
        return found
    try:
        ParseDict(found, Phenopacket())
    except ParseError as error:
        unknown = "has no field named" in str(error)
        return StrictReason.UNKNOWN_FIELD if unknown else StrictReason.WRONG_VALUE
    except RecursionError:
        return Reason.TOO_DEEP
    return None
