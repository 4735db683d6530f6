"""Which entries of a list were read before, by their bytes alone: so that a changed source costs what changed in it.

An entry is taken for known only where the newer bytes hold the whole text of an earlier one, at a place where an
entry begins. The text of a JSON object is never the beginning of another one's, so such an entry also ends
there, whatever follows; what follows is then read as after any entry. Nothing in the newer bytes is trusted.
"""

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

_NEIGHBOURS = 8  # earlier entries that are tried at once: the one expected, and those after it
_LOST = 3  # unknown entries in a row after which they are looked up among the earlier ones
_FURTHER = 64  # earlier entries that the lookup learns for each unknown one: about the work of reading that one


class Run(NamedTuple):
    """Entries that stand in the newer bytes as they stood in the earlier ones, one after another.

    Attributes:
        first: number of the first of them among the earlier entries.
        length: how many.
        shift: bytes by which they stand further on than before.
        end: place after the last one in the newer bytes.
    """

    first: int
    length: int
    shift: int
    end: int


@dataclass(frozen=True)
class Places:
    """The entries of a list in bytes, all of them JSON objects.

    Attributes:
        starts: place of the first byte of each.
        ends: place after the last byte of each.
    """

    data: bytes = field(repr=False)
    starts: "array[int]"
    ends: "array[int]"


@dataclass
class Unchanged:
    """Earlier entries, looked for in newer bytes from the beginning to the end of a list.

    Attributes:
        expected: number of the earlier entry that should come next.
        elsewhere: another one that may come next.
        unknown: entries in a row that had to be read.
    """

    before: Places
    data: bytes = field(repr=False)
    expected: int = 0
    elsewhere: int | None = None
    unknown: int = 0
    _noted: dict[int, int] = field(default_factory=dict, repr=False)  # by hash of an entry's bytes
    _frontier: int = 0  # the next entry to note
    _learnt: int = 0

    def run_at(self, at: int) -> Run | None:
        """Return the known entries from a place on at which an entry begins; None: that entry has to be read."""
        # Once the lookup is at work, it finds what the neighbours would.
        tried = range(self.expected, self.expected + (1 if self.unknown > _LOST else _NEIGHBOURS))
        for first in tried if self.elsewhere is None else (*tried, self.elsewhere):
            if first < len(self.before.starts) and self._stands_at(first, at):
                run = self._longest(first, at)
                self.expected, self.elsewhere, self.unknown = first + run.length, None, 0
                return run
        self.elsewhere = None
        return None

    def passed(self, start: int, end: int) -> None:
        """Take in that an entry had to be read; after some in a row, look for it everywhere among the earlier ones."""
        self.unknown += 1
        if self.unknown <= _LOST:
            return
        self._learn()
        number = self._noted.get(hash(self.data[start:end]))
        if number is not None and self._stands_at(number, start):
            self.elsewhere = number + 1

    def _stands_at(self, number: int, at: int) -> bool:
        """Tell whether the newer bytes hold the whole text of an earlier entry at a place."""
        return self._same(self.before.starts[number], self.before.ends[number], at)

    def _same(self, start: int, end: int, at: int) -> bool:
        return self.data.startswith(memoryview(self.before.data)[start:end], at)

    def _longest(self, first: int, at: int) -> Run:
        """Return as many entries as stand there unchanged, of which the first does; with all that is between them."""
        starts, ends = self.before.starts, self.before.ends
        shift, last, step, growing = at - starts[first], first, 1, True
        while step:
            following = last + step
            same = following < len(ends) and self._same(
                ends[last], ends[following], ends[last] + shift
            )
            last = following if same else last
            growing = growing and same
            step = step * 2 if growing else step // 2
        return Run(first, last - first + 1, shift, ends[last] + shift)

    def _learn(self) -> None:
        """Note some more of the earlier entries, from the expected one on and then around."""
        total = len(self.before.starts)
        if self._learnt >= total:
            return
        self._learnt += _FURTHER
        self._frontier = max(self._frontier, self.expected)
        for _ in range(_FURTHER):
            number = self._frontier % total
            text = self.before.data[self.before.starts[number] : self.before.ends[number]]
            self._noted.setdefault(hash(text), number)
            self._frontier += 1
