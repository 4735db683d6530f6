"""An observer beside a laboratory hospital: what crosses to the coordinator, and when patient rows are read.

Nothing of the vault is replaced. `open_source` is wrapped to note the ledger at the moment of each read.
"""

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from lab import LabHospital
from solblom_client import vault as vault_module
from solblom_client.policy import load_node_config
from solblom_protocol.messages.message import unframe
from solblom_protocol.messages.order import ORDER_PAYLOAD_TYPE, seal_order
from solblom_protocol.messages.result import REFUSAL_PAYLOAD_TYPE, Refusal, Result
from solblom_protocol.messages.seal import lock, unseal
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import JsonValue, canonical_json
from solblom_verify.envelope import key_id, open_envelope

PLANTED = "SECRET-PATIENT-0042"
REFUSAL_MEMBERS = {"schema", "site", "node", "order", "code"}
WORDS_OF_EXCEPTIONS = (b"Error", b"Traceback", b"patients.csv", b"consent.csv", b"solblom_client")


@dataclass
class Observer:
    """A hospital under attack, and a record of every read of its patients' rows."""

    hospital: LabHospital
    reads: list[list[str]] = field(default_factory=list)  # status of all charges at each read
    refusals: list[bytes] = field(default_factory=list)  # sealed, as they left

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note the ledger whenever the vault opens the table."""
        real = vault_module.open_source

        def noting(*args: Any, **kwargs: Any) -> Any:
            statuses: list[str] = []
            self.reads.append(statuses)  # noted even where the ledger cannot be read
            statuses += [e.status for e in self.hospital.vault.ledger.entries()]
            return real(*args, **kwargs)

        monkeypatch.setattr(vault_module, "open_source", noting)

    def assert_refused(self, sealed: bytes, code: str, *, named: bool = True) -> None:
        """Check a refusal that depends on no data: the code and no other word, no charge, no read."""
        charges, reads = self.hospital.charges(), len(self.reads)
        payload = self.refusal(sealed)
        assert payload["code"] == code
        assert (payload["order"] is not None) == named
        assert self.hospital.charges() == charges, "a refusal without data must not be charged"
        assert len(self.reads) == reads, "patient rows were read before the reservation"

    def assert_data_refused(self, sealed: bytes) -> None:
        """Check a refusal that depends on data: one outside code, and every read under a reservation."""
        reads = len(self.reads)
        assert self.refusal(sealed)["code"] == "SB-209"
        assert all("reserved" in statuses for statuses in self.reads[reads:])
        assert "reserved" in [e.status for e in self.hospital.vault.ledger.entries()]

    def refusal(self, sealed: bytes) -> dict[str, Any]:
        """Return the payload of a refusal, checked to carry nothing but the code."""
        hospital = self.hospital
        reply = hospital.vault.process(sealed)
        assert isinstance(hospital.read(reply), Refusal), "an update left the hospital"
        self.refusals.append(reply)
        plain = unseal(reply, kind="reply", key=hospital.coordinator.sealing)
        envelope, array = unframe(plain)
        signer = hospital.public.signing
        payload = open_envelope(
            envelope, payload_type=REFUSAL_PAYLOAD_TYPE, keys={key_id(signer): signer}
        ).payload
        members: dict[str, Any] = json.loads(payload)
        assert array == b"", "a refusal carries no array"
        assert set(members) == REFUSAL_MEMBERS
        assert (members["site"], members["node"]) == (hospital.site, hospital.public.key_id)
        self.assert_silent(plain + payload)
        return members

    def assert_silent(self, crossed: bytes) -> None:
        """Check that no patient, file name or word of an exception is in bytes that crossed."""
        ids = [row["patient_id"].encode() for row in self.hospital.rows]
        last = self.log()[-1] if self.log() else {}
        message = str(last.get("trace", "")).strip().rpartition(": ")[2].encode()
        for secret in (PLANTED.encode(), *ids, *WORDS_OF_EXCEPTIONS, message):
            assert not secret or secret not in crossed, f"{secret!r} left the hospital"

    def crossed(self, reply: bytes) -> bytes:
        """Return everything that a reply tells the coordinator, base64 undone."""
        hospital = self.hospital
        plain = unseal(reply, kind="reply", key=hospital.coordinator.sealing)
        opened = hospital.read(reply)
        return (
            plain + repr(opened).encode() + (opened.update if isinstance(opened, Result) else b"")
        )

    def log(self) -> list[dict[str, Any]]:
        """Return the site's own log."""
        path = self.hospital.config.state / "log" / "vault.jsonl"
        if not path.is_file():
            return []
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a full disk cuts lines off
                lines.append(json.loads(line))
        return lines

    def strikes(self, study: str) -> int:
        """Return the data refusals of a study that the node has counted."""
        rows = self.hospital.vault._state.query(
            "SELECT count FROM strikes WHERE study = ?", (study,)
        )
        return int(str(rows[0][0])) if rows else 0

    def edit_config(self, old: str, new: str) -> None:
        """Let hospital IT change node.toml and restart the node."""
        path = self.hospital.folder / "node.toml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        self.hospital.config = load_node_config(self.hospital.folder)
        self.hospital.restart()


def forge(
    payload: JsonValue,
    array: bytes,
    *,
    key: Ed25519PrivateKey,
    recipient: X25519PublicKey,
    payload_type: str = ORDER_PAYLOAD_TYPE,
) -> bytes:
    """Sign any JSON as an order and seal it, whatever the models say."""
    envelope = sign_envelope(canonical_json(payload), payload_type, [key])
    return seal_order(envelope, lock(array), recipient=recipient).sealed
