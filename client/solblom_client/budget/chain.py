"""The ledger's hash chain: every charge, and the work it was bound to, each with the head up to it.

It is compared whole when the ledger is opened, and before every charge after anybody else wrote into the state file;
otherwise what is new since the last time is compared, so that the gate takes as long after ten thousand charges as
after ten.
"""

from collections import Counter

from solblom_client.budget.anchor import EMPTY_HEAD
from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import (
    CanonicalError,
    JsonValue,
    canonical_json,
    digest,
    parse_canonical,
)

_ENTRIES = "SELECT id, entry, head FROM journal"
_CHARGES = "SELECT id, study, run, kind, round, request, event, reserved_at, work FROM events"


class LedgerChain:
    """What the journal of a state says, once each entry follows from those before it and charges agree.

    Attributes:
        heads: the chain's heads, the empty one first.
        spending: how often each study (its digest) had each event (its canonical text).
        made: how many charges of each kind each study had.
    """

    def __init__(self, state: VaultState) -> None:
        self._state = state
        self._forget()

    def _forget(self) -> None:
        self._version: int | None = None  # of the file, as others write into it
        self._last: int | None = None  # the newest journal row that was checked
        self._reserved: list[list[JsonValue]] = []
        self._works: dict[int, str] = {}
        self._compared = 0  # charges
        self.heads = [EMPTY_HEAD]
        self.spending: Counter[tuple[str, str]] = Counter()
        self.made: Counter[tuple[str, str]] = Counter()

    def check(self) -> None:
        """Check what is new, or all of it after somebody else wrote.

        Raises:
            IntegrityError: SB-402, an entry's head does not follow from it and the head before, or the charges are
                not those of the chain.
        """
        version = self._state.others_version()
        if version != self._version or not self._stands():
            self._forget()
        self._version = None  # until all of it holds
        for row, text, head in self._rows(_ENTRIES, after=self._last):
            self._take(int(str(row)), str(text), str(head))
        self._compare_charges()
        self._version = version

    def _stands(self) -> bool:
        """Tell whether the newest checked row is there still: a transaction may have been undone."""
        if self._last is None:
            return True
        rows = self._state.query("SELECT head FROM journal WHERE id = ?", (self._last,))
        return rows == [(self.heads[-1],)]

    def _rows(self, select: str, *, after: int | None) -> list[tuple[object, ...]]:
        """Return the rows after a number in order, or all: SQLite numbers rows from 1 and takes any number, also -5."""
        if after is None:
            return self._state.query(f"{select} ORDER BY id")
        return self._state.query(f"{select} WHERE id > ? ORDER BY id", (after,))

    def _take(self, row: int, text: str, head: str) -> None:
        if next_head(self.heads[-1], text) != head:
            raise IntegrityError("SB-402", f"Entry {len(self.heads)} of the ledger was changed")
        try:
            entry = parse_canonical(text.encode())
        except CanonicalError:
            raise IntegrityError("SB-402", "The ledger has an unreadable entry") from None
        match entry:
            case ["reserve", *charge]:
                self._reserved.append(charge)
            case ["bind", int(charged), str(work)]:
                self._works[charged] = work
        self.heads.append(head)
        self._last = row

    def _compare_charges(self) -> None:
        """Compare the charges that are new, and the one before them, whose work may be new."""
        start = max(self._compared - 1, 0)
        before = int(str(self._reserved[start - 1][0])) if start else None
        rows = self._rows(_CHARGES, after=before)
        if [list(row[:-1]) for row in rows] != self._reserved[start:] or any(
            self._works.get(int(str(row[0]))) != row[-1] for row in rows
        ):
            raise IntegrityError("SB-402", "The ledger's charges are not those of its chain")
        new = rows[self._compared - start :]
        self.spending.update((str(row[1]), str(row[6])) for row in new)
        self.made.update((str(row[1]), str(row[3])) for row in new)
        self._compared = len(self._reserved)


def next_head(head: str, entry: str) -> str:
    """Return the head after one more entry."""
    return digest(canonical_json([head, entry]))
