"""A researcher's signing key."""

from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_protocol.keys.key_files import private_pem, write_new
from solblom_protocol.keys.public_keys import PublicKeys


def create_researcher(folder: Path, *, name: str, entropy: Callable[[str], bytes]) -> PublicKeys:
    """Write researcher.key and researcher.pub; return the public half.

    Raises:
        ConfigurationError: SB-113, there is one.
    """
    key = Ed25519PrivateKey.from_private_bytes(entropy("researcher-signing"))
    sealing = X25519PrivateKey.from_private_bytes(entropy("researcher-sealing"))
    public = PublicKeys(name, key.public_key(), sealing.public_key())
    write_new(folder / "researcher.key", private_pem(key))
    write_new(folder / "researcher.pub", public.to_bytes(), mode=0o644)
    return public
