"""An issuer of permits whom a test can turn hostile, and tokens that no honest issuer would make."""

import base64
import datetime as dt
import hashlib
import hmac
import json
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import LabHospital
from security.observer import Observer
from solblom_client.approvals.approval import approve
from solblom_client.approvals.record import (
    APPROVAL_PAYLOAD_TYPE,
    approval_folder,
    read_record,
)
from solblom_client.keys import read_node_keys
from solblom_protocol.messages.message import as_json
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.permits.issuer import Issuer
from solblom_protocol.permits.issuing import Terms, permit_for
from solblom_protocol.permits.permit import PERMIT_TYPE, Permit
from solblom_protocol.permits.revocations import REVOCATIONS_TYPE
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id

DAY = 86_400
TERMS = Terms(sites=("north", "south"), days=30, rounds=6, runs=2, min_cohort=10)
JTI = "permit-of-the-laboratory"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(
    key: Ed25519PrivateKey, claims: bytes | dict[str, Any], header: bytes | dict[str, Any]
) -> bytes:
    """Sign any claims under any header, byte for byte."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{b64(head)}.{b64(body)}".encode()
    return signed + b"." + b64(key.sign(signed)).encode()


def mac_token(secret: bytes, claims: dict[str, Any], header: dict[str, Any]) -> bytes:
    """Authenticate claims with HMAC under a secret that everybody knows."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}".encode()
    return signed + b"." + b64(hmac.new(secret, signed, hashlib.sha256).digest()).encode()


@dataclass
class LabIssuer:
    """An issuer with a real key."""

    name: str = "https://hdab.example.no"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> Issuer:
        return Issuer.of(self.name, self.key.public_key())

    def header(self, kind: str = PERMIT_TYPE, **changes: Any) -> dict[str, Any]:
        return {"alg": "Ed25519", "typ": kind, "kid": self.public.key_id} | changes

    def permit(
        self, document: StudyDocument, hospital: LabHospital, *, jti: str = JTI, **terms: Any
    ) -> Permit:
        now = int(hospital.clock().timestamp())
        return permit_for(document, replace(TERMS, **terms), issuer=self.name, jti=jti, now=now)

    def claims(
        self, document: StudyDocument, hospital: LabHospital, **terms: Any
    ) -> dict[str, Any]:
        """Return honest claims as plain values, ready to be changed."""
        claims: dict[str, Any] = as_json(self.permit(document, hospital, **terms))
        return claims

    def sign(self, claims: bytes | dict[str, Any], **header: Any) -> bytes:
        return token(self.key, claims, self.header(**header))

    def revocations(self, hospital: LabHospital, *revoked: str, age: int = 0) -> bytes:
        """Return a list that was made `age` seconds ago."""
        made = int(hospital.clock().timestamp()) - age
        claims = {"v": 1, "iss": self.name, "iat": made, "revoked": sorted(revoked)}
        return self.sign(claims, kind=REVOCATIONS_TYPE)


@dataclass
class PermitLab:
    """A hospital that needs permits, a study, and their issuer."""

    observer: Observer
    issuer: LabIssuer
    study: StudyDocument

    @property
    def hospital(self) -> LabHospital:
        return self.observer.hospital

    def honest(self, **terms: Any) -> bytes:
        return self.issuer.sign(self.issuer.claims(self.study, self.hospital, **terms))

    def approve(self, permit: bytes | None) -> None:
        hospital = self.hospital
        keys = read_node_keys(hospital.config.state)
        approve(
            hospital.config, keys, hospital.sign(self.study), now=hospital.clock(), permit=permit
        )

    def publish(self, *revoked: str, age: int = 0) -> None:
        self.write_list(self.issuer.revocations(self.hospital, *revoked, age=age))

    def write_list(self, data: bytes) -> None:
        (self.hospital.folder / "revocations.jws").write_bytes(data)

    def force(self, permit: bytes) -> None:
        """Put a permit beside the approval as if a person had approved with it: the gate is on its own."""
        hospital = self.hospital
        folder, keys = (
            approval_folder(hospital.config, self.study.digest),
            read_node_keys(hospital.config.state),
        )
        record = read_record(folder / "approval.dsse.json", keys)
        forced = record.model_copy(update={"permit": digest(permit), "root_until": None})
        (folder / "permit.jws").write_bytes(permit)
        (folder / "approval.dsse.json").write_bytes(
            sign_envelope(forced.payload(), APPROVAL_PAYLOAD_TYPE, [keys.signing])
        )

    def assert_refused(self, code: str, because: str, **order: Any) -> None:
        """Check a refusal before any row: its code outside, its code and its reason in the site's log."""
        self.observer.assert_refused(self.hospital.order(self.study, **order), code)
        self.assert_logged(code, because)

    def assert_logged(self, code: str, because: str) -> None:
        lines = [line for line in self.observer.log() if line["event"] == f"refused {code}"]
        assert lines, f"{code} is not in the site's log"
        assert any(because in line["trace"] for line in lines), lines[-1]["trace"][-300:]

    def next_round(self, number: int, **delta: float) -> dict[str, Any]:
        self.hospital.clock.advance(**delta)
        return {"round": number}

    def root(self) -> bool:
        folder = approval_folder(self.hospital.config, self.study.digest)
        return (folder / "noise.root").exists()


def seconds(moment: dt.datetime) -> int:
    return int(moment.timestamp())


__all__ = ["DAY", "JTI", "LabIssuer", "PermitLab", "b64", "key_id", "mac_token", "seconds", "token"]
