"""Rules that bear hospitals whose updates may be anything: median, trimmed mean, Krum.

They compare updates, so all of a round are needed at once: four bytes a weight and hospital. All arithmetic is of
integers, like the fold's, so the result depends neither on the order of arrival nor on the machine, and replays bit for
bit. Why these are not Flower's own strategies, and what they estimate: docs/adr/0023-robust-rules.md; a test compares
them with Flower's on the same inputs. What hospitals released is worked on after its noise: no rule costs privacy.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solblom_models.aggregation.fold import Fold, check_update, whole_numbers
from solblom_protocol.errors import RunError
from solblom_protocol.messages.layout import FIXED_POINT_BITS, Float32
from solblom_protocol.studies.checks import ROBUST, updates_needed
from solblom_protocol.studies.tables import TrainingTable
from solblom_verify.wording import counted

BLOCK = 8192  # weights of all updates at a time; also bounds the sums in `squared_distance`
LOW_BITS = 23


@dataclass
class Comparison:
    """The updates of one round, of `size` values each, for a rule that compares them."""

    size: int
    training: TrainingTable
    _updates: list[Float32] = field(default_factory=list, init=False, repr=False)

    @property
    def count(self) -> int:
        """How many updates are here."""
        return len(self._updates)

    def add(self, update: Float32) -> None:
        """Take one update; it is copied.

        Raises:
            IntegrityError: SB-404, see `check_update`.
        """
        check_update(update, size=self.size, before=self.count)
        self._updates.append(update.copy())

    def result(self) -> NDArray[np.float64]:
        """Return what the round moves the model by, float64, shape (size,).

        Raises:
            RunError: SB-501, fewer updates than the rule needs: it would protect from nobody.
        """
        needed = updates_needed(self.training)
        if self.count < needed:
            raise RunError(
                "SB-501",
                f"{self.training.strategy} needs {counted(needed, 'update')} of one round; there "
                f"{'is' if self.count == 1 else 'are'} {self.count}",
            )
        tolerated = self.training.tolerated or 0
        if self.training.strategy == "krum":
            return _as_float(self._updates[nearest_to_others(self._updates, tolerated)])
        cut = (self.count - 1) // 2 if self.training.strategy == "median" else tolerated
        return middle_mean(self._updates, cut)


def round_of(training: TrainingTable, size: int) -> Fold | Comparison:
    """Return an empty round of a study: its updates are added, its result is what the model moves by."""
    return Comparison(size, training) if training.strategy in ROBUST else Fold(size)


def rule_in_words(training: TrainingTable) -> str:
    """Return the rule by which a round's updates become one."""
    cut = counted(training.tolerated or 0, "hospital")
    return {
        "median": "coordinate-wise median",
        "trimmed-mean": f"coordinate-wise trimmed mean, {cut} left out at each end",
        "krum": f"Krum, {cut} tolerated: the one update nearest to the others",
    }.get(training.strategy, "plain mean")


def middle_mean(updates: list[Float32], cut: int) -> NDArray[np.float64]:
    """Return the mean of each weight's updates without its `cut` smallest and `cut` largest.

    With cut = (n - 1) // 2 it is the median: of an even number, the mean of the middle two.
    """
    count, size = len(updates), len(updates[0])
    kept = count - 2 * cut
    found = np.empty(size, dtype=np.float64)
    for start in range(0, size, BLOCK):
        part = slice(start, start + BLOCK)
        block = np.stack([whole_numbers(update[part]) for update in updates])
        block.sort(axis=0)
        # At most 2^16 values of 2^44: the sum stays below 2^60, as in the fold.
        found[part] = block[cut : count - cut].sum(axis=0).astype(np.float64)
    found /= kept * 2.0**FIXED_POINT_BITS
    return found


def nearest_to_others(updates: list[Float32], tolerated: int) -> int:
    """Return the place of Krum's choice (Blanchard et al. 2017, arXiv:1703.02757, section 4).

    An update's score is the sum of squared distances to its n - f - 2 nearest others; the smallest wins. Of equal
    scores the one with the smallest bytes, so that neither arrival nor names decide.
    """
    count = len(updates)
    distances = [[0] * count for _ in updates]
    for i in range(count):
        for j in range(i):
            distances[i][j] = distances[j][i] = squared_distance(updates[i], updates[j])
    nearest = count - tolerated - 2
    scores = [
        sum(sorted(row[:place] + row[place + 1 :])[:nearest]) for place, row in enumerate(distances)
    ]
    tied = [place for place in range(count) if scores[place] == min(scores)]
    return min(tied, key=lambda place: updates[place].tobytes())


def squared_distance(one: Float32, other: Float32) -> int:
    """Return the squared Euclidean distance in units of 2^-48, exactly.

    A difference d of grid steps is below 2^46. It is split into d = high * 2^23 + low with |high| <= 2^23 and
    0 <= low < 2^23, so that a block's sums of products stay below 2^46 * 2^13 = 2^59.
    """
    total = 0
    for start in range(0, len(one), BLOCK):
        part = slice(start, start + BLOCK)
        difference = whole_numbers(one[part]) - whole_numbers(other[part])
        high = difference >> LOW_BITS
        low = difference - (high << LOW_BITS)
        total += int(np.dot(high, high)) << 2 * LOW_BITS
        total += int(np.dot(high, low)) << LOW_BITS + 1
        total += int(np.dot(low, low))
    return total


def _as_float(update: Float32) -> NDArray[np.float64]:
    found = update.astype(np.float64)
    found += 0.0  # minus zero becomes zero, as in the fold
    return found
