"""An encoder runs only if it is, byte for byte, the one that the contract pins, and gives what the contract says."""

import hashlib
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from solblom_models.tile_encoder.encoder import encode, encoder_digest
from solblom_models.tile_encoder.encoder_file import open_encoder
from solblom_models.tile_encoder.torchscript_file import TorchScriptError, checked_archive
from solblom_protocol.contracts.bags import BagContract, Encoder
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.toml_file import parse

TILE = 50
TILES = np.random.default_rng(1).integers(0, 256, (5, TILE, TILE, 3)).astype(np.uint8)


class ChannelMeans(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3))


def torchscript() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(ChannelMeans(), torch.zeros(2, 3, TILE, TILE))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def onnx_graph(outside: str | None = None) -> bytes:
    """Return a graph of channel means; `outside`: multiplied by weights that lie in another file."""
    shape = ["n", 3, TILE, TILE]
    given = helper.make_tensor_value_info("tiles", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    weights = [axes]
    nodes = [helper.make_node("ReduceMean", ["tiles", "axes"], ["features"], keepdims=0)]
    if outside is not None:
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=outside)
        weights.append(weight)
        nodes = [
            helper.make_node("ReduceMean", ["tiles", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "w"], ["features"]),
        ]
    graph = helper.make_graph(nodes, "g", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def encoder(kind: str, data: bytes | None = None, **changes: Any) -> Encoder:
    table = {
        "kind": kind,
        "name": "lab",
        "dim": 3,
        "sha256": encoder_digest() if data is None else hashlib.sha256(data).hexdigest(),
        "microns_per_pixel": 1.0,
        "tile_px": TILE,
        "licence": "none",
    }
    return Encoder.model_validate(table | changes)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "weights.bin"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("kind", "make"), [("torchscript", torchscript), ("onnx", onnx_graph)])
