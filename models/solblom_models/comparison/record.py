"""A comparison written down: canonical JSON without a clock, named by its SHA-256, so that it can be made again.

It has exact figures of one hospital's patients, without noise, so it stays there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_models.comparison.pair import RankedPair, ScoredPair
from solblom_models.json_difference import differing_paths
from solblom_protocol.errors import ConfigurationError
from solblom_verify.canonical import canonical_json, digest, parse_canonical

SCHEMA = "solblom.model.compare/1"
STAYS = "in this hospital: computed from its patients without noise"
LARGEST = 16 * 1024**2  # bytes
TOLERANCE = 1e-5
"""How far figures may be apart that another runtime worked out."""
_BESIDE = ("runtime", "code")
"""What a comparison made again may differ in; it is said."""


@dataclass(frozen=True)
class Comparison:
    """What two models say of the same input.

    Attributes:
        body: the record.
        pair: the patients; they stay out of the record.
    """

    body: dict[str, Any]
    pair: ScoredPair | RankedPair

    @property
    def record(self) -> bytes:
        """The record's bytes."""
        return canonical_json(self.body)

    @property
    def digest(self) -> str:
        """The record's name."""
        return digest(self.record)


def read_record(path: Path) -> dict[str, Any]:
    """Return a record from a file.

    Raises:
        ConfigurationError: SB-101 it cannot be read, SB-103 it is none.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigurationError("SB-103", f"{path} is no comparison: it is too large")
        value = parse_canonical(path.read_bytes())
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ConfigurationError("SB-103", f"{path} is no comparison ({SCHEMA})")
    return dict(value)


def differing_parts(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what of a comparison is not as it was; figures of another runtime may be apart by TOLERANCE."""
    same_runtime = then.get("runtime") == now.get("runtime")
    kept = [{k: v for k, v in body.items() if k not in _BESIDE} for body in (then, now)]
    return differing_paths(kept[0], kept[1], tolerance=0.0 if same_runtime else TOLERANCE)
