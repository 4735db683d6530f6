"""ONNX and test vectors: every net that Solblom has agrees with torch, and the same net gives the same bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load, save

from artefact_lab import STUDIES, moved_net
from ranking_lab import ranking_contract, ranking_document, write_release
from solblom_models.artefact_files import onnx_export
from solblom_models.artefact_files.onnx_export import (
    TOLERANCE,
    OnnxExport,
    export_onnx,
    largest_difference,
    rounded_up,
    run_onnx,
)
from solblom_models.artefact_files.onnx_graphs import OPSET, graph_of
from solblom_models.artefact_files.vectors import Vectors, interface_of, run_torch, vectors_of
from solblom_models.tabular.data import LIMIT
from solblom_protocol.studies.study import StudyDocument

RANKERS: dict[str, dict[str, dict[str, Any]]] = {
    "prototypes": {},
    "ranker-linear": {
        "task": {"model": {"kind": "linear"}},
        "training": {"server_learning_rate": 1.0},
        "privacy": {"clipping_norm": 1.0},
    },
    "ranker-mlp": {
        "task": {"model": {"kind": "mlp", "hidden": 6}},
        "training": {"server_learning_rate": 1.0},
        "privacy": {"clipping_norm": 1.0},
    },
}
ALL = [*STUDIES, *RANKERS]


@pytest.fixture
def study(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StudyDocument:
    if request.param in STUDIES:
        return STUDIES[request.param]()
    release = write_release(tmp_path / "hpo", monkeypatch)
    return ranking_document(ranking_contract(release), **RANKERS[request.param])


def exported(net: torch.nn.Module, vectors: Vectors | None) -> OnnxExport:
    return export_onnx(net, vectors, weights="sha256:" + "0" * 64, producer="0.1.0")


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_onnxruntime_says_what_torch_says(study: StudyDocument) -> None:
    net = moved_net(study)
    found = exported(net, vectors_of(net, study))
    assert found.model is not None, found.reason
    assert float(found.record["largest_difference"]) <= TOLERANCE == 1e-5
    assert float(found.record["from_the_expected_outputs"]["onnxruntime"]) <= TOLERANCE


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_other_inputs_than_the_vectors_agree_too(study: StudyDocument) -> None:
    net = moved_net(study)
    vectors = vectors_of(net, study)
    model = exported(net, vectors).model
    assert model is not None
    generator = np.random.default_rng(1)
    for shape in {(n, vectors.inputs[0].shape[1]) for n in (1, 3, 50)}:
        values = generator.normal(size=shape).astype(np.float32)
        said = run_torch(net, vectors.interface, values)
        found = run_onnx(model, vectors.interface.source, values)
        assert largest_difference([said], [found]) <= TOLERANCE


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_a_graph_passes_onnxs_own_checker_and_shapes(study: StudyDocument) -> None:
    net = moved_net(study)
    model = exported(net, vectors_of(net, study)).model
    assert model is not None
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)]
    assert not proto.functions
    assert not proto.training_info


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_a_graph_names_what_the_net_gives(study: StudyDocument) -> None:
    net = moved_net(study)
    graph, interface = graph_of(net), interface_of(net)
    assert [name for name, _, _ in graph.inputs] == [interface.source]
    assert tuple(name for name, _, _ in graph.outputs) == interface.outputs


@pytest.mark.parametrize("study", ALL, indirect=True)
def test_the_same_net_gives_the_same_bytes(study: StudyDocument) -> None:
    first, second = moved_net(study), moved_net(study)
    vectors = [vectors_of(net, study) for net in (first, second)]
    assert save(vectors[0].tensors()) == save(vectors[1].tensors())
    assert exported(first, vectors[0]) == exported(second, vectors[1])


def test_vectors_leave_the_net_as_it_was() -> None:
    study = STUDIES["table-mlp"]()
    net = moved_net(study)
    before = [parameter.clone() for parameter in net.parameters()]
    vectors_of(net, study)
    assert all(
        a.dtype == torch.float32 and torch.equal(a, b)
        for a, b in zip(net.parameters(), before, strict=True)
    )


def test_vectors_leave_the_number_of_threads_as_it_was() -> None:
    study, before = STUDIES["logistic"](), torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        vectors_of(moved_net(study), study)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_inputs_of_a_table_lie_within_the_contract() -> None:
    study = STUDIES["logistic"]()
    (rows,) = vectors_of(moved_net(study), study).inputs
    assert rows.shape == (32, 5)
    assert np.abs(rows).max() <= LIMIT
    assert set(np.unique(rows[:, 1])) == {-1.0, 0.0, 1.0}  # smoker: yes, no, missing
    assert {tuple(row) for row in rows[:, 2:].tolist()} == {  # grade: one level, or missing
        (2.0, 0.0, 0.0),
        (0.0, 2.0, 0.0),
        (0.0, 0.0, 2.0),
        (0.0, 0.0, 0.0),
    }


def test_bags_have_different_numbers_of_tiles() -> None:
    study = STUDIES["gated-attention"]()
    vectors = vectors_of(moved_net(study), study)
    assert [len(bag) for bag in vectors.inputs] == [1, 2, 7, 33]
    assert set(vectors.tensors()) >= {"00.tiles", "00.logit", "03.weights"}
    assert all(np.isclose(said["weights"].sum(), 1.0) for said in vectors.outputs)


def test_pixels_are_whole_numbers_on_the_public_scale() -> None:
    study = STUDIES["cnn"]()
    (rows,) = vectors_of(moved_net(study), study).inputs
    pixels = rows * 64.0 + 128.0
    assert np.array_equal(pixels, np.round(pixels))
    assert pixels.min() == 0.0
    assert pixels.max() == 255.0


def test_vectors_are_kept_without_metadata() -> None:
    study = STUDIES["mean"]()
    data = save(vectors_of(moved_net(study), study).tensors())
    assert b"__metadata__" not in data
    assert load(data)["03.tiles"].shape == (33, 6)


class Stranger(torch.nn.Module):
    """A net of another package."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.squeeze(self.layer(x), -1)


