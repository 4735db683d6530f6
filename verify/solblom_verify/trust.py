"""The trust file: whose signatures count, how many are needed, and until when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_verify.canonical import CanonicalError, parse_json
from solblom_verify.envelope import EnvelopeError, key_id, public_key_from_pem
from solblom_verify.shape import JsonObject, ShapeError

__all__ = [
    "HOME_MARKER",
    "SCHEMA",
    "Trust",
    "TrustError",
    "TrustedKey",
    "load_trust",
    "trust_file_of_home",
]

SCHEMA = "solblom.trust/1"
HOME_MARKER = "solblom.toml"  # stands in the folder of a coordinator, and nowhere else
_MAX_BYTES = 1024 * 1024
_ROLE = re.compile(r"coordinator|steward")


class TrustError(ValueError):
    """A trust file cannot be used, for the reason given."""


@dataclass(frozen=True)
class TrustedKey:
    """A key whose signature counts, and whose it is."""

    keyid: str
    name: str
    role: str  # coordinator | steward
    public_key: Ed25519PublicKey


@dataclass(frozen=True)
class Trust:
    """The keys that an auditor trusts, received outside the artefact they judge."""

    version: int
    expires: datetime
    threshold: int
    keys: tuple[TrustedKey, ...]

    @property
    def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """The keys by key id."""
        return {key.keyid: key.public_key for key in self.keys}


def trust_file_of_home(artefact: Path) -> Path:
    """Return the trust file of the Solblom folder in which an artefact stands, HOME/models/ARTEFACT.

    Elsewhere there is no default: whoever sent a model could have sent a trust file beside it.

    Raises:
        TrustError: the artefact stands in no Solblom folder.
    """
    models = artefact.resolve().parent
    if models.name != "models" or not (models.parent / HOME_MARKER).is_file():
        raise TrustError(
            f"No trust file was given, and {artefact} does not stand in a Solblom folder "
            f"(models/ beside {HOME_MARKER})"
        )
    return models.parent / "trust.json"


def load_trust(path: Path) -> Trust:
    """Read a trust file.

    Raises:
        TrustError: the file cannot be read or has another form; a key id is not that of its key;
            a key stands twice; the threshold is below 1 or above the number of keys.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        return _read_trust(JsonObject.of(parse_json(data, max_bytes=_MAX_BYTES), "trust"))
    except OSError as error:
        raise TrustError(f"{path} cannot be read: {error.strerror}") from error
    except (CanonicalError, ShapeError, EnvelopeError) as error:
        raise TrustError(f"{path}: {error}") from error


def _read_trust(members: JsonObject) -> Trust:
    members.only({"schema", "version", "expires", "threshold", "keys"})
    if members.text("schema") != SCHEMA:
        raise ShapeError(f"trust.schema is not {SCHEMA}")
    keys = tuple(_read_key(entry) for entry in members.objects("keys"))
    if len({key.keyid for key in keys}) != len(keys):
        raise ShapeError("trust.keys holds a key twice")
    version, threshold = members.get("version", int), members.get("threshold", int)
    if version < 1:
        raise ShapeError(f"trust.version must be at least 1, got {version}")
    if not 1 <= threshold <= len(keys):
        raise ShapeError(f"trust.threshold must be 1 to {len(keys)} (the keys), got {threshold}")
    return Trust(version, members.time("expires"), threshold, keys)


def _read_key(entry: JsonObject) -> TrustedKey:
    entry.only({"keyid", "name", "role", "public_key"})
    public = public_key_from_pem(entry.text("public_key"))
    if entry.text("keyid") != key_id(public):
        raise ShapeError(f"{entry.where}.keyid is not the id of its public key")
    return TrustedKey(
        keyid=entry.text("keyid"),
        name=entry.text("name"),
        role=entry.text("role", like=_ROLE),
        public_key=public,
    )
