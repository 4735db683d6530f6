"""Robust rules: whatever the order of arrival, the same bits; whatever tolerated hospitals send, within the others."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from solblom_models.aggregation.fold import MAX_ABSOLUTE
from solblom_models.aggregation.robust import round_of, squared_distance
from solblom_protocol.messages.layout import to_grid
from solblom_protocol.studies.tables import TrainingTable

SIZE = 5
numbers = st.floats(-MAX_ABSOLUTE, MAX_ABSOLUTE, width=32)
one_update = arrays.arrays(np.float32, SIZE, elements=numbers).map(to_grid)
updates = st.lists(one_update, min_size=7, max_size=11)
RULES = {
    "median": TrainingTable(
        rounds=1, learning_rate=1.0, expected_batch_size=1.0, strategy="median"
    ),
    "trimmed-mean": TrainingTable(
        rounds=1,
        learning_rate=1.0,
        expected_batch_size=1.0,
        strategy="trimmed-mean",
        tolerated=2,
    ),
    "krum": TrainingTable(
        rounds=1, learning_rate=1.0, expected_batch_size=1.0, strategy="krum", tolerated=2
    ),
}


def combined(rule: str, arrived: list[np.ndarray]) -> np.ndarray:
    comparison = round_of(RULES[rule], SIZE)
    for update in arrived:
        comparison.add(update)
    return comparison.result()


@pytest.mark.parametrize("rule", RULES)
@given(updates, st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_identical_bits(
    rule: str, arrived: list[np.ndarray], luck: random.Random
) -> None:
    shuffled = list(arrived)
    luck.shuffle(shuffled)
    assert combined(rule, shuffled).tobytes() == combined(rule, arrived).tobytes()


@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
@given(updates, st.lists(one_update, min_size=2, max_size=2))
def test_two_liars_move_no_weight_beyond_the_honest_hospitals(
    rule: str, honest: list[np.ndarray], lies: list[np.ndarray]
) -> None:
    found, stacked = combined(rule, honest + lies), np.stack(honest).astype(np.float64)
    assert (stacked.min(axis=0) <= found).all()
    assert (found <= stacked.max(axis=0)).all()


@given(updates)
def test_krum_gives_one_of_the_updates_as_it_is(arrived: list[np.ndarray]) -> None:
    found = combined("krum", arrived)
    assert any((found == update).all() for update in arrived)


@given(updates)
def test_the_trimmed_mean_is_the_exact_sum_of_the_middle_divided_once(
    arrived: list[np.ndarray],
) -> None:
    kept = len(arrived) - 4
    exact = [
        sum(sorted(int(float(update[i]) * 2**24) for update in arrived)[2:-2]) / (kept * 2**24)
        for i in range(SIZE)
    ]
    assert combined("trimmed-mean", arrived).tolist() == exact


@given(one_update, one_update)
def test_squared_distances_are_those_of_whole_numbers(one: np.ndarray, other: np.ndarray) -> None:
    exact = sum(
        (int(float(a) * 2**24) - int(float(b) * 2**24)) ** 2
        for a, b in zip(one, other, strict=True)
    )
    assert squared_distance(one, other) == exact
