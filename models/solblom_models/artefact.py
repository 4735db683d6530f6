"""The model artefact: a folder that anybody can check offline, years later.

`manifest.json` is the scientific identity: it holds no clock time, so the same work gives the same
manifest, and its SHA-256 is the model's digest. Everything that differs from one execution to the
next (times, receipts of particular orders) stands beside it; the signed in-toto statement covers
every file. No pickle: weights are safetensors without metadata, one byte string per model.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_models.artefact_files.contents import (
    ArtefactContents,
    EarlierVersion,
    RoundRecord,
    SiteRecord,
)
from solblom_models.artefact_files.crate import METADATA, crate_of
from solblom_models.artefact_files.manifest import NOT_FOR, manifest_of
from solblom_models.flat import layout_of, load_flat
from solblom_models.model_card import render_card
from solblom_models.task import Task, find_task
from solblom_protocol.contracts.kinds import AnyContract
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.layout import Layout, unpack
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.studies.study import StudyDocument, parse_document
from solblom_verify.canonical import canonical_json, digest, parse_canonical

__all__ = [
    "ATTESTATION",
    "NOT_FOR",
    "PREDICATE_TYPE",
    "STATEMENT_PAYLOAD_TYPE",
    "ArtefactContents",
    "EarlierVersion",
    "LoadedModel",
    "RoundRecord",
    "SiteRecord",
    "load",
    "write_artefact",
]

STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:solblom:attestation:model:1"
ATTESTATION = "attestations/model.dsse.json"


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
    """Write and sign an artefact into an empty folder; return its digest (SHA-256 of manifest.json).

    Raises:
        ConfigurationError: SB-118, the package that writes bills of materials is not installed.
        IntegrityError: SB-405, an update that is kept for replay has changed on this disk.
    """
    from solblom_models.artefact_files.execution_files import execution_files
    from solblom_models.artefact_files.work_files import work_files

    made = work_files(contents, evaluation, version=version)
    manifest = manifest_of(contents, version, evaluation, made.files, without_onnx=made.onnx.reason)
    manifest_bytes = canonical_json(manifest)
    files = made.files | {
        "manifest.json": manifest_bytes,
        "README.md": render_card(
            manifest, evaluation, digest(manifest_bytes), contents.document
        ).encode(),
        "model/equivalence.json": canonical_json(made.onnx.record),
        **execution_files(contents),
    }
    crate = crate_of(files, manifest, contents, artefact=digest(manifest_bytes), now=now)
    files[METADATA] = canonical_json(crate)
    files[ATTESTATION] = _attestation(files, manifest, contents, key, now)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    contents.replay.copy_into(folder)
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


def _attestation(
    files: dict[str, bytes],
    manifest: dict[str, Any],
    contents: ArtefactContents,
    key: Ed25519PrivateKey,
    now: dt.datetime,
) -> bytes:
    """Return the signed in-toto Statement v1 over every other file of the artefact."""
    digests = {name: digest(data) for name, data in files.items()} | contents.replay.digests()
    statement: Any = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": sha.removeprefix("sha256:")}}
            for name, sha in sorted(digests.items())
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
