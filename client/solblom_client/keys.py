"""The node's keys, and the one rule by which noise and sampling follow from them (privacy.md rule 3).

    stream key = HKDF-SHA256(study root, info = "solblom/<purpose>/v1" ‖ work digest)

Same work → same key → same bytes; any other work → independent noise. The root is random, one per
study, made at approval, never sent, and worth all raw gradients: whoever has it can subtract the
noise (rule 12).
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from solblom_protocol.keys.key_files import (
    private_pem,
    read_sealing_key,
    read_secret,
    read_signing_key,
    write_new,
)
from solblom_protocol.keys.public_keys import PublicKeys

SECRET_BYTES = 32

Entropy = Callable[[str], bytes]
"""Gives 32 secret bytes for a label. `os.urandom` everywhere except in a simulation."""


@dataclass(frozen=True)
class NodeKeys:
    """The node's long-lived secrets."""

    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey
    split: bytes  # decides who is a test patient, for ever

    def public(self, site: str) -> PublicKeys:
        """Return what the coordinator may know."""
        return PublicKeys(site, self.signing.public_key(), self.sealing.public_key())


def random_entropy(label: str) -> bytes:
    """Return 32 bytes from the operating system, whatever the label."""
    return os.urandom(SECRET_BYTES)


def create_node_keys(state: Path, *, entropy: Entropy = random_entropy) -> NodeKeys:
    """Make the node's keys in a new state folder.

    Raises:
        ConfigurationError: SB-113, there are keys already.
    """
    folder = state / "keys"
    keys = NodeKeys(
        Ed25519PrivateKey.from_private_bytes(entropy("signing")),
        X25519PrivateKey.from_private_bytes(entropy("sealing")),
        entropy("split"),
    )
    write_new(folder / "signing.key", private_pem(keys.signing))
    write_new(folder / "sealing.key", private_pem(keys.sealing))
    write_new(folder / "split.key", keys.split)
    return keys


def read_node_keys(state: Path) -> NodeKeys:
    """Read the node's keys.

    Raises:
        ConfigurationError: SB-109.
    """
    folder = state / "keys"
    return NodeKeys(
        read_signing_key(folder / "signing.key"),
        read_sealing_key(folder / "sealing.key"),
        read_secret(folder / "split.key", length=SECRET_BYTES),
    )


def derive(
    root: bytes, purpose: Literal["sampling", "noise", "cohort", "consent"], work: str
) -> bytes:
    """Return the 32-byte key for one purpose of one piece of work (HKDF, RFC 5869)."""
    info = b"solblom/" + purpose.encode() + b"/v1\x00" + work.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(root)


def commitment(key: bytes, work: str) -> str:
    """Return the public commitment to a stream key, made before training (privacy.md rule 12)."""
    return (
        "sha256:" + hashlib.sha256(b"solblom/commitment/v1\x00" + key + work.encode()).hexdigest()
    )


def keyed_digest(key: bytes, data: bytes) -> str:
    """Return an HMAC-SHA256 as a digest: without the key, nobody can test a guess."""
    return "sha256:" + hmac.new(key, data, hashlib.sha256).hexdigest()


def is_test_patient(split_key: bytes, patient: str, test_fraction: float) -> bool:
    """Tell whether HMAC(split key, id) < test_fraction: depends on this patient's id alone (rule 4)."""
    code = hmac.digest(split_key, patient.encode(), "sha256")  # in one call: there are many
    return int.from_bytes(code[:8], "big") < int(test_fraction * 2**64)
