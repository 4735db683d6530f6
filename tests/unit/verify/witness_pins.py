"""Entries of a trust file that pin hospitals."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_verify.envelope import key_id, public_key_to_pem


def pinned(name: str, key: Ed25519PrivateKey) -> dict[str, str]:
    """Give the entry of a witness."""
    public = key.public_key()
    return {"keyid": key_id(public), "name": name, "public_key": public_key_to_pem(public)}
