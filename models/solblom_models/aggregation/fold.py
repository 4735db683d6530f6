"""The fold: updates become integers, integers add up, one division at the end.

Integer addition is associative, so the sum does not depend on the order of arrival, needs constant
memory, replays bit for bit, and is the arithmetic that a secure sum masks (architecture.md,
"Aggregation arithmetic").
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.layout import FIXED_POINT_BITS, Float32, is_on_grid

MAX_ABSOLUTE = 2.0**20  # of one value in one update
BLOCK = 65_536  # values folded at a time
MAX_UPDATES = 2**16  # 2^20 * 2^24 * 2^16 = 2^60 stays inside the int64 ring


def check_update(update: Float32, *, size: int, before: int) -> None:
    """Refuse an update that could not be worked on exactly; `before` are in the round already.

    Raises:
        IntegrityError: SB-404, wrong size, not on the grid of 2^-24, too large, or one update too many.
    """
    if update.shape != (size,) or not is_on_grid(update):
        raise IntegrityError("SB-404", "The update is not a finite array on the public grid")
    largest = max(float(update.max(initial=0.0)), -float(update.min(initial=0.0)))
    if largest > MAX_ABSOLUTE or before >= MAX_UPDATES:
        raise IntegrityError("SB-404", "The update could overflow the sum")


def whole_numbers(part: Float32) -> NDArray[np.int64]:
    """Return values of the grid of 2^-24 in its steps, exactly."""
    return (part.astype(np.float64) * 2.0**FIXED_POINT_BITS).astype(np.int64)


@dataclass
class Fold:
    """A running integer sum of updates of `size` values."""

    size: int
    count: int = 0
    _sum: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._sum = np.zeros(self.size, dtype=np.int64)

    def add(self, update: Float32) -> None:
        """Add one update, exactly.

        Raises:
            IntegrityError: SB-404, see `check_update`.
        """
        check_update(update, size=self.size, before=self.count)
        for start in range(0, self.size, BLOCK):  # blocks stay in the processor's cache
            self._sum[start : start + BLOCK] += whole_numbers(update[start : start + BLOCK])
        self.count += 1

    def result(self) -> NDArray[np.float64]:
        """Return what the round moves the model by: the mean."""
        return self.mean()

    def mean(self) -> NDArray[np.float64]:
        """Return the plain mean, float64: every node weighs the same, by public constant.

        A hospital's size shows only in its own sum, which every node divides by the same public
        divisor.

        Raises:
            ValueError: nothing was added.
        """
        if not self.count:
            raise ValueError("nothing was folded")
        return self._sum.astype(np.float64) / (self.count * 2.0**FIXED_POINT_BITS)
