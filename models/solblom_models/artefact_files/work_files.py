"""The files that are the same for the same work: those that the manifest lists (docs/adr/0003)."""

from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any

import tomli_w
import torch
from safetensors.numpy import save

from solblom_models.artefact_files.contents import ArtefactContents
from solblom_models.artefact_files.lock import Component, installed_components, lock_file
from solblom_models.artefact_files.manifest import environment
from solblom_models.artefact_files.onnx_export import OnnxExport, export_onnx
from solblom_models.artefact_files.vectors import Vectors, vectors_of
from solblom_models.flat import layout_of, load_flat
from solblom_models.statement import privacy_statement, site_events
from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.layout import Layout, unpack
from solblom_protocol.messages.message import as_json
from solblom_verify.canonical import canonical_json, digest

WEIGHTS, ONNX = "model/weights.safetensors", "model/model.onnx"
VECTORS = "evaluation/vectors.safetensors"


@dataclass(frozen=True)
class WorkFiles:
    """Path → bytes, and what the export to ONNX gave."""

    files: dict[str, bytes]
    onnx: OnnxExport


def work_files(
    contents: ArtefactContents, evaluation: dict[str, Any] | None, *, version: str
) -> WorkFiles:
    """Return the files that follow from the work and from the environment in which it was done.

    Raises:
        ConfigurationError: SB-118, the package that writes bills of materials is not installed.
    """
    document = contents.document
    task = find_task(document.study.task.name)
    net = task.build(document)
    layout = layout_of(net, local=task.local_parameters(document))
    load_flat(net, layout, unpack(contents.weights, layout))
    net.eval()
    weights, components = _weights(contents.weights, layout), installed_components()
    vectors = _vectors(net, contents)
    exported = export_onnx(
        net, vectors, weights=digest(weights), producer=installed_version("solblom-models")
    )
    files = {
        WEIGHTS: weights,
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
        "code/lock.txt": lock_file(components),
        "code/sbom.cdx.json": _bill(components, name=document.study.study.name, version=version),
        "code/environment.json": canonical_json(environment()),
        **_study_files(contents),
        **_figures(contents, evaluation),
    }
    if vectors is not None:
        files[VECTORS] = save(vectors.tensors())
    if exported.model is not None:
        files[ONNX] = exported.model
    return WorkFiles(files, exported)


def _study_files(contents: ArtefactContents) -> dict[str, bytes]:
    document = contents.document
    return {
        "training/study.json": document.payload(),
        "training/study.dsse.json": contents.study_envelope,
        "training/study.toml": tomli_w.dumps(
            _without_none(as_json(document.study)), multiline_strings=True
        ).encode(),
    }


def _figures(contents: ArtefactContents, evaluation: dict[str, Any] | None) -> dict[str, bytes]:
    statement = privacy_statement(
        contents.document, contents.charges, simulation=contents.simulation
    )
    return {
        "privacy/events.json": canonical_json(site_events(contents.charges)),
        "privacy/statement.json": canonical_json(statement),
        "evaluation/report.json": canonical_json(
            evaluation
            if evaluation is not None
            else {"released": [], "note": "No metric left a hospital in this run"}
        ),
    }


def _vectors(net: torch.nn.Module, contents: ArtefactContents) -> Vectors | None:
    """Return the net's test vectors; None for a net of another package that has not said how it is called."""
    try:
        return vectors_of(net, contents.document)
    except TypeError:
        return None


def _bill(components: tuple[Component, ...], *, name: str, version: str) -> bytes:
    try:
        from solblom_models.artefact_files.sbom import bill_of_materials
    except ImportError as error:
        raise ConfigurationError(
            "SB-118",
            f"Writing an artefact needs the package {error.name}, which is not installed",
            "pip install 'solblom-models[artefact]'",
        ) from None
    return bill_of_materials(components, name=name, version=version)


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
