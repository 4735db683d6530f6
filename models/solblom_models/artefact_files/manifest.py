"""The manifest: the scientific identity of a model, of what follows from the work alone (docs/adr/0003)."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

from solblom_models.aggregation.robust import rule_in_words
from solblom_models.artefact_files.contents import ArtefactContents, RoundRecord
from solblom_models.artefact_files.lineage import parents_of, superseded
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import digest

PACKAGES = ("torch", "opacus", "flwr", "numpy", "dp-accounting", "safetensors", "cryptography")
NOT_FOR = "Not for clinical use: a research model without conformity assessment"
ID_SCHEME = "SHA-256 of the bytes of manifest.json (RFC 8785)"


def manifest_of(
    contents: ArtefactContents,
    version: str,
    evaluation: dict[str, Any] | None,
    files: dict[str, bytes],
    *,
    without_onnx: str | None = None,
) -> dict[str, Any]:
    """Return the manifest. `files` are those that are the same for the same work; they are listed in it.

    Args:
        contents: what the run leaves.
        version: such as `v1`.
        evaluation: the report, or None.
        files: path → bytes.
        without_onnx: why `files` has no `model/model.onnx`.
    """
    study = contents.document.study
    statement = json.loads(files["privacy/statement.json"])
    return {
        "schema": "solblom.artefact/1",
        "id_scheme": ID_SCHEME,
        "name": study.study.name,
        "version": version,
        "title": study.study.title,
        "purpose": study.study.purpose,
        "legal_basis": list(study.study.legal_basis),
        "task": study.task.name,
        "simulation": contents.simulation,
        "intended_use": "Research on the study's purpose, by people who know its limits",
        "not_for": NOT_FOR,
        "supersedes": superseded(
            contents.supersedes, contents, json.loads(files["code/environment.json"])
        ),
        "parents": parents_of(contents),
        "files": _listed(files, contents),
        "model": _model(contents, files, without_onnx),
        "code": {
            "lock": digest(files["code/lock.txt"]),
            "sbom": digest(files["code/sbom.cdx.json"]),
        },
        "sites": {site: _site(contents, site) for site in sorted(contents.sites)},
        "training": _training(contents),
        "privacy": {"unit": study.privacy.unit, "sites": statement["sites"]},
        "environment": json.loads(files["code/environment.json"]),
        "evaluation": {"kind": _evaluation_kind(evaluation)},
        "limitations": list(statement["not_covered"]),
        **({} if contents.log is None else {"log": {"origin": contents.log}}),
    }


def _model(
    contents: ArtefactContents, files: dict[str, bytes], without_onnx: str | None
) -> dict[str, Any]:
    return {
        "weights": digest(files["model/weights.safetensors"]),
        "final_model": digest(contents.weights),
        "averaging": contents.document.study.training.averaging,
        "parameters": json.loads(files["model/architecture.json"])["parameters"],
        "input_schema": digest(files["model/preprocess.json"]),
        **_onnx(files, without_onnx),
        **_encoder(contents.document),
    }


def _training(contents: ArtefactContents) -> dict[str, Any]:
    return {
        "run": contents.run,
        "study": contents.document.digest,
        "aggregation": _aggregation(contents.document),
        "secure_aggregation": contents.document.secure_sum is not None,
        "rounds": [_round_identity(r) for r in contents.rounds],
        "replay_grade": contents.replay.grade,
    }


def _listed(files: dict[str, bytes], contents: ArtefactContents) -> dict[str, Any]:
    """Return size and digest of every file that is the same for the same work; kept updates among them."""
    found = {name: (len(data), digest(data)) for name, data in files.items()}
    found |= {name: (kept.size, kept.digest) for name, kept in contents.replay.files.items()}
    return {
        name: {"bytes": size, "sha256": sha.removeprefix("sha256:")}
        for name, (size, sha) in sorted(found.items())
    }


def _onnx(files: dict[str, bytes], reason: str | None) -> dict[str, Any]:
    if "model/model.onnx" in files:
        return {"onnx": digest(files["model/model.onnx"])}
    return {"onnx": None, "without_onnx": reason or "not exported"}


def _site(contents: ArtefactContents, site: str) -> dict[str, Any]:
    """Return a hospital's identity, and what its receipts say that is the same for the same work."""
    record = contents.sites[site]
    receipts = [r.receipts[site][1] for r in contents.rounds if site in r.receipts]
    bands = {receipt.patients for receipt in receipts}
    return {
        "node_key": record.node_key,
        "keyid": record.keyid,
        "patients": sorted(bands, key=lambda band: int(band.partition("-")[0])),
        "code": sorted({receipt.code for receipt in receipts}),
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
        rule = rule_in_words(document.study.training)
        return {"rule": rule, "arithmetic": "int64 fixed point, 24 bits"}
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


def environment() -> dict[str, Any]:
    """Return what computed: Python, the kind of machine, and the libraries that numbers depend on."""
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
