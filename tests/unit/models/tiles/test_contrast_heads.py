"""`contrast-heads` and `balanced`: each block learns alone, and a patient's two labels weigh alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bag_lab import DIM, bag_study, contract, moved, write_bag, write_index
from solblom_client.training.dp_sgd import TrainingSettings, clipped_sum
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.task import isolation_error
from solblom_models.tile_classification.net import ContrastHeads
from solblom_models.tile_classification.task import TileClassification, tile_scores
from solblom_models.tile_classification.tiles import TileUnits
from solblom_protocol.errors import ConfigurationError

TASK = TileClassification()
WIDTH = 6
BUILTIN = {"kind": "builtin", "sha256": "0" * 64, "surroundings": True, "dim": DIM}


def study(*, encoder: dict[str, Any] | None = None, **model: Any) -> Any:
    task = {"name": "tile-classification", "model": {"kind": "contrast-heads"} | model}
    bags = contract(target={"column": "labels"}, **({"encoder": encoder} if encoder else {}))
    return bag_study(task=task, bags=bags)


def made(labels: list[list[int]], *, balanced: bool = True) -> TileUnits:
    rng = np.random.default_rng(2)
    parts = [(rng.normal(size=(len(p), WIDTH)).astype(np.float32), np.array(p)) for p in labels]
    units = TileUnits.of([f"p{n}" for n in range(len(labels))], parts)
    return replace(units, positive_weight=3.0, balanced=balanced)


MIXED = [[0, 1, 0, 0], [1, 1], [0, 0, 0], [0, 1]]


def test_the_logit_is_the_sum_of_the_heads() -> None:
    net, x = moved(ContrastHeads(WIDTH)), torch.randn(5, WIDTH)
    assert net.heads(x).shape == (5, 3)
    assert torch.allclose(net.heads(x).sum(dim=-1), net(x), atol=1e-5)


def test_a_head_learns_without_the_others() -> None:
    units, net = made(MIXED), moved(ContrastHeads(WIDTH))
    slopes = []
    for _ in range(2):
        loss = TASK.losses(net, units.batch([0])).sum()
        slopes.append(torch.autograd.grad(loss, [net.linear.weight])[0][0].chunk(3))
        with torch.no_grad():
            net.linear.weight[:, : WIDTH // 3] += 1.0  # of the first block
    before, after = slopes
    assert not torch.allclose(before[0], after[0])
    assert all(torch.equal(before[block], after[block]) for block in (1, 2))


def test_both_labels_of_a_patient_weigh_half() -> None:
    _, labels, weights, sizes = replace(made(MIXED), positive_weight=1.0).batch(range(4))
    for of_labels, shares in zip(
        labels.split(sizes.tolist()), weights.split(sizes.tolist()), strict=True
    ):
        present = [shares[of_labels == label].sum() / len(shares) for label in (0, 1)]
        expected = [0.5 if (of_labels == label).any() else 0.0 for label in (0, 1)]
        assert torch.allclose(torch.stack(present), torch.tensor(expected))


def test_tiles_weigh_alike_unless_the_study_says_so() -> None:
    _, labels, weights, _ = made(MIXED, balanced=False).batch(range(4))
    assert torch.equal(weights, torch.where(labels == 1, 3.0, 1.0))


def test_the_clipped_sum_of_heads_is_that_of_patients_one_by_one() -> None:
    units, net, norm = made(MIXED), moved(ContrastHeads(WIDTH)), 0.05
    expected = torch.zeros(WIDTH + 1)
    for index, of_patient in enumerate(MIXED):
        labels = torch.tensor(of_patient, dtype=torch.float32)
        logits = net.heads(torch.from_numpy(units.tiles[units.part(index)]))
        each = torch.nn.functional.softplus(logits) - labels[:, None] * logits
        loss = sum(
            0.5 * weight * each[labels == label].mean(dim=0).sum()
            for label, weight in ((0, 1.0), (1, 3.0))
            if (labels == label).any()
        )
        found = torch.autograd.grad(loss, list(net.parameters()))
        gradient = torch.cat([g.reshape(-1) for g in found])
        expected += gradient * min(1.0, norm / float(gradient.norm()))
    sums, _ = clipped_sum(TASK, net, units, TrainingSettings(1, 1.0, norm, "0", "1", 1.0))
    assert torch.allclose(
        torch.cat([part.reshape(-1) for part in sums.values()]), expected, rtol=1e-4, atol=1e-6
    )


def test_other_patients_change_nothing_of_a_balanced_gradient() -> None:
    assert isolation_error(TASK, moved(ContrastHeads(WIDTH)), made(MIXED)) < 1e-6


def test_some_of_the_patients_stay_balanced() -> None:
    units = made(MIXED)
    assert torch.equal(units.select([0]).batch([0])[2], units.batch([0])[2])


def test_heads_begin_at_one_half_for_every_tile() -> None:
    assert tile_scores(TASK.build(study(encoder=BUILTIN)), made(MIXED)).tolist() == [0.5] * 11


def test_the_study_says_whether_labels_are_balanced(tmp_path: Path) -> None:
    values = np.zeros((3, DIM), dtype=np.float32)
    write_bag(tmp_path / "a.h5", values, labels=["0", "1", "0"])
    source = BagIndex(write_index(tmp_path, [("p", "a.h5", "")]))
    for balanced, weights in ((True, [0.75, 1.5, 0.75]), (False, [1.0, 1.0, 1.0])):
        units = TASK.read_units(source, study(kind="linear", balanced=balanced))
        assert units.batch([0])[2].tolist() == pytest.approx(weights)


def test_heads_need_an_encoder_with_surroundings() -> None:
    with pytest.raises(ConfigurationError, match="surroundings") as caught:
        study()
    assert caught.value.code == "SB-106"
