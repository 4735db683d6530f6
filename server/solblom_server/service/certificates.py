"""The coordinator's certificates: an authority of its own, and the certificate that hospitals see.

Hospitals pin the authority (it travels in the signed invitation), so no public authority can speak
in the coordinator's name. An operator who has a certificate already puts it into tls/ instead.

tls/authority.pem  tls/authority.key  tls/server.pem  tls/server.key  tls/inside.pem  tls/inside.key
"""

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import write_new

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # as public authorities do; renewed by `coordinator start`
RENEW_DAYS = 30
LOOPBACK = ("127.0.0.1", "localhost")
FOLDER = "tls"


def create_certificates(home: Path, host: str, *, now: dt.datetime) -> None:
    """Make the authority and both certificates of a coordinator that answers at `host`.

    Raises:
        ConfigurationError: SB-113, there are some.
    """
    folder = home / FOLDER
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Solblom coordinator authority")])
    authority = (
        _builder(name, name, key.public_key(), days=AUTHORITY_DAYS, now=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    write_new(folder / "authority.key", _private(key))
    write_new(folder / "authority.pem", authority.public_bytes(Encoding.PEM), mode=0o644)
    _issue(folder, "server", [host, *LOOPBACK], now=now)
    _issue(folder, "inside", list(LOOPBACK), now=now)


def renew_certificates(home: Path, *, now: dt.datetime) -> list[str]:
    """Make anew what ends within RENEW_DAYS, for the same hosts; return which. Needs the authority's key."""
    folder, renewed = home / FOLDER, []
    for name in ("server", "inside"):
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        soon = certificate.not_valid_after_utc - now < dt.timedelta(days=RENEW_DAYS)
        if soon and (folder / "authority.key").is_file() and _is_ours(folder, certificate):
            for suffix in ("pem", "key"):
                (folder / f"{name}.{suffix}").unlink()
            _issue(folder, name, _hosts(certificate), now=now)
            renewed.append(name)
    return renewed


def read_authority(home: Path) -> str:
    """Return the authority's certificate as PEM.

    Raises:
        ConfigurationError: SB-109.
    """
    path = home / FOLDER / "authority.pem"
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise ConfigurationError("SB-109", f"{path} cannot be read: {error.strerror}") from None


def _issue(folder: Path, name: str, hosts: list[str], *, now: dt.datetime) -> None:
    """Write a server certificate for these hosts, signed by the authority."""
    authority = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
    signer = load_pem_private_key((folder / "authority.key").read_bytes(), password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("SB-109", f"{folder / 'authority.key'} is no EC key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    certificate = (
        _builder(subject, authority.subject, key.public_key(), days=SERVER_DAYS, now=now)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, SHA256())
    )
    write_new(folder / f"{name}.key", _private(key))
    write_new(folder / f"{name}.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    days: int,
    now: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # hospitals' clocks differ
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _hosts(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _is_ours(folder: Path, certificate: x509.Certificate) -> bool:
    authority = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
    return certificate.issuer == authority.subject


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
