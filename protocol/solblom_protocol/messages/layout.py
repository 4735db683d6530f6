"""A model travels as one flat little-endian float32 array plus its layout.

One array instead of one per tensor: Flower spends one HTTP request per tensor. The layout is public
and signed with the order, so a node never learns names or shapes from anywhere else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import IntegrityError

FIXED_POINT_BITS = 24
"""Updates are multiples of 2^-24. Every float32 rounded to this grid is a float32 again, and int64 sums of it are
exact: |sum| < 2^39 before the ring of 2^63 is left."""

_BLOCK = 65_536

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape of one tensor in the flat array."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The order of the tensors in the flat array."""

    tensors: tuple[TensorSpec, ...]

    @property
    def size(self) -> int:
        """Number of values in the flat array."""
        return sum(tensor.size for tensor in self.tensors)

    def to_json(self) -> list[dict[str, Any]]:
        """Return `[{"name": …, "shape": […]}, …]`."""
        return [{"name": t.name, "shape": list(t.shape)} for t in self.tensors]

    @classmethod
    def from_json(cls, value: Any) -> "Layout":
        """Read a layout strictly.

        Raises:
            IntegrityError: not a list of unique names with shapes of positive integers.
        """
        if not isinstance(value, list):
            raise IntegrityError("SB-405", "A layout must be a list")
        return cls(tuple(_tensor(item) for item in value)).checked()

    def checked(self) -> "Layout":
        """Return self when names are unique and sizes positive.

        Raises:
            IntegrityError: a name stands twice or a shape is not positive.
        """
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) != len(names):
            raise IntegrityError("SB-405", "A layout names a tensor twice")
        return self


def _tensor(item: Any) -> TensorSpec:
    if not isinstance(item, dict) or set(item) != {"name", "shape"}:
        raise IntegrityError("SB-405", "A layout entry needs exactly a name and a shape")
    name, shape = item["name"], item["shape"]
    if not isinstance(name, str) or not isinstance(shape, list):
        raise IntegrityError("SB-405", "A layout entry has a wrong type")
    if not all(type(side) is int and side > 0 for side in shape):
        raise IntegrityError("SB-405", "A layout entry has a shape that is not positive")
    return TensorSpec(name, tuple(shape))


def pack(values: Sequence[NDArray[Any]]) -> bytes:
    """Return the arrays as one little-endian float32 byte string, in the order given."""
    return b"".join(np.ascontiguousarray(v, dtype="<f4").view("u1").data for v in values)


def unpack(data: bytes | memoryview, layout: Layout) -> Float32:
    """Return the flat float32 array of `layout.size` values.

    Raises:
        IntegrityError: the bytes are not of that length.
    """
    if len(data) != 4 * layout.size:
        raise IntegrityError(
            "SB-404", f"The array has {len(data)} bytes where the layout needs {4 * layout.size}"
        )
    return np.frombuffer(data, dtype="<f4")


def to_grid(values: NDArray[Any]) -> Float32:
    """Round to multiples of 2^-24; ties to even. The result is exact in float32.

    Rounding after the noise also blunts floating-point attacks on it (Mironov 2012; privacy.md rule
    14).
    """
    result = np.empty(np.shape(values), dtype=np.float32)
    flat, source = result.reshape(-1), np.reshape(values, -1)
    for start in range(0, flat.size, _BLOCK):  # blocks stay in the processor's cache
        block = source[start : start + _BLOCK].astype(np.float64)
        block *= 2.0**FIXED_POINT_BITS
        np.rint(block, out=block)
        block /= 2.0**FIXED_POINT_BITS
        block += 0.0  # turns -0.0 into 0.0: one value, one byte string
        flat[start : start + _BLOCK] = block
    return result


def is_on_grid(values: Float32) -> bool:
    """Tell whether every value is a finite multiple of 2^-24."""
    for start in range(0, len(values), _BLOCK):  # blocks stay in the processor's cache
        with np.errstate(over="ignore"):  # what overflows is not finite, and refused below
            scaled = values[start : start + _BLOCK] * np.float32(2.0**FIXED_POINT_BITS)  # exact
        if not bool((scaled == np.rint(scaled)).all()) or not bool(np.isfinite(scaled).all()):
            return False
    return True
