"""Private keys on disk: PEM, mode 0600, never overwritten; fingerprints that two people can compare by phone."""

import contextlib
import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from solblom_protocol.errors import ConfigurationError


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a new file with its mode set from the first byte, and sync it to disk.

    Raises:
        ConfigurationError: SB-113, the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigurationError("SB-113", f"{path} exists already") from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def private_pem(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PublicKey | X25519PublicKey) -> str:
    """Return the public key as PEM text."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key.

    Raises:
        ConfigurationError: SB-109.
    """
    key = _load_private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError("SB-109", f"{path} is not an Ed25519 private key")
    return key


def read_sealing_key(path: Path) -> X25519PrivateKey:
    """Read an X25519 private key.

    Raises:
        ConfigurationError: SB-109.
    """
    key = _load_private(path)
    if not isinstance(key, X25519PrivateKey):
        raise ConfigurationError("SB-109", f"{path} is not an X25519 private key")
    return key


def read_secret(path: Path, *, length: int) -> bytes:
    """Read a secret of exactly `length` bytes.

    Raises:
        ConfigurationError: SB-109.
    """
    data = _read(path)
    if len(data) != length:
        raise ConfigurationError("SB-109", f"{path} has {len(data)} bytes instead of {length}")
    return data


@lru_cache(maxsize=1024)  # a roster's keys are read for every order
def signing_key_from_pem(pem: str, *, source: str) -> Ed25519PublicKey:
    """Return an Ed25519 public key from PEM text.

    Raises:
        ConfigurationError: SB-109.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("SB-109", f"{source} is not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError("SB-109", f"{source} is not an Ed25519 public key")
    return key


def sealing_key_from_pem(pem: str, *, source: str) -> X25519PublicKey:
    """Return an X25519 public key from PEM text.

    Raises:
        ConfigurationError: SB-109.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("SB-109", f"{source} is not a public key in PEM form") from None
    if not isinstance(key, X25519PublicKey):
        raise ConfigurationError("SB-109", f"{source} is not an X25519 public key")
    return key


def fingerprint(key: Ed25519PublicKey | X25519PublicKey) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo in DER) in groups of four, to be read aloud.

    Of a signing key it is the key id. `openssl pkey -pubin -outform DER | sha256sum` gives the same.
    """
    text = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return " ".join(re.findall("....", text.hexdigest()))


def public_half(path: Path) -> Ed25519PublicKey | X25519PublicKey:
    """Return the public key in a PEM file, or the public half of the private one.

    Raises:
        ConfigurationError: SB-109.
    """
    data, key = _read(path), None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        if b"PRIVATE" in data:
            key = load_pem_private_key(data, password=None).public_key()
        else:
            key = load_pem_public_key(data)
    if not isinstance(key, Ed25519PublicKey | X25519PublicKey):
        raise ConfigurationError("SB-109", f"{path} holds no key of Solblom")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None


def _load_private(path: Path) -> object:
    try:
        return load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError("SB-109", f"{path} is not a private key in PEM form") from None
