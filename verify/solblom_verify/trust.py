"""The trust file: whose signatures count, how many are needed, from when and until when."""

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

SCHEMA = "solblom.trust/1"
HOME_MARKER = "solblom.toml"  # stands in the folder of a coordinator, and nowhere else
_MAX_BYTES = 1024 * 1024
_ROLE = re.compile(r"coordinator|steward")
_WITNESS = "witness"


class TrustError(ValueError):
    """A trust file cannot be used, for the reason given."""


@dataclass(frozen=True)
class TrustedKey:
    """A key whose signature counts, and whose it is; `since` and `until` are None without a limit."""

    keyid: str
    name: str
    role: str  # coordinator | steward | witness
    public_key: Ed25519PublicKey
    since: datetime | None = None
    until: datetime | None = None

    def is_valid(self, time: datetime) -> bool:
        """Tell whether the key's signature of this time counts."""
        return (self.since is None or self.since <= time) and (
            self.until is None or time < self.until
        )


@dataclass(frozen=True)
class Trust:
    """The keys that an auditor trusts, received outside the artefact they judge."""

    version: int
    expires: datetime
    threshold: int
    keys: tuple[TrustedKey, ...]
    witnesses: tuple[TrustedKey, ...] = ()  # none: the hospitals' keys in the manifest
    quorum: int | None = None  # how many must have cosigned; None: all of a run but one, above half

    @property
    def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """The keys by key id."""
        return {key.keyid: key.public_key for key in self.keys}

    def pins(self, site: str, key: Ed25519PublicKey) -> bool:
        """Tell whether this is a key of that hospital, by the trust file."""
        return any(w.name == site and w.public_key == key for w in self.witnesses)


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
    required = {"schema", "version", "expires", "threshold", "keys"}
    members.only(required, optional={"witnesses", "quorum"})
    if members.text("schema") != SCHEMA:
        raise ShapeError(f"trust.schema is not {SCHEMA}")
    keys = tuple(_read_key(entry) for entry in members.objects("keys"))
    listed = members.objects("witnesses") if "witnesses" in members.members else ()
    witnesses = tuple(_read_key(entry, role=_WITNESS) for entry in listed)
    for what, listed_keys in (("keys", keys), ("witnesses", witnesses)):
        if len({key.keyid for key in listed_keys}) != len(listed_keys):
            raise ShapeError(f"trust.{what} holds a key twice")
    version = members.get("version", int)
    if version < 1:
        raise ShapeError(f"trust.version must be at least 1, got {version}")
    quorum = _count(members, "quorum", len(witnesses)) if "quorum" in members.members else None
    threshold = _count(members, "threshold", len(keys))
    return Trust(version, members.time("expires"), threshold, keys, witnesses, quorum)


def _count(members: JsonObject, key: str, most: int) -> int:
    count = members.get(key, int)
    if not 1 <= count <= most:
        raise ShapeError(f"trust.{key} must be 1 to {most} (the keys), got {count}")
    return count


def _read_key(entry: JsonObject, *, role: str | None = None) -> TrustedKey:
    required = {"keyid", "name", "public_key"}
    if role is None:
        entry.only(required | {"role"}, optional={"from", "until"})
    else:
        entry.only(required)
    public = public_key_from_pem(entry.text("public_key"))
    if entry.text("keyid") != key_id(public):
        raise ShapeError(f"{entry.where}.keyid is not the id of its public key")
    return TrustedKey(
        keyid=entry.text("keyid"),
        name=entry.text("name"),
        role=role or entry.text("role", like=_ROLE),
        public_key=public,
        since=entry.time("from") if "from" in entry.members else None,
        until=entry.time("until") if "until" in entry.members else None,
    )
