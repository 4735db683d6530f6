"""The public grid of 2^-24: what lies on it, for any number that Hypothesis can think of."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from solblom_protocol.messages.layout import Layout, TensorSpec, is_on_grid, pack, to_grid, unpack

STEP = 2.0**-24
SHAPES = arrays.array_shapes(max_dims=1, max_side=40)
singles = arrays.arrays(np.float32, SHAPES, elements=st.floats(-(2.0**20), 2.0**20, width=32))
doubles = arrays.arrays(np.float64, SHAPES, elements=st.floats(-(2.0**20), 2.0**20))


@given(singles | doubles)
@example(np.array([1.0 - 2.0**-25, 1.0 + STEP, 1.5 - STEP, -STEP / 2, 5e-324, 2.0**20]))
def test_a_rounded_array_is_float32_on_the_grid(values: np.ndarray) -> None:
    rounded = to_grid(values)
    assert rounded.dtype == np.float32
    assert is_on_grid(rounded)


@given(singles)
def test_rounding_a_float32_moves_it_by_half_a_step_at_most(values: np.ndarray) -> None:
    moved = to_grid(values).astype(np.float64) - values.astype(np.float64)
    assert np.abs(moved).max() <= STEP / 2


@given(doubles)
def test_rounding_a_double_moves_it_by_half_a_step_and_half_a_float32_spacing_at_most(
    values: np.ndarray,
) -> None:
    moved = np.abs(to_grid(values).astype(np.float64) - values)
    spacing = np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)
    assert (moved <= STEP / 2 + spacing).all()


@given(singles | doubles)
def test_rounding_twice_changes_nothing(values: np.ndarray) -> None:
    rounded = to_grid(values)
    assert to_grid(rounded).tobytes() == rounded.tobytes()


@given(singles | doubles)
@example(np.array([-0.0, -1e-300, -STEP / 2]))
def test_a_rounded_array_has_no_negative_zero(values: np.ndarray) -> None:
    rounded = to_grid(values)
    assert not np.signbit(rounded[rounded == 0]).any()


@given(st.lists(st.integers(-(2**44), 2**44), min_size=1, max_size=40))
def test_every_multiple_that_float32_can_hold_stays_as_it_is(steps: list[int]) -> None:
    values = np.array(steps, dtype=np.float64).astype(np.float32).astype(np.float64) * STEP
    assert (to_grid(values) == values).all()


@given(st.lists(singles, min_size=1, max_size=5))
def test_packed_arrays_come_back_bit_for_bit(values: list[np.ndarray]) -> None:
    layout = Layout(tuple(TensorSpec(str(i), v.shape) for i, v in enumerate(values)))
    assert unpack(pack(values), layout).tobytes() == np.concatenate(values).tobytes()
