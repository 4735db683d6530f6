"""The fold: whatever the order of arrival, the same bits; whatever does not belong, refused."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from solblom_models.aggregation.fold import MAX_ABSOLUTE, Fold
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.layout import is_on_grid, to_grid

SIZE = 7
numbers = st.floats(-MAX_ABSOLUTE, MAX_ABSOLUTE, width=32)
updates = st.lists(
    arrays.arrays(np.float32, SIZE, elements=numbers).map(to_grid), min_size=1, max_size=12
)


def folded(given_updates: list[np.ndarray]) -> np.ndarray:
    fold = Fold(SIZE)
    for update in given_updates:
        fold.add(update)
    return fold.mean()


@given(updates, st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_identical_bits(
    arrived: list[np.ndarray], luck: random.Random
) -> None:
    shuffled = list(arrived)
    luck.shuffle(shuffled)
    assert folded(shuffled).tobytes() == folded(arrived).tobytes()


@given(updates)
def test_the_mean_is_the_exact_sum_divided_once(arrived: list[np.ndarray]) -> None:
    exact = [
        sum(int(float(update[i]) * 2**24) for update in arrived) / (len(arrived) * 2**24)
        for i in range(SIZE)
    ]
    assert folded(arrived).tolist() == exact


@given(updates)
def test_the_mean_stays_between_the_smallest_and_the_largest_update(
    arrived: list[np.ndarray],
) -> None:
    mean, stacked = folded(arrived), np.stack(arrived).astype(np.float64)
    assert (stacked.min(axis=0) <= mean).all()
    assert (mean <= stacked.max(axis=0)).all()


@settings(max_examples=50)
@given(arrays.arrays(np.float32, SIZE, elements=st.floats(width=32)))
def test_an_update_is_folded_or_leaves_the_fold_as_it_was(update: np.ndarray) -> None:
    fold = Fold(SIZE)
    fold.add(np.ones(SIZE, dtype=np.float32))
    if is_on_grid(update) and np.abs(update).max() <= MAX_ABSOLUTE:
        fold.add(update)
        return
    with pytest.raises(IntegrityError) as caught:
        fold.add(update)
    assert caught.value.code == "SB-404"
    assert fold.count == 1
    assert (fold.mean() == 1).all()