def test_a_strange_net_is_left_out_with_a_reason() -> None:
    with pytest.raises(TypeError, match="Stranger"):
        vectors_of(Stranger(), STUDIES["logistic"]())
    found = exported(Stranger(), None)
    assert found.model is None
    assert "Stranger" in str(found.reason)
    assert found.record["onnx"] is None
    assert found.record["reason"] == found.reason


def test_a_net_whose_graph_nobody_wrote_is_left_out_with_a_reason() -> None:
    study = STUDIES["logistic"]()
    found = exported(Stranger(), vectors_of(moved_net(study), study))
    assert found.model is None
    assert "no ONNX graph is known" in str(found.reason)


def test_a_net_that_differs_from_torch_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    study = STUDIES["logistic"]()
    net = moved_net(study)

    def off(*args: Any) -> Any:
        return {name: value + np.float32(2e-5) for name, value in run_onnx(*args).items()}

    vectors = vectors_of(net, study)
    monkeypatch.setattr(onnx_export, "run_onnx", off)
    found = exported(net, vectors)
    assert found.model is None
    assert "onnxruntime differs from torch by 2." in str(found.reason)


def test_numbers_that_are_none_are_no_agreement() -> None:
    nothing, one = {"x": np.array([np.nan])}, {"x": np.array([1.0])}
    assert largest_difference([nothing], [nothing]) == float("inf")
    assert largest_difference([one], [{"y": np.array([1.0])}]) == float("inf")
    assert largest_difference([one], [{"x": np.array([[1.0]])}]) == float("inf")
    assert largest_difference([one], [{"x": np.array([1.5])}]) == 0.5


def test_a_net_with_infinite_weights_is_left_out() -> None:
    study = STUDIES["logistic"]()
    net = moved_net(study)
    vectors = vectors_of(net, study)
    with torch.no_grad():
        next(net.parameters()).fill_(float("inf"))
    assert exported(net, vectors).model is None


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_a_package_the_record_says_which(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    study = STUDIES["logistic"]()
    net = moved_net(study)
    vectors = vectors_of(net, study)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.delitem(
        __import__("sys").modules, "solblom_models.artefact_files.onnx_graphs", raising=False
    )
    found = exported(net, vectors)
    assert found.model is None
    assert package in str(found.reason)


def test_too_large_a_net_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    study = STUDIES["logistic"]()
    net = moved_net(study)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 8)
    assert "more than 8 bytes" in str(exported(net, vectors_of(net, study)).reason)


def test_the_file_names_the_weights_it_was_made_of() -> None:
    study = STUDIES["logistic"]()
    net = moved_net(study)
    model = exported(net, vectors_of(net, study)).model
    assert model is not None
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts == {"solblom.weights": "sha256:" + "0" * 64}


def test_a_vector_that_was_changed_no_longer_agrees() -> None:
    study = STUDIES["table-mlp"]()
    net = moved_net(study)
    vectors = vectors_of(net, study)
    other = replace(vectors, outputs=({"logits": vectors.outputs[0]["logits"] + 1},))
    assert float(exported(net, other).record["from_the_expected_outputs"]["torch"]) >= 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.2e-7, "1.2e-7"), (1.21e-7, "1.3e-7"), (9.96e-6, "1.0e-5"), (0.25, "2.5e-1")],
)
def test_a_difference_is_never_written_smaller_than_it_is(value: float, text: str) -> None:
    assert rounded_up(value) == text
    assert float(text) >= value
