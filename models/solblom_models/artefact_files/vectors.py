"""evaluation/vectors.safetensors: made-up inputs within the contract's ranges, and what the model says of them.

Whoever has the model later, in whatever runtime, can ask whether it still says the same. Inputs are what a net reads,
after the contract's preprocessing. Outputs are worked out in float64 and rounded once, so that they do not depend on
the order in which a processor adds up; a runtime in float32 comes within a tolerance (model/equivalence.json).
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.phenotype.features import FeatureSpace
from solblom_models.phenotype.net import Ranker
from solblom_models.phenotype.phenopacket import Case, Sex
from solblom_models.slide_mil.net import GatedAttention, MeanPooling
from solblom_models.tabular.data import LIMIT
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.tile_classification.net import ContrastRegression, TileCnn
from solblom_protocol.contracts.bags import BagContract, Encoder
from solblom_protocol.contracts.table import BooleanVariable, CategoryVariable, Contract, Variable
from solblom_protocol.studies.study import StudyDocument

SEED = "solblom vectors 1"
MOST_ROWS = 32
MOST_NUMBERS = 2**18  # of all inputs together: a tile of pixels has 196,608
BAGS = (1, 2, 7, 33)  # tiles
CASES = 8

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Interface:
    """How a net is called.

    Attributes:
        source: name of its input.
        outputs: names of what it returns, in order.
        bags: whether one input is one patient's tiles (n, D), and not rows of many (B, D).
    """

    source: str
    outputs: tuple[str, ...]
    bags: bool = False


@dataclass(frozen=True)
class Vectors:
    """Inputs of a net, and what it says of each: outputs by name."""

    interface: Interface
    inputs: tuple[Floats, ...]
    outputs: tuple[dict[str, Floats], ...]

    def tensors(self) -> dict[str, Floats]:
        """Return all arrays by name: bags are numbered, rows stand together."""
        found: dict[str, Floats] = {}
        for number, (given, said) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            prefix = f"{number:02d}." if self.interface.bags else ""
            found[f"{prefix}{self.interface.source}"] = given
            found |= {f"{prefix}{name}": value for name, value in said.items()}
        return found


@singledispatch
def interface_of(net: torch.nn.Module) -> Interface:
    """Return how a net is called. A net of another package joins with `interface_of.register`.

    Raises:
        TypeError: nobody has said.
    """
    raise TypeError(f"nobody has said how a net of the kind {type(net).__name__} is called")


@interface_of.register(LogisticRegression)
@interface_of.register(MultilayerPerceptron)
@interface_of.register(ContrastRegression)
@interface_of.register(TileCnn)
def _of_rows(net: torch.nn.Module) -> Interface:
    return Interface("features", ("logits",))


@interface_of.register(MeanPooling)
@interface_of.register(GatedAttention)
def _of_bags(net: torch.nn.Module) -> Interface:
    return Interface("tiles", ("logit", "weights"), bags=True)


@interface_of.register
def _of_cases(net: Ranker) -> Interface:
    return Interface("features", ("scores",))


def vectors_of(net: torch.nn.Module, document: StudyDocument) -> Vectors:
    """Return a net's test vectors; the same net and study give the same.

    Raises:
        TypeError: nobody has said how such a net is called.
    """
    interface = interface_of(net)
    inputs = tuple(_inputs(net, document, interface))
    net.double()  # there and back again changes no float32
    try:
        outputs = tuple(run_torch(net, interface, values.astype(np.float64)) for values in inputs)
    finally:
        net.float()
    rounded = tuple({n: v.astype(np.float32) for n, v in said.items()} for said in outputs)
    return Vectors(interface, inputs, rounded)


def run_torch(
    net: torch.nn.Module, interface: Interface, values: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return what a net says of one input, by name, on one thread."""
    with _one_thread(), torch.no_grad():
        said = net(torch.from_numpy(values))
    parts = said if isinstance(said, tuple) else (said,)
    return {
        name: part.detach().cpu().numpy()
        for name, part in zip(interface.outputs, parts, strict=True)
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _inputs(
    net: torch.nn.Module, document: StudyDocument, interface: Interface
) -> Iterator[Floats]:
    draw = random.Random(SEED)  # noqa: S311 - made-up inputs
    contract = document.contract
    if isinstance(net, Ranker):
        yield np.stack([_case(net.knowledge.space, draw) for _ in range(CASES)])
    elif isinstance(contract, Contract):
        yield np.stack([_row(contract, draw) for _ in range(MOST_ROWS)])
    elif isinstance(contract, BagContract):
        dim = contract.encoder.dim
        counts = BAGS if interface.bags else (max(2, min(MOST_ROWS, MOST_NUMBERS // dim)),)
        for count in counts:
            yield np.stack([_tile(contract.encoder, draw) for _ in range(count)])
    else:
        raise TypeError(f"no inputs are known of a contract of the kind {type(contract).__name__}")


def _row(contract: Contract, draw: random.Random) -> Floats:
    """Return one patient of a table, as `tabular.data.encode` would give it."""
    found: list[float] = []
    for variable in contract.variable:
        found += _cells(variable, draw)
    if contract.expression is not None:
        found += [draw.uniform(-LIMIT, LIMIT) for _ in contract.expression.feature_names]
    return np.array(found, dtype=np.float32)


def _cells(variable: Variable, draw: random.Random) -> list[float]:
    if isinstance(variable, BooleanVariable):
        return [draw.choice((variable.scale, -variable.scale, 0.0))]
    if isinstance(variable, CategoryVariable):
        level = draw.randrange(-1, len(variable.levels))  # -1: missing
        return [variable.scale * (place == level) for place in range(len(variable.levels))]
    ends = ((v - variable.center) / variable.scale for v in (variable.minimum, variable.maximum))
    low, high = (min(max(end, -LIMIT), LIMIT) for end in ends)
    return [draw.uniform(low, high)]


def _tile(encoder: Encoder, draw: random.Random) -> Floats:
    """Return one tile as the net reads it: pixels on the public scale, or standardised features."""
    if encoder.kind != "pixels":
        reach = min(3.0, encoder.limit)
        return np.array([draw.uniform(-reach, reach) for _ in range(encoder.dim)], dtype=np.float32)
    pixels = np.frombuffer(draw.randbytes(encoder.dim), dtype=np.uint8).astype(np.float64)
    scaled = (pixels - np.asarray(encoder.center)) / np.asarray(encoder.scale)
    limited: Floats = np.clip(scaled, -encoder.limit, encoder.limit).astype(np.float32)
    return limited


def _case(space: FeatureSpace, draw: random.Random) -> Floats:
    """Return one case of one to eight observed terms and none to two excluded ones."""
    count = min(len(space.terms), draw.randint(1, 8) + 2)
    terms = draw.sample(space.terms, count)
    observed, excluded = terms[:-2] or terms, terms[-2:] if draw.random() < 0.5 else []
    case = Case(
        id="vector",
        patient="vector",
        family=None,
        publication=None,
        observed=tuple(sorted(observed)),
        excluded=tuple(sorted(set(excluded) - set(observed))),
        disease=None,
        sex=Sex.UNKNOWN,
        age_years=None,
    )
    return space.vector(case).dense().astype(np.float32)
