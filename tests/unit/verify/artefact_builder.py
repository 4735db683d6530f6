"""Writes a tiny artefact that is valid, or wrong in exactly the way a test asks for.

Loaded by conftest.py, which offers it as fixtures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id, public_key_to_pem
from solblom_verify.trust import load_trust

ATTESTATION = "attestations/model.dsse.json"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
SITES = ("innlandet", "st-olavs")
STUDY = digest(b"study")


def private_key(seed: int) -> Ed25519PrivateKey:
    """Give a key that is the same in every run."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def unchanged(_value: Any) -> None:
    """Leave a part of the artefact as it is."""


class ArtefactBuilder:
    """An artefact of two sites and two rounds; the `edit_…` hooks change a part before signing."""

    def __init__(self) -> None:
        self.coordinator = private_key(1)
        self.steward = private_key(2)
        self.attacker = private_key(9)
        self.site_keys = {site: private_key(10 + n) for n, site in enumerate(SITES)}
        self.receipt_keys = dict(self.site_keys)  # who signs each site's receipts
        self.signers = [self.coordinator, self.steward]
        self.edit_receipt: Callable[[dict[str, Any]], None] = unchanged
        self.edit_rounds: Callable[[list[dict[str, Any]]], None] = unchanged
        self.edit_manifest: Callable[[dict[str, Any]], None] = unchanged
        self.edit_statement: Callable[[dict[str, Any]], None] = unchanged

    def write(self, home: Path) -> Path:
        """Write a Solblom folder with its trust file and one artefact; give the latter."""
        folder = home / "models" / "heart-disease-v1"
        self._put(folder, "README.md", b"# Heart disease\n")
        self._put(folder, "model/architecture.json", canonical_json({"kind": "logistic"}))
        self._put(folder, "model/preprocess.json", canonical_json({"columns": ["age"]}))
        self._put(folder, "model/weights.safetensors", b"weights of the final model")
        self._put(folder, "privacy/events.json", canonical_json([]))
        self._put(folder, "privacy/statement.json", canonical_json({"unit": "patient"}))
        rounds = [self._round(folder, number) for number in (1, 2)]
        self.edit_rounds(rounds)
        lines = [canonical_json(entry) + b"\n" for entry in rounds]
        self._put(folder, "training/rounds.jsonl", b"".join(lines))
        manifest = self._manifest(folder, rounds)
        self.edit_manifest(manifest)
        self._put(folder, "manifest.json", canonical_json(manifest))
        (home / "solblom.toml").touch()
        self.write_trust(home / "trust.json")
        self.seal(folder)
        return folder

    def seal(self, folder: Path, *, signers: list[Ed25519PrivateKey] | None = None) -> None:
        """Sign a statement about the files that are in the folder now."""
        manifest = json.loads((folder / "manifest.json").read_bytes())
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {"name": name, "digest": {"sha256": self._sha256(folder / name)}}
                for name in names
                if name != ATTESTATION and not name.startswith("log/")
            ],
            "predicateType": "urn:solblom:attestation:model:1",
            "predicate": {
                "artefact": "sha256:" + self._sha256(folder / "manifest.json"),
                "name": manifest.get("name"),
                "version": manifest.get("version"),
                "created": "2026-11-22T21:00:00Z",
                "run": "run-1",
                "simulation": manifest.get("simulation"),
            },
        }
        self.edit_statement(statement)
        self.sign(folder, canonical_json(statement), signers=signers)

    def sign(
        self, folder: Path, payload: bytes, *, signers: list[Ed25519PrivateKey] | None = None
    ) -> None:
        """Put an envelope around any payload."""
        keys = self.signers if signers is None else signers
        envelope = sign_envelope(payload, "application/vnd.in-toto+json", keys)
        self._put(folder, ATTESTATION, envelope)

    def trust(self) -> dict[str, Any]:
        """Give the trust file's content: coordinator and steward, both needed."""
        keys = {"coordinator": self.coordinator, "steward": self.steward}
        return {
            "schema": "solblom.trust/1",
            "version": 1,
            "expires": "2036-01-01T00:00:00Z",
            "threshold": 2,
            "keys": [
                {
                    "keyid": key_id(key.public_key()),
                    "name": f"Helse Midt {role}",
                    "role": role,
                    "public_key": public_key_to_pem(key.public_key()),
                }
                for role, key in keys.items()
            ],
        }

    def write_trust(self, path: Path, **changes: Any) -> Path:
        """Write a trust file, with some members changed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.trust() | changes, indent=2))
        return path

    def verify(
        self, folder: Path, *, now: datetime = NOW, fresh_log: Path | None = None
    ) -> Verdict:
        """Verify as an auditor with the trust file two folders up."""
        trust = load_trust(folder.parent.parent / "trust.json")
        return verify_artefact(folder, trust, now=now, fresh_log=fresh_log)

    def _round(self, folder: Path, number: int) -> dict[str, Any]:
        base = digest(b"model %d" % (number - 1))
        results = {}
        for site in SITES:
            receipt = {
                "schema": "solblom.receipt/1",
                "site": site,
                "run": "run-1",
                "round": number,
                "study": STUDY,
                "base_model": base,
                "update": digest(f"update {number} {site}".encode()),
                "work": digest(f"work {number} {site}".encode()),
                "order": digest(f"order {number} {site}".encode()),
            }
            result = {"update": receipt["update"], "work": receipt["work"]}
            self.edit_receipt(receipt)
            envelope = sign_envelope(
                canonical_json(receipt),
                "application/vnd.solblom.receipt+json",
                [self.receipt_keys[site]],
            )
            self._put(folder, f"training/receipts/{number:03d}-{site}.dsse.json", envelope)
            results[site] = result | {"receipt": digest(envelope)}
        return {
            "round": number,
            "base": base,
            "result": digest(b"model %d" % number),
            "results": results,
            "refusals": {"nord": "SB-204"},
            "missing": [],
        }

    def _manifest(self, folder: Path, rounds: list[dict[str, Any]]) -> dict[str, Any]:
        stated = ("README.md", "model/weights.safetensors", "training/rounds.jsonl")
        return {
            "schema": "solblom.artefact/1",
            "name": "heart-disease",
            "version": "v1",
            "task": "tabular-classification",
            "simulation": True,
            "files": {
                name: {
                    "bytes": (folder / name).stat().st_size,
                    "sha256": self._sha256(folder / name),
                }
                for name in stated
            },
            "model": {
                "weights": "sha256:" + self._sha256(folder / "model/weights.safetensors"),
                "final_model": digest(b"model 2"),
            },
            "sites": {
                site: {
                    "node_key": public_key_to_pem(key.public_key()),
                    "keyid": key_id(key.public_key()),
                }
                for site, key in self.site_keys.items()
            },
            "training": {
                "run": "run-1",
                "study": STUDY,
                "aggregation": {"rule": "plain mean"},
                "rounds": [
                    {
                        "round": entry["round"],
                        "base": entry["base"],
                        "result": entry["result"],
                        "updates": {s: r["update"] for s, r in entry["results"].items()},
                    }
                    for entry in rounds
                ],
            },
            "privacy": {"sites": {site: {"epsilon": "2.98", "delta": "1e-5"} for site in SITES}},
            "environment": {"python": "3.11"},
        }

    @staticmethod
    def _put(folder: Path, name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    @staticmethod
    def _sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()
