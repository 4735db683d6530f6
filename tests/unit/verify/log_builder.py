"""Writes the coordinator's log beside a tiny artefact: valid, or wrong in exactly the way a test asks for."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.logs.cosignature import cosign, join_cosignatures
from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash
from solblom_protocol.logs.transparency import head_of, write_checkpoint
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id

CHECKPOINT, INCLUSION = "log/checkpoint.txt", "log/inclusion.json"
SIGNED = "2026-11-22T21:00:05Z"
COSIGNED = int(datetime(2026, 11, 22, 21, 1, tzinfo=UTC).timestamp())
STATUS_TYPE = "application/vnd.solblom.status+json"


class LogBuilder:
    """A log of receipts, one model and its decisions; `builder` is the ArtefactBuilder of the model."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.key: Ed25519PrivateKey = builder.coordinator
        self.origin = f"solblom/{key_id(self.key.public_key())[:16]}"
        self.witnesses: dict[str, Ed25519PrivateKey] = dict(builder.site_keys)
        self.cosigned = COSIGNED
        self.entries: list[dict[str, Any]] = [
            self._entry("receipt", "2026-11-22T20:00:00Z", round=n) for n in range(3)
        ]
        self.artefact = ""
        builder.edit_manifest = lambda manifest: manifest.update(log={"origin": self.origin})

    def write(self, home: Path) -> Path:
        """Write the artefact, its entry in the log, and the log's files."""
        folder: Path = self.builder.write(home)
        self.add_model(folder)
        self.entries.append(self._entry("receipt", "2026-11-22T21:00:06Z", round=9))
        self.write_files(folder)
        return folder

    def add_model(self, folder: Path, *, time: str = SIGNED, **changes: Any) -> None:
        """Log the artefact's envelope as it stands."""
        self.artefact = digest((folder / "manifest.json").read_bytes())
        envelope = digest((folder / "attestations/model.dsse.json").read_bytes())
        named = {"artefact": self.artefact, "name": "heart-disease", "version": "v1"}
        entry = self._entry("model", time, run="run-1", envelope=envelope, **named)
        self.entries.append(entry | changes)

    def add_status(
        self,
        status: str,
        *,
        key: Ed25519PrivateKey | None = None,
        time: str = "2026-11-22T21:00:30Z",
        **changes: Any,
    ) -> None:
        """Log a decision about the artefact, by the steward if nobody else is named."""
        said = {
            "schema": "solblom.status/1",
            "artefact": self.artefact,
            "name": "heart-disease",
            "version": "v1",
            "status": status,
            "reason": f"because it is {status}",
            "time": time,
        }
        payload = canonical_json(said | changes)
        signed = sign_envelope(payload, STATUS_TYPE, [key or self.builder.steward])
        entry = self._entry("status", time, artefact=self.artefact, envelope=json.loads(signed))
        self.entries.append(entry)

    def checkpoint(self) -> bytes:
        """The note over all entries, with the witnesses' cosignatures."""
        note = write_checkpoint(self.origin, head_of(self.leaves()), self.key)
        lines = [
            cosign(note, name, key, time=self.cosigned) for name, key in self.witnesses.items()
        ]
        return join_cosignatures(note, lines).encode()

    def leaves(self) -> list[bytes]:
        """The entries' bytes."""
        return [canonical_json(entry) for entry in self.entries]

    def inclusion(self) -> dict[str, Any]:
        """The content of log/inclusion.json."""
        hashes = [leaf_hash(leaf) for leaf in self.leaves()]
        found = [
            {"index": index, "entry": entry, "proof": self._proof(hashes, index)}
            for index, entry in enumerate(self.entries)
            if entry.get("artefact") == self.artefact
        ]
        size = len(self.entries)
        head = {"schema": "solblom.inclusion/1", "origin": self.origin, "size": size}
        return {**head, "entries": found}

    def write_files(self, folder: Path) -> None:
        """Write log/ of an artefact from the entries as they are now."""
        (folder / "log").mkdir(exist_ok=True)
        (folder / CHECKPOINT).write_bytes(self.checkpoint())
        (folder / INCLUSION).write_bytes(canonical_json(self.inclusion()))

    def export(self, path: Path, **changes: Any) -> Path:
        """Write the whole log, as an operator exports it."""
        note = self.checkpoint().decode()
        head = {"schema": "solblom.log-export/1", "origin": self.origin, "checkpoint": note}
        path.write_bytes(canonical_json(head | {"entries": self.entries} | changes))
        return path

    @staticmethod
    def _proof(hashes: list[bytes], index: int) -> list[str]:
        return [base64.b64encode(part).decode() for part in inclusion_proof(hashes, index)]

    @staticmethod
    def _entry(kind: str, time: str, **members: Any) -> dict[str, Any]:
        return {"schema": "solblom.log-entry/1", "kind": kind, "time": time, **members}
