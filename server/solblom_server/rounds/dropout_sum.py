"""The coordinator's side of a secure sum that opens without every hospital (privacy.md rule 8, second form).

One sum takes four exchanges: setups, masked vectors, signatures on whose vectors the sum has, shares that
open it. Whose masks and whose vectors stands in the database before anybody is asked for what follows from
it; vectors lie on disk until the sum is open. So whatever dies, the same sum goes on: hospitals sign one
survivor set a round, ever, and refuse a second.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import IntegrityError, RunError
from solblom_protocol.messages.layout import Layout
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.sums.mask_setup import (
    DealtSetup,
    Participants,
    participants_of,
    read_dealt_setup,
    read_share_keys,
)
from solblom_protocol.sums.pair_masks import CHECK_WORDS
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.roster import SumRoster, SumRound
from solblom_protocol.sums.run_sums import place_of, sum_at, sum_roster
from solblom_protocol.sums.survivors import (
    AgreedSurvivors,
    SurvivorSet,
    check_cosignatures,
    choose_survivors,
    join_cosignatures,
    read_cosignature,
)
from solblom_protocol.sums.unmasking import join_releases, read_release, unmask_sum
from solblom_server.rounds.exchange import (
    Question,
    RunContext,
    check_quorum,
    close_exchange,
    collect,
)

Paper = TypeVar("Paper")

VECTORS = "vectors"
GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class OpenSum:
    """An opened sum: integers, and whose vectors are in it."""

    values: NDArray[np.int64]
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class DropoutSum:
    """One sum of a run. `asked` is the exchange for vectors; its `take` is replaced."""

    context: RunContext
    asked: Question
    size: int
    tail_bytes: int = 0  # what follows a vector unmasked: values that are released by name
    take_tail: Callable[[str, bytes], None] = lambda site, data: None

    def open(self) -> OpenSum:
        """Run what the sum lacks and return it.

        Raises:
            RunError: SB-501 or SB-507, fewer hospitals than the threshold in one of the steps; names the
            missing. It can be resumed.
            IntegrityError: SB-404 or SB-405, something that a hospital signed does not hold; names it.
        """
        dealt = self._dealt_setups()
        participants = participants_of(self._roster, self._of, dealt)
        survivors = self._vectors(participants, dealt)
        agreed = self._agree(participants, survivors)
        releases = self._ask(
            "open",
            list(participants.setups),
            (
                agreed.chosen.payload().decode(),
                join_cosignatures(self._cosignatures(agreed.chosen)).decode(),
            ),
            lambda data: read_release(self._roster, participants, agreed, data),
            enough=self._roster.threshold,
        )
        words = unmask_sum(
            self._ring,
            _Vectors(self, agreed.chosen.survivors),
            participants=participants,
            agreed=agreed,
            secrets=join_releases(self._roster, participants, agreed, list(releases.values())),
        )
        values = self._ring.decode(words)
        if not bool((values[self.size :] == len(agreed.chosen.survivors)).all()):
            raise RunError(
                "SB-501", "The masked sum does not open: the hospitals' masks do not cancel",
                "A hospital's node does not follow the protocol",
            )  # fmt: skip
        for path in self._folder.glob(f"{self._place}-*.bin"):
            path.unlink()
        return OpenSum(values[: self.size], tuple(agreed.chosen.survivors))

    @cached_property
    def _roster(self) -> SumRoster:
        return sum_roster(self.context.document, self.context.run)

    @cached_property
    def _place(self) -> int:
        return place_of(self.context.document, self.asked.kind, self.asked.number)

    @property
    def _of(self) -> SumRound:
        return sum_at(self.context.document, self._roster, self._place)

    @cached_property
    def _ring(self) -> Ring:
        table = self.context.document.study.secure_sum
        return Ring(32 if table is None else table.ring_bits)

    @property
    def _folder(self) -> Path:
        return self.context.folder / VECTORS

    def _dealt_setups(self) -> list[DealtSetup]:
        """Return whose masks are in the vectors: everybody who gave a setup, fixed before vectors are asked for."""
        keys = collect_share_keys(self.context)
        expected = set(self.context.database.survivors(self.context.run, self._place - 1) or [])
        setups = self._ask(
            "setup",
            list(self._roster.sites),
            keys,
            lambda data: read_dealt_setup(self._roster, self._of, data),
            until=_Patience(expected).is_over,
        )
        chosen = self.context.database.fix_participants(
            self.context.run, self._place, sorted(setups)
        )
        return [setups[site] for site in chosen]

    def _vectors(self, participants: Participants, dealt: list[DealtSetup]) -> list[str]:
        """Ask for masked vectors, keep them on disk, and return whose the sum has."""
        self._folder.mkdir(parents=True, exist_ok=True)
        question = replace(
            self.asked,
            take=self._keep_vector,
            own_masking={
                site: tuple(setup.hand_to(site) for setup in dealt) for site in participants.setups
            },
        )
        fixed = self.context.database.survivors(self.context.run, self._place)
        wanted = list(participants.setups) if fixed is None else fixed
        missing = self._without_vector(wanted)
        if missing:
            collection = collect(self.context, question, missing)
            collection.results |= set(wanted) - set(missing)
            collection.done |= collection.results
            # Once a set was signed, no other one ever will be: then every vector of it is needed.
            needed = None if fixed is None else len(fixed)
            check_quorum(self.context, question, collection, needed=needed)
            close_exchange(self.context, collection)
        gone = set(self._without_vector(wanted))
        arrived = [site for site in wanted if site not in gone]
        return self.context.database.fix_survivors(self.context.run, self._place, arrived)

    def _without_vector(self, sites: list[str]) -> list[str]:
        return [site for site in sites if not self._vector_file(site).is_file()]

    def _agree(self, participants: Participants, survivors: list[str]) -> AgreedSurvivors:
        chosen = choose_survivors(
            self._roster,
            participants,
            base_model=self.asked.base_model,
            survivors=survivors,
        )
        self._ask(
            "agree",
            survivors,
            (chosen.payload().decode(),),
            lambda data: read_cosignature(self._roster, chosen, data),
            enough=self._roster.threshold,
        )
        papers = join_cosignatures(self._cosignatures(chosen))
        return check_cosignatures(self._roster, chosen, papers)

    def _cosignatures(self, chosen: SurvivorSet) -> list[bytes]:
        found = self._stored("agree")
        return [found[site] for site in chosen.survivors if site in found]

    def _ask(
        self,
        kind: OrderKind,
        sites: list[str],
        papers: tuple[str, ...],
        read: Callable[[bytes], Paper],
        *,
        until: Callable[[set[str]], bool] = lambda answered: False,
        enough: int | None = None,
    ) -> dict[str, Paper]:
        """Ask for what each hospital signs in one step; return what is here, also of before a restart.

        Ends when all have answered, when `until` says so, or with `enough` answers.

        Raises:
            RunError: SB-501 or SB-507, fewer than the threshold.
        """
        stored = self._stored(kind)
        found = {site: read(paper) for site, paper in stored.items() if site in sites}

        def take(site: str, envelope: bytes | memoryview) -> None:
            found[site] = read(bytes(envelope))

        question = Question(kind, self._place, b"", Layout(()), None, take, papers)
        missing = [site for site in sites if site not in found]
        before = set(found)
        if missing and not until(before) and (enough is None or len(before) < enough):
            collection = collect(
                self.context,
                question,
                missing,
                until=lambda answered: until(answered | before),
                enough=None if enough is None else enough - len(before),
            )
            collection.results |= before
            collection.done |= before
            check_quorum(self.context, question, collection)
            close_exchange(self.context, collection)
        return found

    def _stored(self, kind: OrderKind) -> dict[str, bytes]:
        replies = self.context.database.replies(self.context.run, asked=kind)
        return {
            r.site: r.envelope
            for r in replies
            if r.round == self._place and r.kind == "result" and r.envelope is not None
        }

    def _keep_vector(self, site: str, data: bytes | memoryview) -> None:
        """Put one masked vector on disk.

        Raises:
            IntegrityError: SB-404, another size.
        """
        cut = len(data) - self.tail_bytes
        if cut != self._ring.word_bytes * (self.size + CHECK_WORDS):
            raise IntegrityError("SB-404", f"The masked vector of {site} has another size")
        self.take_tail(site, bytes(data[cut:]))
        path = self._vector_file(site)
        part = path.with_suffix(".part")
        part.write_bytes(data[:cut])
        part.rename(path)

    def _vector_file(self, site: str) -> Path:
        return self._folder / f"{self._place}-{site}.bin"


@dataclass
class _Patience:
    """How long a setup is waited for: whoever was in the last sum until the deadline, others as long again.

    They may come back, and are asked along; but a hospital that is gone must not cost every round a
    deadline.
    """

    expected: set[str]
    began: float = field(default_factory=time.monotonic)
    all_there: float | None = None

    def is_over(self, answered: set[str]) -> bool:
        """Tell whether the exchange may end without those that are missing."""
        if not self.expected or not self.expected <= answered:
            return False
        now = time.monotonic()
        if self.all_there is None:
            self.all_there = now
        return now >= self.all_there + (self.all_there - self.began) + GRACE_SECONDS


@dataclass(frozen=True)
class _Vectors(Mapping[str, Words]):
    """The survivors' vectors, read from disk one at a time."""

    of: DropoutSum
    sites: list[str]

    def __getitem__(self, site: str) -> Words:
        return self.of._ring.words(self.of._vector_file(site).read_bytes())

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


def collect_share_keys(context: RunContext) -> tuple[str, ...]:
    """Return every hospital's signed share key of the run, asking those that have not given theirs.

    Raises:
        RunError: SB-501 or SB-507, a hospital gave none: the first step needs all of them.
    """
    roster = sum_roster(context.document, context.run)
    replies = context.database.replies(context.run, asked="keys")
    found = {r.site: r.envelope for r in replies if r.kind == "result" and r.envelope is not None}

    def take(site: str, envelope: bytes | memoryview) -> None:
        found[site] = bytes(envelope)

    missing = [site for site in roster.sites if site not in found]
    if missing:
        question = Question("keys", 1, b"", Layout(()), None, take)
        collection = collect(context, question, missing)
        collection.results |= set(found)
        collection.done |= set(found)
        check_quorum(context, question, collection, needed=len(roster.sites))
        close_exchange(context, collection)
    envelopes = [found[site] for site in roster.sites]
    read_share_keys(roster, envelopes)  # the hospitals would refuse them: say so before they train
    return tuple(envelope.decode() for envelope in envelopes)
