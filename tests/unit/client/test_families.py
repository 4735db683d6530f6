"""One contribution for each family: exact, bounded for a family and for each patient of it, and one coin for all."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from solblom_client.cohorts.families import Families, group_ids, one_of_each, share_of
from solblom_client.training.dp_sgd import TrainingSettings, clipped_sum, train
from solblom_client.training.gradients import choose_path, prepared
from solblom_client.training.keystream import KeyStream
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.net import LogisticRegression, MultilayerPerceptron
from solblom_models.task import unit_gradients
from solblom_protocol.errors import DataError
from unit.client.test_gradients import (
    CLIPPING_NORM,
    Convolutional,
    Task,
    frozen_first_layer,
    optimizer_for,
)

SIZES = (1, 2, 3, 1, 5, 2)
NETS: dict[str, Any] = {
    "logistic": lambda: LogisticRegression(6),
    "perceptron": lambda: MultilayerPerceptron(6, (5, 4), seed=3),
    "convolutional": Convolutional,
    "a frozen weight": frozen_first_layer,
}
SETTINGS = TrainingSettings(
    steps=4,
    learning_rate=0.5,
    clipping_norm=CLIPPING_NORM,
    noise_multiplier="1.0000",
    sampling_rate="0.5",
    expected_batch_size=7.0,
)
BY_FAMILY = dataclasses.replace(SETTINGS, by_family=True)


def kin(
    sizes: tuple[int, ...] = SIZES, *, seed: int = 5, scale: float = 1.0, named_ones: bool = True
) -> TableUnits:
    """Return families of these sizes, their members spread over the table."""
    rng = np.random.default_rng(seed)
    names = [
        f"F{number}" if size > 1 or named_ones else None
        for number, size in enumerate(sizes)
        for _ in range(size)
    ]
    count = len(names)
    order = rng.permutation(count)
    return TableUnits(
        ids=tuple(f"patient-{i:03d}" for i in range(count)),
        features=(scale * rng.normal(size=(count, 6))).astype(np.float32),
        labels=rng.integers(0, 2, count),
        groups={"family": tuple(names[i] for i in order)},
    )


def family_sum(task: Task, model: nn.Module, units: TableUnits, chosen: Any = None) -> torch.Tensor:
    families = Families.of(units)
    drawn = families.drawn(range(len(families.members)) if chosen is None else chosen)
    optimizer = optimizer_for(model)
    with prepared(choose_path(task, model), task, model) as put_sum:
        put_sum(optimizer, units, *drawn)
        return torch.cat([p.summed_grad.reshape(-1) for p in optimizer.params])


def reference_sum(task: Task, model: nn.Module, units: TableUnits) -> torch.Tensor:
    """Return the sum over families of the mean of members' clipped gradients, one autograd pass a patient, float64."""
    total = torch.zeros(1, dtype=torch.float64)
    for name in dict.fromkeys(units.groups["family"]):
        members = [i for i, family in enumerate(units.groups["family"]) if family == name]
        for index in members:
            gradient = unit_gradients(task, model, units.batch([index]))[0].double()
            clipped = gradient * min(1.0, CLIPPING_NORM / (float(gradient.norm()) + 1e-6))
            total = total + clipped / len(members)
    return total


