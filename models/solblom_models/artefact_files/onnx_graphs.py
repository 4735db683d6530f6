"""A net as an ONNX graph, written node by node.

Graphs are put together here and not by torch's exporters: those take seconds, warn, and write what differs from
version to version. A graph made here has the same bytes whenever it is made of the same weights.

A net of another package joins with `graph_of.register`; what it registers is given the net's weights like any other.
"""

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from solblom_models.phenotype.net import Prototypes, Trained
from solblom_models.slide_mil.net import GatedAttention, MeanPooling
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.tile_classification.net import ContrastRegression, TileCnn

OPSET = 17  # old enough for the runtimes that hospitals have: onnxruntime 1.12, of 2022, reads it
IR_VERSION = 8
GRID = 2.0**24
"""Derived weights are put on a public grid, so that the last bits of a logarithm do not name another file."""


@dataclass
class Graph:
    """Nodes and weights as they are added; the names of inputs and outputs with their shapes."""

    inputs: list[tuple[str, list[int | str], int]]
    outputs: list[tuple[str, list[int | str], int]]
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, kind: str, inputs: list[str], output: str, **settings: Any) -> str:
        """Add a node; return the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **settings))
        return output

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant; return its name."""
        self.weights[name] = np.ascontiguousarray(values, dtype=dtype)
        return name

    def linear(self, layer: torch.nn.Linear, source: str, name: str, output: str) -> str:
        """Add a linear layer on rows (N, D)."""
        inputs = [source, self.constant(f"{name}.weight", _array(layer.weight))]
        if layer.bias is not None:
            inputs.append(self.constant(f"{name}.bias", _array(layer.bias)))
        return self.add("Gemm", inputs, output, transB=1)

    def flat(self, source: str, output: str) -> str:
        """Drop the last axis, of length 1."""
        return self.add("Squeeze", [source, self.constant("last_axis", [-1], np.int64)], output)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def onnx_model(graph: Graph, *, producer: str, facts: dict[str, str]) -> bytes:
    """Return the bytes of a graph, with facts about it as its metadata."""
    proto: ModelProto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "solblom",
            [helper.make_tensor_value_info(n, kind, shape) for n, shape, kind in graph.inputs],
            [helper.make_tensor_value_info(n, kind, shape) for n, shape, kind in graph.outputs],
            initializer=[numpy_helper.from_array(v, n) for n, v in sorted(graph.weights.items())],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="solblom",
        producer_version=producer,
    )
    for key, value in sorted(facts.items()):
        proto.metadata_props.add(key=key, value=value)
    return bytes(proto.SerializeToString(deterministic=True))


@singledispatch
def graph_of(net: torch.nn.Module) -> Graph:
    """Return a net's graph: the same inputs, and outputs of the same names, as its `forward`.

    Raises:
        TypeError: nobody has said what the graph of such a net is.
    """
    raise TypeError(f"no ONNX graph is known of a net of the kind {type(net).__name__}")


def _rows(features: int) -> Graph:
    return Graph(
        [("features", ["rows", features], TensorProto.FLOAT)],
        [("logits", ["rows"], TensorProto.FLOAT)],
    )


@graph_of.register
def _logistic(net: LogisticRegression) -> Graph:
    graph = _rows(net.linear.in_features)
    graph.flat(graph.linear(net.linear, "features", "linear", "column"), "logits")
    return graph


@graph_of.register
def _perceptron(net: MultilayerPerceptron) -> Graph:
    *inner, last = (_linear(layer) for layer in net.layers)
    graph, source = _rows((inner or [last])[0].in_features), "features"
    for number, layer in enumerate(inner):
        source = graph.linear(layer, source, f"layers.{number}", f"hidden.{number}")
        source = graph.add("Tanh", [source], f"tanh.{number}")
    column = graph.linear(last, source, f"layers.{len(inner)}", "column")
    graph.flat(column, "logits")
    return graph


def _linear(layer: torch.nn.Module) -> torch.nn.Linear:
    if not isinstance(layer, torch.nn.Linear):
        raise TypeError(f"a layer of the kind {type(layer).__name__} where a linear one belongs")
    return layer


@graph_of.register
def _contrast(net: ContrastRegression) -> Graph:
    graph = _rows(net.linear.in_features)
    third = net.linear.in_features // 3
    own, near, whole = "own", "near", "whole"
    sizes = graph.constant("sizes", [third] * 3, np.int64)
    graph.nodes.append(
        helper.make_node("Split", ["features", sizes], [own, near, whole], name="split", axis=-1)
    )
    graph.add("Add", [graph.add("Add", [own, near], "own_and_near"), whole], "sum")
    blocks = [
        graph.add("Sub", [own, near], "near_contrast"),
        graph.add("Sub", [near, whole], "whole_contrast"),
        "sum",
    ]
    scaled = [
        graph.add("Div", [block, graph.constant(f"scale.{n}", scale)], f"scaled.{n}")
        for n, (block, scale) in enumerate(zip(blocks, net.scales, strict=True))
    ]
    joined = graph.add("Concat", scaled, "contrasts", axis=-1)
    graph.flat(graph.linear(net.linear, joined, "linear", "column"), "logits")
    return graph


