"""The node's transport key: EC P-256, for Flower's connection only. The node's signing key certifies it at enrolment.

It proves to the coordinator's door who is there, and nothing more: orders and replies are signed and
sealed with other keys, which the link does not have.
"""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from solblom_client.policy import NodeConfig
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import write_new

FILE = "transport.key"


def create_transport_key(config: NodeConfig) -> ec.EllipticCurvePrivateKey:
    """Make the key in the link's own folder.

    Raises:
        ConfigurationError: SB-113, there is one.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(config.path(config.link.state) / FILE, pem)
    return key


def read_transport_key(config: NodeConfig) -> ec.EllipticCurvePrivateKey:
    """Read the key.

    Raises:
        ConfigurationError: SB-109.
    """
    path = config.path(config.link.state) / FILE
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ConfigurationError("SB-109", f"{path} is not a private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("SB-109", f"{path} is not an EC private key")
    return key


def public_transport_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public half as PEM: what the coordinator registers with Flower."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")