@pytest.mark.parametrize("scale", [0.05, 3.0], ids=["below the norm", "clipped"])
@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("net", NETS)
def test_the_sum_over_families_is_that_of_an_autograd_loop(
    net: str, ragged: bool, scale: float
) -> None:
    torch.manual_seed(1)
    task, model, units = Task(ragged=ragged), NETS[net](), kin(scale=scale)
    got, expected = family_sum(task, model, units), reference_sum(task, model, units)
    assert float((got.double() - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("net", ["logistic", "perceptron", "convolutional"])
@pytest.mark.parametrize("seed", range(12))
def test_one_family_less_moves_the_sum_by_at_most_the_clipping_norm(
    net: str, ragged: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sizes = tuple(int(n) for n in rng.integers(1, 9, size=5))
    task, model = Task(ragged=ragged), NETS[net]()
    units = kin(sizes, seed=seed, scale=float(rng.choice([0.1, 1.0, 50.0])))
    whole = family_sum(task, model, units)
    for name in set(units.groups["family"]):
        stay = [i for i, family in enumerate(units.groups["family"]) if family != name]
        moved = whole - family_sum(task, model, units.select(stay))
        assert float(moved.norm()) <= CLIPPING_NORM * (1 + 1e-5)


@pytest.mark.parametrize("net", ["logistic", "perceptron", "convolutional"])
@pytest.mark.parametrize("seed", range(12))
def test_one_patient_less_moves_the_sum_by_at_most_the_clipping_norm_while_the_family_stays(
    net: str, seed: int
) -> None:
    torch.manual_seed(seed)
    task, model = Task(), NETS[net]()
    scale = (0.1, 1.0, 50.0)[seed % 3]
    units = kin((2, 3, 2, 7, 1), seed=seed, scale=scale)
    whole = family_sum(task, model, units)
    for index in range(len(units.ids)):
        stay = [i for i in range(len(units.ids)) if i != index]
        moved = whole - family_sum(task, model, units.select(stay))
        assert float(moved.norm()) <= CLIPPING_NORM * (1 + 1e-5)


def test_a_patient_less_can_move_the_sum_by_the_whole_clipping_norm() -> None:
    """The bound is reached, so no smaller charge would do: two relatives whose gradients are opposite."""
    features = np.array([[9.0] * 6, [9.0] * 6], dtype=np.float32)
    groups: dict[str, tuple[str | None, ...]] = {"family": ("F", "F")}
    units = TableUnits(("a", "b"), features, np.array([0, 1]), groups=groups)
    model = LogisticRegression(6)
    assert float(family_sum(Task(), model, units).norm()) < 1e-4
    alone = family_sum(Task(), model, units.select([0]))
    assert float(alone.norm()) == pytest.approx(CLIPPING_NORM, rel=1e-4)


def test_a_member_whose_gradient_is_not_finite_counts_as_zero_and_the_family_stays_bounded() -> (
    None
):
    units = kin((3, 2))
    units.features[0, 0] = np.nan
    found = family_sum(Task(), LogisticRegression(6), units)
    assert bool(torch.isfinite(found).all())
    assert float(found.norm()) <= 2 * CLIPPING_NORM * (1 + 1e-5)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("named", [True, False], ids=["each a family of its own", "of no family"])
def test_families_of_one_are_patients_bit_for_bit(net: str, ragged: bool, named: bool) -> None:
    units = kin((1,) * 30, named_ones=named)
    task, weights = Task(ragged=ragged), []
    for settings in (SETTINGS, BY_FAMILY):
        torch.manual_seed(2)
        model = NETS[net]()
        trace = train(
            task,  # type: ignore[arg-type]
            model,
            units,
            settings,
            coins=KeyStream(b"c" * 32),
            noise=KeyStream(b"n" * 32),
        )
        weights.append([p.detach().numpy().tobytes() for p in model.parameters()])
        assert sum(trace.batch_sizes) > 0
    assert weights[0] == weights[1]


def test_the_sum_for_shared_noise_is_the_same_bit_for_bit_too() -> None:
    units, sums = kin((1,) * 30), []
    for settings in (SETTINGS, BY_FAMILY):
        found, _ = clipped_sum(Task(), LogisticRegression(6), units, settings)  # type: ignore[arg-type]
        sums.append({name: value.numpy().tobytes() for name, value in found.items()})
    assert sums[0] == sums[1]


@pytest.mark.parametrize("net", ["logistic", "convolutional"])
def test_the_sum_for_shared_noise_is_that_of_families(net: str) -> None:
    torch.manual_seed(3)
    units, model = kin(), NETS[net]()
    found, _ = clipped_sum(Task(), model, units, BY_FAMILY)  # type: ignore[arg-type]
    whole = torch.cat([value.reshape(-1) for value in found.values()])
    assert torch.equal(whole, family_sum(Task(), model, units))


def test_one_coin_draws_all_members_or_none() -> None:
    units = kin((3,) * 40)
    trace = train(
        Task(),  # type: ignore[arg-type]
        LogisticRegression(6),
        units,
        dataclasses.replace(BY_FAMILY, steps=60),
        coins=KeyStream(b"c" * 32),
        noise=KeyStream(b"n" * 32),
    )
    assert all(size % 3 == 0 for size in trace.batch_sizes)
    drawn = sum(trace.batch_sizes) / 3 / 60 / 40
    assert abs(drawn - 0.5) < 0.05  # 2400 coins: five standard deviations


def test_data_without_families_cannot_be_trained_by_family() -> None:
    units = dataclasses.replace(kin(), groups={})
    with pytest.raises(DataError, match="names none") as caught:
        clipped_sum(Task(), LogisticRegression(6), units, BY_FAMILY)  # type: ignore[arg-type]
    assert caught.value.code == "SB-310"


def test_shares_of_a_family_are_never_above_one_together() -> None:
    for members in range(1, 3000):
        share = float(share_of(members))
        assert share * members <= 1.0
        assert share * members >= 1.0 - 2e-7


class TestNames:
    @staticmethod
    def units(*families: str | None) -> TableUnits:
        count = len(families)
        return TableUnits(
            tuple(f"p{n}" for n in range(count)),
            np.zeros((count, 1), np.float32),
            np.zeros(count, dtype=np.int64),
            groups={"family": families},
        )

    def test_a_family_in_two_spellings_is_one(self) -> None:
        units = self.units("F\u00e5", "Fa\u030a ", "f\u00e5")
        assert Families.of(units).members == ((0, 1), (2,))

    @pytest.mark.parametrize("nothing", [None, "", "  "])
    def test_patients_of_no_family_are_families_of_one(self, nothing: str | None) -> None:
        assert Families.of(self.units(nothing, "F", nothing)).members == ((0,), (1,), (2,))

    def test_a_family_named_as_a_patient_is_not_that_patient(self) -> None:
        units = self.units("p1", None, "p1")
        assert Families.of(units).members == ((0, 2), (1,))
        assert len(set(group_ids(units, units.ids, "family"))) == 2


class TestCounting:
    """Of each family one member is counted: a family more or less changes one count by one."""

    def test_each_family_once(self) -> None:
        units = kin()
        found = one_of_each(units, b"k" * 32)
        names = [n for n in found.groups["family"]]
        assert sorted(map(str, names)) == sorted({str(n) for n in units.groups["family"]})

    def test_who_it_is_depends_on_the_family_alone(self) -> None:
        units = kin()
        found = set(one_of_each(units, b"k" * 32).ids)
        for name in set(units.groups["family"]):
            family = [i for i, of in enumerate(units.groups["family"]) if of == name]
            alone = one_of_each(units.select(family[::-1]), b"k" * 32)
            assert set(alone.ids) <= found

    def test_a_member_who_is_not_counted_may_leave_and_nothing_changes(self) -> None:
        units = kin()
        found = one_of_each(units, b"k" * 32).ids
        for index, patient in enumerate(units.ids):
            if patient not in found:
                stay = [i for i in range(len(units.ids)) if i != index]
                assert one_of_each(units.select(stay), b"k" * 32).ids == found

    def test_a_counted_member_who_leaves_changes_at_most_one_for_another(self) -> None:
        units = kin()
        before = set(one_of_each(units, b"k" * 32).ids)
        for index, patient in enumerate(units.ids):
            stay = [i for i in range(len(units.ids)) if i != index]
            after = set(one_of_each(units.select(stay), b"k" * 32).ids)
            assert before - after <= {patient}
            assert len(after - before) <= 1

    def test_the_choice_is_the_hospitals_secret(self) -> None:
        units = kin((6,) * 10)
        assert one_of_each(units, b"k" * 32).ids != one_of_each(units, b"l" * 32).ids