@graph_of.register
def _tile_cnn(net: TileCnn) -> Graph:
    graph = _rows(3 * net.side**2)
    pixels = graph.constant("pixels", [-1, 3, net.side, net.side], np.int64)
    source = graph.add("Reshape", ["features", pixels], "image")
    for number, (convolution, norm) in enumerate(zip(net.convolutions, net.norms, strict=True)):
        if not isinstance(convolution, torch.nn.Conv2d) or not isinstance(norm, torch.nn.GroupNorm):
            raise TypeError("a tile CNN has convolutions and group norms only")
        name = f"convolutions.{number}"
        weights = [
            graph.constant(f"{name}.weight", _array(convolution.weight)),
            graph.constant(f"{name}.bias", _array(convolution.bias)),  # type: ignore[arg-type]
        ]
        source = graph.add(
            "Conv", [source, *weights], f"convolved.{number}", strides=[2, 2], pads=[1, 1, 1, 1]
        )
        source = graph.add("Relu", [_group_norm(graph, norm, source, number)], f"relu.{number}")
    mean = graph.add("ReduceMean", [source], "mean", axes=[2, 3], keepdims=0)
    graph.flat(graph.linear(net.linear, mean, "linear", "column"), "logits")
    return graph


def _group_norm(graph: Graph, norm: torch.nn.GroupNorm, source: str, number: int) -> str:
    """Add a group norm: an instance norm over each group's numbers, then the channels' own scale and shift.

    ONNX has one of its own from opset 18 on, with another meaning of its scale until opset 21.
    """
    groups, channels = norm.num_groups, norm.num_channels
    name = f"norms.{number}"
    grouped = graph.add(
        "Reshape",
        [source, graph.constant(f"{name}.groups", [0, groups, -1], np.int64)],
        f"grouped.{number}",
    )
    ones = graph.constant(f"{name}.ones", np.ones(groups))
    zeros = graph.constant(f"{name}.zeros", np.zeros(groups))
    normed = graph.add(
        "InstanceNormalization", [grouped, ones, zeros], f"normed.{number}", epsilon=norm.eps
    )
    shape = graph.add("Shape", [source], f"shape.{number}")
    image = graph.add("Reshape", [normed, shape], f"ungrouped.{number}")
    by_channel = (channels, 1, 1)
    scale = graph.constant(f"{name}.weight", _array(norm.weight).reshape(by_channel))
    shift = graph.constant(f"{name}.bias", _array(norm.bias).reshape(by_channel))
    return graph.add(
        "Add", [graph.add("Mul", [image, scale], f"scaled.{number}"), shift], f"shifted.{number}"
    )


def _bag(features: int) -> Graph:
    return Graph(
        [("tiles", ["tiles", features], TensorProto.FLOAT)],
        [("logit", [], TensorProto.FLOAT), ("weights", ["tiles"], TensorProto.FLOAT)],
    )


def _scalar(graph: Graph, source: str, output: str) -> str:
    return graph.add("Reshape", [source, graph.constant("no_axes", [], np.int64)], output)


@graph_of.register
def _mean_pooling(net: MeanPooling) -> Graph:
    graph = _bag(net.linear.in_features)
    mean = graph.add("ReduceMean", ["tiles"], "mean", axes=[0], keepdims=1)
    _scalar(graph, graph.linear(net.linear, mean, "linear", "row"), "logit")
    # Equal weights: a softmax of what is the same for all tiles.
    first = graph.add(
        "ReduceSum", ["tiles", graph.constant("axis_1", [1], np.int64)], "sums", keepdims=0
    )
    none = graph.add("Sub", [first, first], "none")
    graph.add("Softmax", [none], "weights", axis=0)
    return graph


@graph_of.register
def _gated_attention(net: GatedAttention) -> Graph:
    graph = _bag(net.linear.in_features)
    tanh = graph.add("Tanh", [graph.linear(net.tanh, "tiles", "tanh", "tanh_layer")], "tanh_out")
    gate = graph.add("Sigmoid", [graph.linear(net.gate, "tiles", "gate", "gate_layer")], "gate_out")
    gated = graph.add("Mul", [tanh, gate], "gated")
    column = graph.linear(net.weight, gated, "weight", "attention")
    weights = graph.add("Softmax", [graph.flat(column, "attention_logits")], "weights", axis=0)
    first = graph.constant("axis_0", [0], np.int64)
    row = graph.add("Unsqueeze", [weights, first], "weights_row")
    pooled = graph.add("MatMul", [row, "tiles"], "pooled")
    _scalar(graph, graph.linear(net.linear, pooled, "linear", "row"), "logit")
    return graph


def _cases(size: int, diseases: int, kind: int) -> Graph:
    return Graph(
        [("features", ["cases", size], TensorProto.FLOAT)],
        [("scores", ["cases", diseases], kind)],
    )


@graph_of.register
def _prototypes(net: Prototypes) -> Graph:
    diseases, size = len(net.knowledge.names), net.knowledge.space.size
    graph = _cases(size, diseases, TensorProto.DOUBLE)
    weights = np.round(net.weights().numpy() * GRID) / GRID
    by_term = graph.constant("read_out", weights.T, np.float64)
    wide = graph.add("Cast", ["features"], "wide", to=TensorProto.DOUBLE)
    graph.add("MatMul", [wide, by_term], "scores")
    return graph


@graph_of.register
def _trained(net: Trained) -> Graph:
    diseases, size = len(net.knowledge.names), net.knowledge.space.size
    graph, inner = _cases(size, diseases, TensorProto.FLOAT), "features"
    if net.hidden is not None:
        hidden = graph.linear(net.hidden, "features", "hidden", "hidden_layer")
        inner = graph.add("Tanh", [hidden], "tanh")
    learned = graph.linear(net.last, inner, "last", "learned")
    public = graph.add(
        "MatMul", ["features", graph.constant("profiles", _array(net.profiles).T)], "public"
    )
    graph.add("Add", [learned, public], "scores")
    return graph
