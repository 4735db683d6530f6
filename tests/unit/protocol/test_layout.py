"""The flat array and its layout: names and shapes are read strictly, bytes have one length."""

from typing import Any

import numpy as np
import pytest

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.layout import Layout, TensorSpec, is_on_grid, pack, to_grid, unpack

LAYOUT = Layout((TensorSpec("weight", (2, 3)), TensorSpec("bias", ())))
STEP = 2.0**-24


def test_a_layout_comes_back_from_its_json() -> None:
    assert Layout.from_json(LAYOUT.to_json()) == LAYOUT


def test_a_layout_counts_its_values_and_a_scalar_is_one() -> None:
    assert LAYOUT.size == 7


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"name": "w", "shape": [1]},
        ["w"],
        [{"name": "w"}],
        [{"name": "w", "shape": [1], "dtype": "float32"}],
        [{"name": 1, "shape": [1]}],
        [{"name": "w", "shape": 1}],
        [{"name": "w", "shape": [0]}],
        [{"name": "w", "shape": [-2, -3]}],
        [{"name": "w", "shape": [1.0]}],
        [{"name": "w", "shape": [True]}],
        [{"name": "w", "shape": ["2"]}],
        [{"name": "w", "shape": [1]}, {"name": "w", "shape": [2]}],
    ],
)
def test_a_malformed_layout_is_refused(value: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        Layout.from_json(value)
    assert caught.value.code == "SB-405"


def test_packed_arrays_come_back_one_after_another() -> None:
    weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(9)
    assert unpack(pack([weight, np.asarray(bias)]), LAYOUT).tolist() == [0, 1, 2, 3, 4, 5, 9]


def test_packed_bytes_are_little_endian_float32_whatever_goes_in() -> None:
    big_endian = np.array([1.0], dtype=">f8")
    assert pack([big_endian]) == bytes.fromhex("0000803f")


def test_a_transposed_array_is_packed_in_the_order_of_its_rows() -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert pack([array]) == pack([array.copy()])


@pytest.mark.parametrize("length", [0, 27, 29, 56])
def test_bytes_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(IntegrityError) as caught:
        unpack(bytes(length), LAYOUT)
    assert caught.value.code == "SB-404"


@pytest.mark.parametrize("value", [-0.0, -STEP / 4, -1e-300])
def test_what_rounds_to_zero_becomes_the_positive_zero(value: float) -> None:
    assert to_grid(np.array([value])).tobytes() == bytes(4)


def test_ties_go_to_the_even_multiple() -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5]) * STEP
    assert (to_grid(halves) / STEP).tolist() == [0, 2, 2, 0, -2]


def test_a_value_between_two_multiples_is_not_on_the_grid() -> None:
    assert not is_on_grid(np.array([STEP / 2], dtype=np.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_not_on_the_grid(value: float) -> None:
    assert not is_on_grid(np.array([0.0, value], dtype=np.float32))
