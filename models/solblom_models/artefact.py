"""The model artefact: a folder that anybody can check offline, years later.

`manifest.json` is the scientific identity: it holds no clock time, so the same work gives the same
manifest, and its SHA-256 is the model's digest. Everything that differs from one execution to the
next (times, receipts of particular orders) stands beside it; the signed in-toto statement covers
every file. No pickle: weights are safetensors without metadata, one byte string per model.
"""

import datetime as dt
import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import tomli_w
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from solblom_models.flat import layout_of, load_flat
from solblom_models.model_card import render_card
from solblom_models.statement import Charge, privacy_statement, site_events
from solblom_models.task import Task, find_task
from solblom_protocol.bag_contract import BagContract
from solblom_protocol.contracts import AnyContract
from solblom_protocol.errors import IntegrityError
from solblom_protocol.layout import Layout, unpack
from solblom_protocol.messages import as_json, timestamp
from solblom_protocol.result import Receipt
from solblom_protocol.signing import sign_envelope
from solblom_protocol.study import StudyDocument, parse_document
from solblom_verify.canonical import canonical_json, digest, parse_canonical

STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:solblom:attestation:model:1"
ATTESTATION = "attestations/model.dsse.json"
PACKAGES = ("torch", "opacus", "flwr", "numpy", "dp-accounting", "safetensors", "cryptography")
NOT_FOR = "Not for clinical use: a research model without conformity assessment"


@dataclass(frozen=True)
class SiteRecord:
    """A hospital's public identity."""

    node_key: str  # PEM
    keyid: str


@dataclass(frozen=True)
class RoundRecord:
    """What one round did: `receipts` are (signed envelope, content) by site."""

    round: int
    base: str
    result: str
    opened: str
    closed: str
    receipts: dict[str, tuple[bytes, Receipt]]
    refusals: dict[str, str]
    missing: list[str]


