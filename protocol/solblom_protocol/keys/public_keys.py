"""The public side of a participant: one small JSON file with a name, a signing key and a sealing key."""

import contextlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from pydantic import ConfigDict, Field

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.keys.key_files import (
    fingerprint,
    public_half,
    public_pem,
    sealing_key_from_pem,
    signing_key_from_pem,
)
from solblom_protocol.messages.message import Message, SiteName, parse_message
from solblom_protocol.permits.issuer import Issuer
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import key_id

ASK_FOR_IT = "Get the file from whom it belongs to, and compare its fingerprint by phone before you put it there"


class _PublicKeysFile(Message):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_: str = Field(alias="schema", pattern=r"^solblom\.public-keys/1$")
    name: SiteName
    signing_key: str
    sealing_key: str


@dataclass(frozen=True)
class PublicKeys:
    """A participant's name and public keys."""

    name: str
    signing: Ed25519PublicKey
    sealing: X25519PublicKey

    @property
    def key_id(self) -> str:
        """SHA-256 of the signing key: the participant's identity."""
        return key_id(self.signing)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of the file."""
        return canonical_json(
            {
                "schema": "solblom.public-keys/1",
                "name": self.name,
                "signing_key": public_pem(self.signing),
                "sealing_key": public_pem(self.sealing),
            }
        )

    @classmethod
    def read(cls, path: Path) -> "PublicKeys":
        """Read the file.

        Raises:
            ConfigurationError: SB-109.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ConfigurationError("SB-109", f"{path} is not there", ASK_FOR_IT) from None
        except OSError as error:
            raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None
        return cls.of(data, source=path)

    @classmethod
    def of(cls, data: bytes, *, source: Path) -> "PublicKeys":
        """Return what the bytes of a file say; `source` is named where they say nothing.

        Raises:
            ConfigurationError: SB-109.
        """
        try:
            return _keys_in(data, source=str(source))
        except IntegrityError:
            raise ConfigurationError("SB-109", f"{source} is not a public-keys file") from None


@lru_cache(maxsize=64)  # a vault reads the signers of its study before every order
def _keys_in(data: bytes, *, source: str) -> PublicKeys:
    value = parse_message(_PublicKeysFile, data)
    return PublicKeys(
        value.name,
        signing_key_from_pem(value.signing_key, source=source),
        sealing_key_from_pem(value.sealing_key, source=source),
    )


def read_fingerprints(path: Path) -> dict[str, str | None]:
    """Return name and fingerprints of a public-keys file, an issuer's file, or one key in PEM form.

    Raises:
        ConfigurationError: SB-109.
    """
    try:
        is_pem = path.read_bytes().lstrip().startswith(b"-----")
    except OSError as error:
        raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None
    if not is_pem:
        with contextlib.suppress(ConfigurationError):  # an issuer of permits has one key
            issuer = Issuer.read(path)
            return {"name": issuer.name, "signing": fingerprint(issuer.key), "sealing": None}
        return fingerprints(PublicKeys.read(path))
    key = public_half(path)
    signs = isinstance(key, Ed25519PublicKey)
    shown = fingerprint(key)
    return {
        "name": None,
        "signing": shown if signs else None,
        "sealing": None if signs else shown,
    }


def read_verification_key(path: Path) -> Ed25519PublicKey:
    """Return the key that checks signatures, of a public-keys file or a public key in PEM form.

    Raises:
        ConfigurationError: SB-109, neither; or a private key, which nobody should carry around.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None
    if data.lstrip().startswith(b"-----"):
        return signing_key_from_pem(data.decode("ascii", errors="replace"), source=str(path))
    return PublicKeys.read(path).signing


def fingerprints(keys: PublicKeys) -> dict[str, str | None]:
    """Return a participant's name and the fingerprints of both keys."""
    return {
        "name": keys.name,
        "signing": fingerprint(keys.signing),
        "sealing": fingerprint(keys.sealing),
    }
