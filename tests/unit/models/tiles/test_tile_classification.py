"""`tile-classification`: a patient is one clipped contribution, however many tiles."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from bag_lab import DIM, bag_hospital, bag_study, contract, moved, write_bag, write_index
from solblom_client.policy import load_node_config
from solblom_client.training.dp_sgd import TrainingSettings, clipped_sum
from solblom_models.slide_mil.bag_file import RECIPE
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.slide_mil.task import bag_contract
from solblom_models.task import find_task, has_one_label, isolation_error
from solblom_models.tile_classification.task import TileClassification, tile_scores
from solblom_models.tile_classification.tiles import TileUnits, read_tiles
from solblom_protocol.errors import ConfigurationError, DataError
from solblom_protocol.messages.result import Result

TASK = TileClassification()
TARGET = {"column": "labels"}
LINEAR = {"name": "tile-classification", "model": {"kind": "linear"}}
HEADS = {
    "name": "tile-classification",
    "model": {"kind": "contrast-heads", "balanced": True},
}
SURROUNDED = {"kind": "builtin", "sha256": "0" * 64, "surroundings": True}
MLP = {"name": "tile-classification", "model": {"kind": "mlp", "hidden": [3]}}


def made(sizes: list[int], *, scale: float = 1.0) -> TileUnits:
    rng = np.random.default_rng(2)
    parts = [
        ((scale * rng.normal(size=(n, DIM))).astype(np.float32), rng.integers(0, 2, n))
        for n in sizes
    ]
    return TileUnits.of([f"p{n}" for n in range(len(sizes))], parts)


def study(task: dict[str, Any]) -> Any:
    return bag_study(task=task, bags=contract(target=TARGET))


def begun(task: dict[str, Any]) -> torch.nn.Module:
    return moved(TASK.build(study(task)))


def flat_sum(model: torch.nn.Module, units: TileUnits, norm: float) -> torch.Tensor:
    settings = TrainingSettings(1, 1.0, norm, "0", "1", 1.0)
    sums, _ = clipped_sum(TASK, model, units, settings)
    return torch.cat([sums[name].reshape(-1) for name, _ in model.named_parameters()])


@pytest.mark.parametrize("task", [LINEAR, MLP])
def test_the_clipped_sum_is_that_of_patients_one_by_one(task: dict[str, Any]) -> None:
    units, model, norm = made([1, 4, 300]), begun(task), 0.05
    expected = torch.zeros(sum(p.numel() for p in model.parameters()))
    for index in range(3):
        part = units.part(index)
        logits = model(torch.from_numpy(units.tiles[part]))
        labels = torch.from_numpy(units.tile_labels[part]).float()
        loss = (torch.nn.functional.softplus(logits) - labels * logits).mean()
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradient = torch.cat([g.reshape(-1) for g in found])
        expected += gradient * min(1.0, norm / float(gradient.norm()))
    assert torch.allclose(flat_sum(model, units, norm), expected, rtol=1e-4, atol=1e-6)


def test_a_patient_of_many_tiles_adds_no_more_than_the_clipping_norm() -> None:
    units = made([5_000], scale=100.0)
    assert float(flat_sum(begun(LINEAR), units, 0.5).norm()) <= 0.5 * (1 + 1e-5)


def test_other_patients_change_nothing_of_a_gradient() -> None:
    assert isolation_error(TASK, begun(MLP), made([3, 5, 2, 9])) < 1e-6


def write(folder: Path, codes: Any, *, count: int = 4, name: str = "a.h5") -> Path:
    values = np.random.default_rng(1).normal(size=(count, DIM)).astype(np.float32)
    return write_bag(folder / name, values, labels=codes)


def index_of(folder: Path, *names: str) -> BagIndex:
    rows = [(f"p{number}", name, "") for number, name in enumerate(names)]
    return BagIndex(write_index(folder, rows))


@pytest.mark.parametrize("codes", [[0, 1, 0, 1], ["0", "1", "0", "1"]])
def test_tiles_and_labels_are_read(tmp_path: Path, codes: Any) -> None:
    write(tmp_path, codes)
    units = read_tiles(index_of(tmp_path, "a.h5"), contract(target=TARGET))
    assert units.tile_labels.tolist() == [0, 1, 0, 1]
    assert units.labels.tolist() == [1]
    assert units.notes == {"patients": 1, "slides": 1, "tiles": 4}


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        ([0, 1, 0], "one for each tile"),
        ([0, 1, 2, 1], "no code"),
        ([0.0, 1.0, 0.0, 1.0], "neither"),
    ],
)
def test_labels_that_do_not_fit_are_counted_and_named(tmp_path: Path, codes: Any, why: str) -> None:
    write(tmp_path, [0, 1, 0, 1])
    write(tmp_path, codes, name="b.h5")
    with pytest.raises(DataError, match=f"1 of 2 slides.*line 3.*{why}") as caught:
        read_tiles(index_of(tmp_path, "a.h5", "b.h5"), contract(target=TARGET))
    assert caught.value.code == "SB-307"


def test_a_label_that_changes_is_another_row(tmp_path: Path) -> None:
    seen = set()
    for codes in ([0, 1, 0, 1], [1, 1, 0, 1]):
        write(tmp_path, codes)
        units = read_tiles(index_of(tmp_path, "a.h5"), contract(target=TARGET))
        seen.add(units.row_bytes(0))
    assert len(seen) == 2


def test_a_choice_of_patients_keeps_what_is_theirs() -> None:
    units = made([2, 3, 4])
    chosen = units.select([2, 0])
    assert chosen.ids == ("p2", "p0")
    assert np.array_equal(chosen.tiles[:4], units.tiles[units.part(2)])
    assert chosen.row_bytes(1) == units.row_bytes(0)
    assert units.select([]).ids == ()


def test_a_patients_score_is_that_of_the_likeliest_tile() -> None:
    units, model = made([2, 3]), begun(LINEAR)
    tiles = tile_scores(model, units)
    assert TASK.scores(model, units).tolist() == [tiles[:2].max(), tiles[2:].max()]


def test_the_labels_that_a_loss_sees_are_those_of_tiles() -> None:
    ones, zeros = np.ones(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    tiles = np.zeros((3, DIM), dtype=np.float32)
    mixed = TileUnits.of(["p", "q"], [(tiles, np.array([1, 0, 0])), (tiles, np.array([0, 1, 1]))])
    assert mixed.labels.tolist() == [1, 1]  # both patients have a positive tile
    assert not has_one_label(mixed)
    assert has_one_label(TileUnits.of(["p", "q"], [(tiles, ones), (tiles, ones)]))
    assert has_one_label(TileUnits.of(["p", "q"], [(tiles, zeros), (tiles, zeros)]))


def mark(file: Path, *, recipe: str | None) -> None:
    """Say what made the features, as `solblom node features` does."""
    if recipe is not None:
        with h5py.File(file, "a") as opened:
            opened.attrs[RECIPE] = recipe


@pytest.mark.parametrize(("task", "encoder"), [(LINEAR, {}), (HEADS, SURROUNDED)])
def test_a_hospital_trains_on_labelled_tiles(
    tmp_path: Path, task: dict[str, Any], encoder: dict[str, Any]
) -> None:
    found = bag_study(task=task, bags=contract(target=TARGET, encoder=encoder))
    hospital = bag_hospital(tmp_path / "north")
    rows = []
    for number in range(40):
        rng = np.random.default_rng(number)
        labels = rng.integers(0, 2, 6) * (number % 3 > 0)
        values = (rng.normal(size=(6, DIM)) + labels[:, None]).astype(np.float32)
        file = write_bag(hospital.folder / f"bags/t{number}.h5", values, labels=labels)
        mark(file, recipe=bag_contract(found).recipe)
        rows.append((f"p{number}", f"bags/t{number}.h5", ""))
    write_index(hospital.folder, rows)
    file = hospital.folder / "node.toml"
    file.write_text(file.read_text().replace("slide-mil", "tile-classification"), encoding="utf-8")
    hospital.config = load_node_config(file)
    hospital.restart()
    hospital.approve(found)
    reply = hospital.ask(hospital.order(found))
    assert isinstance(reply, Result), reply
    assert hospital.charges() == 1


@pytest.mark.parametrize(
    "model", [{"kind": "linear", "hidden": [3]}, {"kind": "mlp"}, {"kind": "cnn"}]
)
def test_settings_that_do_not_go_together_are_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        study({"name": "tile-classification", "model": model})


def test_the_task_is_installed() -> None:
    assert isinstance(find_task("tile-classification"), TileClassification)