@dataclass(frozen=True)
class ArtefactContents:
    """Everything that a finished run leaves. `weights` are the flat little-endian float32 bytes."""

    document: StudyDocument
    study_envelope: bytes
    run: str
    simulation: bool
    weights: bytes
    sites: dict[str, SiteRecord]
    rounds: list[RoundRecord]
    charges: list[Charge]
    release_receipts: dict[str, bytes] = field(default_factory=dict)  # by <kind>-<number>-<site>


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use: the torch net, its task and the study it came from."""

    net: torch.nn.Module
    task: Task
    document: StudyDocument
    manifest: dict[str, Any]

    @property
    def contract(self) -> AnyContract:
        """The data contract that inputs must obey."""
        return self.document.contract


def write_artefact(
    folder: Path,
    contents: ArtefactContents,
    *,
    version: str,
    evaluation: dict[str, Any] | None,
    key: Ed25519PrivateKey,
    now: dt.datetime,
) -> str:
    """Write and sign an artefact into an empty folder; return its digest (SHA-256 of manifest.json)."""
    files = _deterministic_files(contents, evaluation)
    manifest = _manifest(contents, version, evaluation, files)
    manifest_bytes = canonical_json(manifest)
    files |= {
        "manifest.json": manifest_bytes,
        "README.md": render_card(manifest, evaluation, digest(manifest_bytes)).encode(),
        "training/rounds.jsonl": b"".join(_round_line(r) for r in contents.rounds),
    }
    for record in contents.rounds:
        for site, (envelope, _) in record.receipts.items():
            files[f"training/receipts/{record.round:03d}-{site}.dsse.json"] = envelope
    for name, envelope in contents.release_receipts.items():
        files[f"evaluation/receipts/{name}.dsse.json"] = envelope
    files[ATTESTATION] = _attestation(files, manifest, contents, key, now)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return digest(manifest_bytes)


def load(folder: Path) -> LoadedModel:
    """Return the model in an artefact folder, its weights checked against the manifest.

    Checks digests, not signatures: `solblom model verify` does both.

    Raises:
        IntegrityError: SB-401, weights or study are not those of the manifest.
    """
    manifest = _read_canonical(folder / "manifest.json")
    data = (folder / "model/weights.safetensors").read_bytes()
    study = (folder / "training/study.json").read_bytes()
    if (
        digest(data) != manifest["model"]["weights"]
        or digest(study) != manifest["training"]["study"]
    ):
        raise IntegrityError(
            "SB-401", "The artefact's weights or study are not those of its manifest"
        )
    document = parse_document(study)
    task = find_task(document.study.task.name)
    net = task.build(document)
    layout = layout_of(net, local=task.local_parameters(document))
    load_flat(net, layout, _flat(data, layout))
    net.eval()
    return LoadedModel(net, task, document, manifest)


def _flat(data: bytes, layout: Layout) -> Any:
    from safetensors.numpy import load as load_tensors

    tensors = load_tensors(data)
    if {n: t.shape for n, t in tensors.items()} != {t.name: t.shape for t in layout.tensors}:
        raise IntegrityError("SB-401", "The artefact's weights are of another net than its study's")
    return unpack(b"".join(tensors[t.name].tobytes() for t in layout.tensors), layout)


def _read_canonical(path: Path) -> dict[str, Any]:
    try:
        value = parse_canonical(path.read_bytes())
    except (OSError, ValueError):
        raise IntegrityError("SB-401", f"{path.name} of the artefact cannot be read") from None
    if not isinstance(value, dict):
        raise IntegrityError("SB-401", f"{path.name} of the artefact is malformed")
    return value


def _deterministic_files(
    contents: ArtefactContents, evaluation: dict[str, Any] | None
) -> dict[str, bytes]:
    document = contents.document
    task = find_task(document.study.task.name)
    layout = layout_of(task.build(document), local=task.local_parameters(document))
    return {
        "model/weights.safetensors": _weights(contents.weights, layout),
        "model/architecture.json": canonical_json(
            {
                "task": task.name,
                "model": document.study.task.model,
                "layout": layout.to_json(),
                "parameters": layout.size,
                "local_parameters": sorted(task.local_parameters(document)),
            }
        ),
        "model/preprocess.json": canonical_json({"contract": as_json(document.contract)}),
        "training/study.json": document.payload(),
        "training/study.dsse.json": contents.study_envelope,
        "training/study.toml": tomli_w.dumps(
            _without_none(as_json(document.study)), multiline_strings=True
        ).encode(),
        "code/environment.json": canonical_json(_environment()),
        "privacy/events.json": canonical_json(site_events(contents.charges)),
        "privacy/statement.json": canonical_json(
            privacy_statement(document, contents.charges, simulation=contents.simulation)
        ),
        "evaluation/report.json": canonical_json(
            evaluation
            if evaluation is not None
            else {"released": [], "note": "No metric left a hospital in this run"}
        ),
    }


def _without_none(value: Any) -> Any:
    """Return tables without keys that are not set: TOML knows no null."""
    if not isinstance(value, dict):
        return value
    return {key: _without_none(item) for key, item in value.items() if item is not None}


def _weights(data: bytes, layout: Layout) -> bytes:
    values, tensors, start = unpack(data, layout), {}, 0
    for tensor in layout.tensors:
        tensors[tensor.name] = values[start : start + tensor.size].reshape(tensor.shape).copy()
        start += tensor.size
    return save(tensors)  # no metadata: two keys or more would change the bytes from save to save


def _manifest(
    contents: ArtefactContents,
    version: str,
    evaluation: dict[str, Any] | None,
    files: dict[str, bytes],
) -> dict[str, Any]:
    study = contents.document.study
    statement = json.loads(files["privacy/statement.json"])
    return {
        "schema": "solblom.artefact/1",
        "name": study.study.name,
        "version": version,
        "title": study.study.title,
        "purpose": study.study.purpose,
        "legal_basis": list(study.study.legal_basis),
        "task": study.task.name,
        "simulation": contents.simulation,
        "intended_use": "Research on the study's purpose, by people who know its limits",
        "not_for": NOT_FOR,
        "supersedes": [],
        "files": {
            name: {"bytes": len(data), "sha256": digest(data).removeprefix("sha256:")}
            for name, data in sorted(files.items())
        },
        "model": {
            "weights": digest(files["model/weights.safetensors"]),
            "final_model": digest(contents.weights),
            "averaging": study.training.averaging,
            **_encoder(contents.document),
        },
        "sites": {
            site: {"node_key": record.node_key, "keyid": record.keyid}
            for site, record in sorted(contents.sites.items())
        },
        "training": {
            "run": contents.run,
            "study": contents.document.digest,
            "aggregation": _aggregation(contents.document),
            "rounds": [_round_identity(r) for r in contents.rounds],
            "replay_grade": "not available in this version",
        },
        "privacy": {"unit": study.privacy.unit, "sites": statement["sites"]},
        "environment": json.loads(files["code/environment.json"]),
        "evaluation": {"kind": _evaluation_kind(evaluation)},
        "limitations": list(statement["not_covered"]),
    }


def _encoder(document: StudyDocument) -> dict[str, Any]:
    """Return what made the features that the model reads, and under which licence; nothing for other contracts."""
    if not isinstance(document.contract, BagContract):
        return {}
    encoder = document.contract.encoder
    return {"encoder": encoder.model_dump(include={"kind", "name", "sha256", "licence"})}


def _aggregation(document: StudyDocument) -> dict[str, str]:
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        return {"rule": "plain mean", "arithmetic": "int64 fixed point, 24 bits"}
    return {
        "rule": f"secure sum of {len(plan.roster.members)} hospitals, plain mean",
        "arithmetic": f"integers modulo 2^{table.ring_bits}, {plan.fractional_bits} fractional bits",
    }


def _evaluation_kind(evaluation: dict[str, Any] | None) -> str:
    released = any(r["status"] == "released" for r in (evaluation or {}).get("released", []))
    if evaluation is not None and evaluation.get("simulation"):
        kind = "simulation, not done" if "reason" in evaluation else "simulation, exact"
        return kind + (", and released with noise" if released else "")
    return "released with noise, charged" if released else "none released"


def _round_identity(record: RoundRecord) -> dict[str, Any]:
    return {
        "round": record.round,
        "base": record.base,
        "result": record.result,
        "updates": {site: r.update for site, (_, r) in sorted(record.receipts.items())},
    }


def _round_line(record: RoundRecord) -> bytes:
    results: Any = {
        site: {"receipt": digest(envelope), "update": r.update, "work": r.work}
        for site, (envelope, r) in record.receipts.items()
    }
    return (
        canonical_json(
            {
                "round": record.round,
                "base": record.base,
                "result": record.result,
                "opened": record.opened,
                "closed": record.closed,
                "results": results,
                "refusals": record.refusals,
                "missing": record.missing,
            }
        )
        + b"\n"
    )


def _attestation(
    files: dict[str, bytes],
    manifest: dict[str, Any],
    contents: ArtefactContents,
    key: Ed25519PrivateKey,
    now: dt.datetime,
) -> bytes:
    """Return the signed in-toto Statement v1 over every other file of the artefact."""
    statement: Any = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": digest(data).removeprefix("sha256:")}}
            for name, data in sorted(files.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "artefact": digest(files["manifest.json"]),
            "name": manifest["name"],
            "version": manifest["version"],
            "created": timestamp(now),
            "run": contents.run,
            "simulation": contents.simulation,
        },
    }
    return sign_envelope(canonical_json(statement), STATEMENT_PAYLOAD_TYPE, [key])


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "solblom": _version("solblom-models"),
    }


def _version(name: str) -> str:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return "not installed"
