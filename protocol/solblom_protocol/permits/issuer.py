"""Who issues permits: a name and a key, pinned by a hospital as one small file.

An issuer is a data access body, an ethics committee or a data protection officer. It has no coordinator,
receives nothing sealed, and needs no sealing key.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.keys.key_files import public_pem, signing_key_from_pem
from solblom_protocol.messages.message import Message, parse_message
from solblom_verify.canonical import CanonicalError, canonical_json, read_file
from solblom_verify.envelope import key_id

IssuerName = Annotated[str, Field(pattern=r"^[!-~]{1,200}$")]  # `iss`: often a URL
MAX_ISSUER_BYTES = 4096


class _IssuerFile(Message):
    schema_: Literal["solblom.issuer/1"] = Field(alias="schema")
    issuer: IssuerName
    signing_key: str


@dataclass(frozen=True)
class Issuer:
    """An issuer's name, as its permits give it in `iss`, and the PEM text of its public key."""

    name: str
    pem: str

    @classmethod
    def of(cls, name: str, key: Ed25519PublicKey) -> "Issuer":
        """Return the issuer of a key."""
        return cls(name, public_pem(key))

    @property
    def key(self) -> Ed25519PublicKey:
        """The public key."""
        return signing_key_from_pem(self.pem, source="the issuer's file")

    @property
    def key_id(self) -> str:
        """SHA-256 of the key: the `kid` of its tokens."""
        return key_id(self.key)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of the file."""
        return canonical_json(
            {"schema": "solblom.issuer/1", "issuer": self.name, "signing_key": self.pem}
        )

    @classmethod
    def read(cls, path: Path) -> "Issuer":
        """Read the file.

        Raises:
            ConfigurationError: SB-109.
        """
        try:
            value = parse_message(_IssuerFile, read_file(path, max_bytes=MAX_ISSUER_BYTES))
        except OSError as error:
            raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None
        except (IntegrityError, CanonicalError):
            raise ConfigurationError("SB-109", f"{path} is not an issuer's file") from None
        found = cls(value.issuer, value.signing_key)
        signing_key_from_pem(found.pem, source=str(path))
        return found
