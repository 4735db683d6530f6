"""model/model.onnx and model/equivalence.json: the model for other runtimes, and how far those agree with torch.

The ONNX file is derived: what counts are the weights. It is left out, with the reason, where a package is missing,
where nobody has said what the net's graph is, and where onnxruntime does not come within the tolerance of torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.artefact_files.vectors import Vectors, run_torch
from solblom_verify.canonical import digest

TOLERANCE = 1e-5  # absolute, on every output of every test vector
MOST_BYTES = 2**30  # of weights; a protocol buffer ends at 2 GiB

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OnnxExport:
    """The bytes of model.onnx, or None with the reason; and what the comparison gave."""

    model: bytes | None
    reason: str | None
    record: dict[str, Any]


def export_onnx(
    net: torch.nn.Module, vectors: Vectors | None, *, weights: str, producer: str
) -> OnnxExport:
    """Return a net as ONNX, compared with torch on its test vectors.

    Args:
        net: with its released weights.
        vectors: its test vectors; None where nobody has said how it is called.
        weights: digest of model/weights.safetensors.
        producer: version of Solblom.
    """
    if vectors is None:
        return _without(f"nobody has said how a net of the kind {type(net).__name__} is called")
    if sum(p.numel() * p.element_size() for p in net.parameters()) > MOST_BYTES:
        return _without(f"the weights have more than {MOST_BYTES} bytes")
    try:
        import onnxruntime

        from solblom_models.artefact_files.onnx_graphs import OPSET, graph_of, onnx_model
    except ImportError as error:
        return _without(
            f"the package {error.name} was not installed where the artefact was written"
        )
    try:
        graph = graph_of(net)
    except TypeError as error:
        return _without(str(error))
    data = onnx_model(graph, producer=producer, facts={"solblom.weights": weights})
    found = [run_onnx(data, vectors.interface.source, values) for values in vectors.inputs]
    said = [run_torch(net, vectors.interface, values) for values in vectors.inputs]
    between = largest_difference(found, said)
    if not between <= TOLERANCE:  # not a number counts as too far
        return _without(f"onnxruntime differs from torch by {rounded_up(between)}")
    record = {
        "schema": "solblom.equivalence/1",
        "onnx": digest(data),
        "weights": weights,
        "opset": OPSET,
        "inputs": [_described(entry) for entry in graph.inputs],
        "outputs": [_described(entry) for entry in graph.outputs],
        "vectors": sum(1 if vectors.interface.bags else len(v) for v in vectors.inputs),
        "tolerance": str(TOLERANCE).replace("e-0", "e-"),
        "largest_difference": rounded_up(between),
        "from_the_expected_outputs": {
            "torch": rounded_up(largest_difference(said, vectors.outputs)),
            "onnxruntime": rounded_up(largest_difference(found, vectors.outputs)),
        },
        "runtimes": _runtimes(onnxruntime.__version__),
    }
    return OnnxExport(data, None, record)


def _runtimes(onnxruntime_version: str) -> dict[str, Any]:
    return {
        "torch": version("torch"),
        "onnx": version("onnx"),
        "onnxruntime": onnxruntime_version,
        "provider": "CPUExecutionProvider",
        "threads": 1,
    }


def run_onnx(model: bytes, source: str, values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return what onnxruntime says of one input, by name, on one thread of this machine's processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {source: values}), strict=True))


def largest_difference(first: "list[Any] | tuple[Any, ...]", second: Any) -> float:
    """Return the largest absolute difference between two lists of outputs.

    Infinite where names or shapes differ, or a number is none.
    """
    worst = 0.0
    for one, other in zip(first, second, strict=True):
        if one.keys() != other.keys():
            return float("inf")
        for name, values in one.items():
            if values.shape != other[name].shape:
                return float("inf")
            gap = np.abs(values.astype(np.float64) - other[name].astype(np.float64))
            if not np.isfinite(gap).all():
                return float("inf")
            worst = max(worst, float(gap.max(initial=0.0)))
    return worst


def rounded_up(value: float) -> str:
    """Return a difference with two digits, never smaller than it is."""
    if value == 0.0:
        return "0"
    text = f"{value:.1e}"
    if float(text) < value:
        exponent = int(text.partition("e")[2])
        text = f"{float(text) + 10.0 ** (exponent - 1):.1e}"
    return text.replace("e-0", "e-").replace("e+0", "e+")


def _described(entry: tuple[str, list[int | str], int]) -> dict[str, Any]:
    name, shape, kind = entry
    return {"name": name, "shape": shape, "type": {1: "float32", 11: "float64"}[kind]}


def _without(reason: str) -> OnnxExport:
    record = {"schema": "solblom.equivalence/1", "onnx": None, "reason": reason}
    return OnnxExport(None, reason, record)
