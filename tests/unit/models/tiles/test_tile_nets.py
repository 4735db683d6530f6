"""Nets of `tile-classification`: a CNN on pixels and contrasts with surroundings, one clipped gradient a patient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bag_lab import bag_hospital, bag_study, contract, moved, write_index
from solblom_client.policy import load_node_config
from solblom_client.training.dp_sgd import TrainingSettings, clipped_sum
from solblom_models.slide_mil.bag_file import write_bag
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.task import isolation_error
from solblom_models.tile_classification.net import ContrastRegression, TileCnn
from solblom_models.tile_classification.task import TileClassification, tile_scores
from solblom_models.tile_classification.tiles import TileUnits, read_tiles
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.errors import ConfigurationError, DataError
from solblom_protocol.messages.result import Result

TASK = TileClassification()
SIDE = 12
PIXELS = {
    "kind": "pixels",
    "tile_px": SIDE,
    "dim": 3 * SIDE * SIDE,
    "center": 0.5,
    "scale": 0.25,
}
CNN = {"name": "tile-classification", "model": {"kind": "cnn", "channels": [4, 6]}}


def bags(**encoder: Any) -> BagContract:
    return contract(target={"column": "labels"}, encoder={**PIXELS, **encoder})


def begun(*, seed: int = 1) -> torch.nn.Module:
    return TASK.build(bag_study(task=CNN, bags=bags(), training={"seed": seed}))


def images(count: int, *, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(count, SIDE, SIDE, 3), dtype=np.uint8)


def write(path: Path, pixels: Any, labels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coords = np.arange(2 * len(pixels)).reshape(-1, 2)
    codes = "labels", [str(label) for label in labels]
    recipe = bags().recipe
    assert recipe is not None
    write_bag(path, pixels, coords, recipe=recipe, side=SIDE, facts={}, labels=codes)


def made(folder: Path, sizes: list[int]) -> TileUnits:
    rows = []
    for number, size in enumerate(sizes):
        labels = np.random.default_rng(number).integers(0, 2, size)
        write(folder / f"t{number}.h5", images(size, seed=number), labels)
        rows.append((f"p{number}", f"t{number}.h5", ""))
    return read_tiles(BagIndex(write_index(folder, rows)), bags())


def flat_sum(model: torch.nn.Module, units: TileUnits, norm: float) -> torch.Tensor:
    sums, _ = clipped_sum(TASK, model, units, TrainingSettings(1, 1.0, norm, "0", "1", 1.0))
    return torch.cat([sums[name].reshape(-1) for name, _ in model.named_parameters()])


def test_pixels_stay_bytes_until_a_batch_needs_them(tmp_path: Path) -> None:
    units = made(tmp_path, [2, 3])
    assert units.tiles.dtype == np.uint8
    tiles = units.batch([1])[0]
    expected = (images(3, seed=1).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    assert np.allclose(tiles.numpy().reshape(3, 3, SIDE, SIDE), expected, atol=1e-6)
    assert np.array_equal(units.select([1]).batch([0])[0].numpy(), tiles.numpy())


def test_a_pixel_that_changes_is_another_row(tmp_path: Path) -> None:
    pixels, seen = images(2), set()
    for value in (0, 1):
        pixels[1, 5, 5, 2] = value
        write(tmp_path / "a.h5", pixels, [0, 1])
        units = read_tiles(BagIndex(write_index(tmp_path, [("p", "a.h5", "")])), bags())
        seen.add(units.row_bytes(0))
    assert len(seen) == 2


def test_the_cnns_clipped_sum_is_that_of_patients_one_by_one(tmp_path: Path) -> None:
    units, model, norm = made(tmp_path, [1, 4, 20]), moved(begun()), 0.05
    expected = torch.zeros(sum(p.numel() for p in model.parameters()))
    for index in range(3):
        part = units.part(index)
        logits = model(torch.from_numpy(units.seen(part)))
        labels = torch.from_numpy(units.tile_labels[part]).float()
        loss = (torch.nn.functional.softplus(logits) - labels * logits).mean()
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradient = torch.cat([g.reshape(-1) for g in found])
        expected += gradient * min(1.0, norm / float(gradient.norm()))
    assert torch.allclose(flat_sum(model, units, norm), expected, rtol=1e-4, atol=1e-6)


def test_other_patients_change_nothing_of_a_cnns_gradient(tmp_path: Path) -> None:
    assert isolation_error(TASK, moved(begun()), made(tmp_path, [3, 5, 2, 9])) < 1e-5


def test_a_cnn_begins_with_weights_of_the_public_seed_alone() -> None:
    torch.manual_seed(1)
    first = begun().state_dict()
    torch.manual_seed(2)
    again, other = begun().state_dict(), begun(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(bool(torch.isfinite(value).all()) for value in first.values())


def test_a_cnn_begins_at_one_half_for_every_tile(tmp_path: Path) -> None:
    assert tile_scores(begun(), made(tmp_path, [4])).tolist() == [0.5] * 4


def test_tiles_are_scored_alike_however_many_there_are(tmp_path: Path) -> None:
    units, model = made(tmp_path, [300, 3]), moved(begun())
    together = tile_scores(model, units)
    assert np.allclose(tile_scores(model, units.select([1])), together[300:], atol=1e-6)


@pytest.mark.parametrize("channels", [(3,), (16, 32, 64), (5, 7)])
def test_every_number_of_channels_has_its_groups(channels: tuple[int, ...]) -> None:
    net = moved(TileCnn(SIDE, channels, seed=1))
    found = net(torch.rand(2, 3 * SIDE * SIDE))
    assert found.shape == (2,)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("model", "encoder"),
    [
        ({"kind": "cnn", "channels": [4]}, {"kind": "external", "dim": 6}),
        ({"kind": "linear"}, {}),
        ({"kind": "cnn", "channels": [4] * 4}, {}),
        ({"kind": "contrast"}, {"kind": "external", "dim": 6}),
    ],
)
def test_a_net_that_cannot_read_the_encoder_is_refused(
    model: dict[str, Any], encoder: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bag_study(task={"name": "tile-classification", "model": model}, bags=bags(**encoder))
    assert caught.value.code == "SB-106"


@pytest.mark.parametrize(
    "model",
    [
        {"kind": "cnn"},
        {"kind": "cnn", "channels": [4], "hidden": [3]},
        {"kind": "cnn", "channels": [0]},
    ],
)
def test_a_cnn_needs_channels_and_nothing_of_a_perceptron(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bag_study(task={"name": "tile-classification", "model": model}, bags=bags())
    assert caught.value.code == "SB-103"


def test_tiles_of_another_side_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", images(2)[:, :-1], [0, 1])
    with pytest.raises(DataError, match="imgs are not of shape") as caught:
        read_tiles(BagIndex(write_index(tmp_path, [("p", "a.h5", "")])), bags())
    assert caught.value.code == "SB-307"


def test_a_head_on_contrasts_is_a_head_on_the_features() -> None:
    net = moved(ContrastRegression(6))
    x = torch.randn(5, 6)
    slopes = torch.stack([net(row[None]) - net(torch.zeros(1, 6)) for row in torch.eye(6)])
    assert torch.allclose(net(x), x @ slopes.squeeze(-1) + net(torch.zeros(1, 6)), atol=1e-5)


def test_a_hospital_trains_a_cnn_on_pixels(tmp_path: Path) -> None:
    hospital = bag_hospital(tmp_path / "north")
    rows = []
    for number in range(40):
        labels = np.random.default_rng(number).integers(0, 2, 3)
        write(hospital.folder / f"bags/t{number}.h5", images(3, seed=number), labels)
        rows.append((f"p{number}", f"bags/t{number}.h5", ""))
    write_index(hospital.folder, rows)
    file = hospital.folder / "node.toml"
    file.write_text(file.read_text().replace("slide-mil", "tile-classification"), encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()
    study = bag_study(task=CNN, bags=bags())
    hospital.approve(study)
    reply = hospital.ask(hospital.order(study))
    assert isinstance(reply, Result), reply
    assert hospital.charges() == 1
