"""The fold refuses what it could not add exactly, and never grows."""

import tracemalloc

import numpy as np
import pytest

from solblom_models.aggregation.fold import MAX_ABSOLUTE, MAX_UPDATES, Fold
from solblom_protocol.errors import IntegrityError

STEP = 2.0**-24


def update(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    "values",
    [
        update(float("nan"), 0),
        update(float("inf"), 0),
        update(0, float("-inf")),
        update(STEP / 2, 0),
        update(1.5 * STEP, 0),
        update(2 * MAX_ABSOLUTE, 0),
        update(0, -2 * MAX_ABSOLUTE),
        update(3e38, 0),
        update(1),
        update(1, 2, 3),
        update(1, 2).reshape(1, 2),
    ],
)
def test_an_update_that_cannot_be_added_exactly_is_refused(values: np.ndarray) -> None:
    fold = Fold(2)
    with pytest.raises(IntegrityError) as caught:
        fold.add(values)
    assert caught.value.code == "SB-404"
    assert fold.count == 0


def test_the_largest_value_is_added_exactly() -> None:
    fold = Fold(2)
    for values in (update(MAX_ABSOLUTE, STEP), update(-MAX_ABSOLUTE, STEP), update(STEP, 0)):
        fold.add(values)
    assert (fold.mean() * 3 / STEP).tolist() == [1.0, 2.0]


def test_one_update_too_many_is_refused() -> None:
    fold = Fold(1)
    fold.count = MAX_UPDATES
    with pytest.raises(IntegrityError, match="overflow"):
        fold.add(update(0))


def test_as_many_updates_of_the_largest_value_as_are_allowed_stay_inside_the_ring() -> None:
    assert MAX_UPDATES * int(MAX_ABSOLUTE) * 2**24 < 2**63


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was folded"):
        Fold(1).mean()


def test_a_minus_zero_counts_as_zero() -> None:
    fold = Fold(1)
    fold.add(update(-0.0))
    assert fold.mean().tobytes() == bytes(8)


def test_folding_leaves_the_update_as_it_was() -> None:
    given = update(0.5, -0.25)
    Fold(2).add(given)
    assert given.tolist() == [0.5, -0.25]


def test_a_hundred_updates_need_the_memory_of_one() -> None:
    size = 100_000
    given = np.full(size, 0.5, dtype=np.float32)
    tracemalloc.start()
    try:
        fold = Fold(size)
        fold.add(given)
        tracemalloc.reset_peak()
        after_one = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            fold.add(given)
        after_many = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after_many - after_one < 10_000
    assert (fold.mean() == 0.5).all()