def test_a_pinned_file_encodes_tiles_by_its_own_normalisation(
    tmp_path: Path, kind: str, make: Any
) -> None:
    data = make()
    asked = encoder(kind, data, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    found = open_encoder(asked, written(tmp_path, data))(TILES)
    expected = (TILES.mean(axis=(1, 2)) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("kind", "make"), [("torchscript", torchscript), ("onnx", onnx_graph)])
def test_one_other_byte_is_another_encoder(tmp_path: Path, kind: str, make: Any) -> None:
    data = make()
    asked = encoder(kind, data)
    with pytest.raises(IntegrityError) as caught:
        open_encoder(asked, written(tmp_path, data + b"\0"))
    assert caught.value.code == "SB-405"


def test_a_pinned_file_that_is_no_encoder_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    for kind in ("torchscript", "onnx"):
        data = b"\x80\x04cos\nsystem\n(S'touch pickled'\ntR."  # a pickle
        with pytest.raises(ConfigurationError) as caught:
            open_encoder(encoder(kind, data), written(tmp_path, data))
        assert caught.value.code == "SB-119"
    assert not Path("pickled").exists()


class Reads(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        read = torch.from_file("weights.bin", False, 3, dtype=torch.uint8)
        return tiles.mean(dim=(2, 3)) + read.float()


class Writes(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        made = torch.from_file("written", True, 3, dtype=torch.uint8).fill_(65)
        return tiles.mean(dim=(2, 3)) + made.float()


class Saves(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        torch.save(tiles, "written")
        return tiles.mean(dim=(2, 3))


class Prints(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        print(tiles)
        return tiles.mean(dim=(2, 3))


class WritesWhileItIsLoaded(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.kept, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.kept = torch.from_file("written", True, 3, dtype=torch.uint8).fill_(65)
        self.training = state[1]

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3))


class Chance(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3)) + torch.rand(3)


class Memory(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return tiles.mean(dim=(2, 3)) + self.seen


class OverTheBatch(torch.nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        means = tiles.mean(dim=(2, 3))
        return means - means.mean(dim=0)


def scripted(net: torch.nn.Module) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(net), stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


@pytest.mark.parametrize("net", [Reads, Writes, Saves, Prints, WritesWhileItIsLoaded])
def test_torchscript_that_does_more_than_tensors_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: type[torch.nn.Module]
) -> None:
    """torch itself would read and write any file of the user."""
    monkeypatch.chdir(tmp_path)
    data = scripted(net())
    with pytest.raises(ConfigurationError, match="does not need") as caught:
        open_encoder(encoder("torchscript", data), written(tmp_path, data))
    assert caught.value.code == "SB-119"
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_a_net_with_weights_gives_the_features_that_torch_gives(tmp_path: Path, how: str) -> None:
    torch.manual_seed(3)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 10, 10),
        torch.nn.BatchNorm2d(8),
        torch.nn.Flatten(2),
        torch.nn.Linear(25, 8),
        layer,
        torch.nn.GELU(),
        torch.nn.AvgPool1d(8),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()
    given = torch.from_numpy(TILES.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    if how == "traced":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = torch.jit.trace(net, given, check_trace=False)  # type: ignore[no-untyped-call]
    data = scripted(net)
    found = open_encoder(encoder("torchscript", data), written(tmp_path, data))(TILES)
    with torch.no_grad():
        assert np.allclose(found, net(given).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x = ops.c10d.barrier(x)", "ops.c10d"),
        ("x = ops.inductor._alloc_from_pool(x)", "ops.inductor"),
        ("s : __torch__.torch.classes.dist_c10d.Store = x", "classes.dist_c10d"),
        ("f = torch.save", "torch.save"),
        ("def", "cannot be read"),
        ("(" * 10_000, "cannot be read"),
    ],
)
def test_other_families_of_operations_are_refused(line: str, said: str) -> None:
    with pytest.raises(TorchScriptError, match=said):
        checked_archive(zipped([("m/code/__torch__.py", line.encode())]))


def test_an_archive_that_two_readers_read_differently_is_refused() -> None:
    twice = [("m/code/__torch__.py", b"x = 1"), ("m/code/__torch__.py", b"torch.save(x)")]
    with pytest.raises(TorchScriptError, match="one name"):
        checked_archive(zipped(twice))
    with pytest.raises(TorchScriptError, match="2019"):
        checked_archive(zipped([("m/model.json", b"{}")]))
    with pytest.raises(TorchScriptError, match="claims far more"):
        checked_archive(zipped([("m/data/0", bytes(2**27))]))


def zipped(members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # the same name twice
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("net", [Chance, Memory, OverTheBatch])
def test_features_that_depend_on_more_than_the_tile_are_refused(
    tmp_path: Path, net: type[torch.nn.Module]
) -> None:
    data = scripted(net())
    with pytest.raises(ConfigurationError, match="a second time") as caught:
        open_encoder(encoder("torchscript", data), written(tmp_path, data))
    assert caught.value.code == "SB-119"


OUTSIDE = ["w.bin", "./w.bin", "deeper/w.bin", "../w.bin", "{folder}/w.bin"]


@pytest.mark.parametrize("place", OUTSIDE)
@pytest.mark.parametrize("stands_in", ["beside", "elsewhere"])
def test_a_graph_whose_weights_lie_in_another_file_is_refused_wherever_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, stands_in: str
) -> None:
    here = tmp_path / "here"
    (here / "deeper").mkdir(parents=True)
    data = onnx_graph(place.format(folder=here))
    onnx.load_from_string(data)  # it is a graph
    file = written(here if stands_in == "beside" else tmp_path, data)
    monkeypatch.chdir(here)
    for scale in (1.0, 2.0):  # the digest does not tell one from the other
        for folder in (here, here / "deeper", tmp_path):
            (np.eye(3, dtype=np.float32) * np.float32(scale)).tofile(folder / "w.bin")
        with pytest.raises(ConfigurationError) as caught:
            open_encoder(encoder("onnx", data), file)
        assert caught.value.code == "SB-119"


def test_onnxruntime_by_itself_would_take_weights_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the test above would notice: else it would pass for another reason."""
    monkeypatch.chdir(tmp_path)
    np.eye(3, dtype=np.float32).tofile(tmp_path / "w.bin")
    session = onnxruntime.InferenceSession(onnx_graph("w.bin"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == "tiles"


@pytest.mark.parametrize(("kind", "make"), [("torchscript", torchscript), ("onnx", onnx_graph)])
def test_another_number_of_features_than_the_contract_says_is_refused(
    tmp_path: Path, kind: str, make: Any
) -> None:
    data = make()
    with pytest.raises(
        ConfigurationError, match="gives 3 features of a tile, and the contract says 4"
    ):
        open_encoder(encoder(kind, data, dim=4), written(tmp_path, data))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = onnx_graph()
    with pytest.raises(ConfigurationError) as caught:
        open_encoder(encoder("onnx", data), tmp_path / "nothing")
    assert caught.value.code == "SB-119"
    with pytest.raises(ConfigurationError, match="is not given"):
        open_encoder(encoder("onnx", data), None)


def test_the_built_in_encoder_is_pinned_too() -> None:
    asked = encoder("builtin", dim=80)
    assert np.array_equal(open_encoder(asked)(TILES), encode(TILES))
    with pytest.raises(IntegrityError):
        open_encoder(encoder("builtin", dim=80, sha256="0" * 64))
    with pytest.raises(ConfigurationError, match="gives 80 features"):
        open_encoder(encoder("builtin", dim=81))
    with pytest.raises(ConfigurationError, match="fails on a tile of 49 pixels"):
        open_encoder(encoder("builtin", dim=80, tile_px=49))


@pytest.mark.parametrize("kind", ["external", "pixels"])
def test_what_needs_no_encoder_has_none(kind: str) -> None:
    with pytest.raises(ConfigurationError):
        open_encoder(encoder(kind, dim=3 * TILE * TILE if kind == "pixels" else 3))


CONTRACT: dict[str, Any] = {
    "kind": "bags",
    "name": "lab",
    "version": 1,
    "encoder": {
        "kind": "builtin",
        "name": "a",
        "dim": 80,
        "sha256": encoder_digest(),
        "microns_per_pixel": 1.0,
        "tile_px": 64,
        "licence": "none",
    },
    "target": {
        "name": "t",
        "column": "label",
        "positive": ["1"],
        "negative": ["0"],
        "meaning": {"en": "t", "no": "t"},
    },
}


def contract(*, slides: dict[str, Any] | None = None, **changes: Any) -> BagContract:
    tables = CONTRACT | {"encoder": CONTRACT["encoder"] | changes}
    return parse(BagContract, tables | ({} if slides is None else {"slides": slides}), source="lab")


def test_the_recipe_follows_from_whatever_decides_the_features_and_from_nothing_else() -> None:
    plain = contract().recipe
    assert contract(slides={}).recipe == plain  # the defaults, said or not
    same = contract(name="b", licence="other", center=1.0, scale=2.0, limit=5.0)
    assert same.recipe == plain
    others = [
        contract(tile_px=65),
        contract(microns_per_pixel=0.5),
        contract(sha256="0" * 64),
        contract(slides={"stain": "macenko"}),
        contract(slides={"min_tissue": 0.6}),
        contract(slides={"sharp_only": False}),
        contract(slides={"views": 2, "stain_jitter": 0.1}),
        contract(slides={"assumed_microns_per_pixel": 0.5}),
    ]
    recipes = {other.recipe for other in others}
    assert len(recipes) == len(others)
    assert plain not in recipes


@pytest.mark.parametrize(
    ("slides", "changes"),
    [
        ({}, {"kind": "external", "dim": 5}),
        (None, {"kind": "onnx", "sha256": None}),
        (None, {"kind": "pixels", "dim": 5}),
        (None, {"surroundings": True, "dim": 80}),
        (None, {"dim": 9000}),
        ({"views": 2}, {}),
        ({"stain_jitter": 0.1}, {}),
        ({"stain": "vahadane"}, {}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    slides: dict[str, Any] | None, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        contract(slides=slides, **changes)
