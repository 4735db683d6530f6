"""What a release travels as: whole counts, then the values that a hospital releases by name.

Little-endian int64 and float64, the same size whatever the data. Both sides read the same limits, so
that what a hospital may send is what a coordinator may add.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import IntegrityError

LARGEST_COUNT = (
    2**40
)  # no hospital has more patients, no noise reaches it; sums of 2^16 stay in int64
NAMED_VALUES = 3  # site-auroc: value, low, high


def pack_release(counts: NDArray[np.int64], values: Sequence[float] = ()) -> bytes:
    """Return counts and named values as bytes."""
    return counts.astype("<i8").tobytes() + pack_values(values)


def pack_values(values: Sequence[float]) -> bytes:
    """Return the values that a hospital releases by name as bytes."""
    return np.array(values, dtype="<f8").tobytes()


def unpack_release(
    data: bytes | memoryview, *, cells: int, named: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts, shape (cells,), and named values, shape (named * 3,).

    Raises:
        IntegrityError: SB-404, another size than the study fixes, or numbers out of range.
    """
    size = 8 * cells
    if len(data) != size + 8 * NAMED_VALUES * named:
        raise IntegrityError("SB-404", "The release has another size than the study fixes")
    counts = np.frombuffer(data[:size], dtype="<i8").astype(np.int64)
    values = np.frombuffer(data[size:], dtype="<f8").astype(np.float64)
    if bool((counts > LARGEST_COUNT).any() or (counts < -LARGEST_COUNT).any()):
        raise IntegrityError("SB-404", "The release has a count out of range")
    if not bool(((values >= 0.0) & (values <= 1.0)).all()):
        raise IntegrityError("SB-404", "The release has a named value outside 0 to 1")
    return counts, values
