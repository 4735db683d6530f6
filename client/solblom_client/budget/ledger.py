"""The privacy ledger: one per hospital, over all data sets, studies and runs (privacy.md rule 6).

    reserve (fsync) → read rows, train → commit

* Rows are events, never epsilons; what an event costs is computed when it is asked.
* A reservation counts as spent from the moment it is on disk. A crash after it changes nothing.
* Charges form a hash chain; its head stands in an anchor outside the state folder.
* Two caps. Per study: PLD over the study's events. Lifetime: RDP at one order fixed when the ledger
  was made.
* An event that the accountant does not know, or training without noise, costs infinity.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from solblom_client.budget.anchor import Anchor, LedgerHead
from solblom_client.budget.chain import LedgerChain, next_head
from solblom_client.policy import NodeConfig, PolicyTable
from solblom_client.state import VaultState
from solblom_models.accountant import (
    filter_order,
    format_epsilon,
    patient_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_verify.canonical import canonical_json, parse_canonical
from solblom_verify.wording import counted, format_delta

STATE_FILE = "vault.sqlite"  # in the state folder


@dataclass(frozen=True)
class Reservation:
    """A charge on disk. `work` is None until the cohort is known."""

    id: int
    request: str
    work: str | None
    status: str


@dataclass(frozen=True)
class Request:
    """What is asked, before the cohort is known: the key under which a charge is found again."""

    digest: str
    study: str
    run: str
    round: int
    event: PrivacyEvent
    kind: OrderKind = "train"

    @property
    def title(self) -> str:
        """The request in words."""
        names = {"train": "Round", "evaluate": "Release", "describe": "Table"}
        return f"{names[self.kind]} {self.round}"


@dataclass(frozen=True)
class StudyLimits:
    """What the signed study promises its patients."""

    epsilon: float | None  # None: privacy is off, which the hospital's policy must allow
    delta: float
    releases: int = 0  # score histograms over all runs; Table 1 leaves once


@dataclass(frozen=True)
class Entry:
    """One row of the ledger."""

    study: str
    run: str
    kind: str
    round: int
    status: str
    event: PrivacyEvent
    reserved_at: str


class Ledger:
    """The ledger in a vault's state."""

    def __init__(self, state: VaultState, anchor: Anchor) -> None:
        self._state = state
        self._anchor = anchor
        self._chain = LedgerChain(state)
        self._newest: LedgerHead | None = None  # that this process put on disk

    @staticmethod
    def initial_meta(policy: PolicyTable) -> dict[str, str]:
        """Return what a new ledger fixes for ever: the order of the lifetime filter."""
        return {"filter_order": str(filter_order(policy.epsilon_budget, policy.delta))}

    @property
    def filter_order(self) -> int:
        """The order of the lifetime filter.

        Raises:
            IntegrityError: SB-402.
        """
        rows = self._state.query("SELECT value FROM meta WHERE key = 'filter_order'")
        if len(rows) != 1 or not str(rows[0][0]).isdigit() or int(str(rows[0][0])) < 2:
            raise IntegrityError("SB-402", "The ledger does not name its filter order")
        return int(str(rows[0][0]))

    def entries(self, study: str | None = None) -> list[Entry]:
        """Return all rows, or one study's, in order."""
        where, values = ("WHERE study = ?", (study,)) if study else ("", ())
        rows = self._state.query(
            "SELECT study, run, kind, round, status, event, reserved_at FROM events "  # noqa: S608
            f"{where} ORDER BY id",
            values,
        )
        return [
            Entry(
                str(r[0]), str(r[1]), str(r[2]), int(str(r[3])), str(r[4]), _event(r[5]), str(r[6])
            )
            for r in rows
        ]

    def find(self, request: str) -> Reservation | None:
        """Return the newest charge for a request."""
        rows = self._state.query(
            "SELECT id, request, work, status FROM events WHERE request = ? ORDER BY id DESC LIMIT 1",
            (request,),
        )
        if not rows:
            return None
        row = rows[0]
        work = None if row[2] is None else str(row[2])
        return Reservation(int(str(row[0])), str(row[1]), work, str(row[3]))

    def answered_work(self, request: Request) -> list[tuple[str, str]]:
        """Return (request, work) of every answer to this round or release of the run."""
        rows = self._state.query(
            "SELECT request, work FROM events WHERE study = ? AND run = ? AND kind = ? AND round = ?"
            " AND status = 'spent'",
            (request.study, request.run, request.kind, request.round),
        )
        return [(str(row[0]), str(row[1])) for row in rows]

    def answered(self, study: str, run: str) -> dict[str, int]:
        """Return how many rounds and releases of a run were answered, by kind."""
        rows = self._state.query(
            "SELECT kind, count(DISTINCT round) FROM events WHERE study = ? AND run = ?"
            " AND status = 'spent' GROUP BY kind",
            (study, run),
        )
        return {str(kind): int(str(count)) for kind, count in rows}

    def reserve(
        self,
        request: Request,
        *,
        policy: PolicyTable,
        limits: StudyLimits,
        now: dt.datetime,
        beside: Callable[[VaultState], None] | None = None,
    ) -> Reservation:
        """Put a charge on disk, or refuse it; `beside` writes what must stand or fall with it.

        Raises:
            RefusedError: SB-204, with the numbers (which stay inside the hospital).
            IntegrityError: SB-402.
        """
        with self._state.transaction():
            before = self.check_anchor()
            if not before.count:
                self._anchor.write(before)  # from now on its absence means that it was removed
            self._check_releases(request, limits)
            self._check_study(request, policy, limits)
            self._check_lifetime(request, policy, limits)
            row = self._state.execute(
                "INSERT INTO events (study, run, kind, round, request, status, event, reserved_at)"
                " VALUES (?, ?, ?, ?, ?, 'reserved', ?, ?)",
                (
                    request.study,
                    request.run,
                    request.kind,
                    request.round,
                    request.digest,
                    canonical_json(request.event.to_json()).decode(),
                    timestamp(now),
                ),
            )
            after = self._append(before, self._charge_entry(row))
            if beside is not None:
                beside(self._state)
        # Written after the charge: a crash in between leaves the ledger ahead, which is no rollback.
        self._keep(after)
        return Reservation(row, request.digest, None, "reserved")

    def bind(self, reservation: Reservation, work: str) -> Reservation:
        """Write on disk, and into the chain, which work a charge is for; before training."""
        if reservation.work == work:
            return reservation
        with self._state.transaction():
            before = self.check_anchor()
            self._state.execute("UPDATE events SET work = ? WHERE id = ?", (work, reservation.id))
            after = self._append(before, ["bind", reservation.id, work])
        self._keep(after)
        return Reservation(reservation.id, reservation.request, work, reservation.status)

    def confirm(self) -> None:
        """Check chain and anchor, and bring the anchor up to date after a crash between the two.

        Raises:
            IntegrityError: SB-402.
        """
        self._anchor.write(self.check_anchor())

    def check_anchor(self) -> LedgerHead:
        """Return the ledger's head; chain, charges and anchor agree.

        Raises:
            IntegrityError: SB-402, a charge was changed or removed, the state is older than its
                anchor, or the anchor is gone.
        """
        self._chain.check()
        heads, anchored = self._chain.heads, self._anchor.read()
        count = len(heads) - 1
        if anchored is None and count and self._anchor.exists_for_sure:
            raise IntegrityError("SB-402", "The ledger's anchor is gone")
        for known, who in ((anchored, "its anchor"), (self._newest, "what this process put there")):
            if known is not None and known.count > count:
                raise IntegrityError(
                    "SB-402",
                    f"The ledger has {counted(count, 'entry', 'entries')}, {who} {known.count}: "
                    "it was rolled back",
                )
            if known is not None and known.head != heads[known.count]:
                raise IntegrityError("SB-402", f"The ledger is not the one of {who}")
        return LedgerHead(count, heads[-1])

    def _keep(self, head: LedgerHead) -> None:
        """Remember a head that is on disk, here and in the anchor, which a node may lack."""
        self._newest = head
        self._anchor.write(head)

    def _charge_entry(self, row: int) -> list[Any]:
        values = self._state.query(
            "SELECT id, study, run, kind, round, request, event, reserved_at FROM events"
            " WHERE id = ?",
            (row,),
        )[0]
        return ["reserve", *values]

    def _append(self, before: LedgerHead, entry: list[Any]) -> LedgerHead:
        text = canonical_json(entry).decode()
        after = LedgerHead(before.count + 1, next_head(before.head, text))
        self._state.execute("INSERT INTO journal (entry, head) VALUES (?, ?)", (text, after.head))
        return after

    def mark_spent(self, reservation: Reservation) -> None:
        """Mark a charge as spent; call inside the transaction that stores the result."""
        self._state.execute("UPDATE events SET status = 'spent' WHERE id = ?", (reservation.id,))

    def lifetime_epsilon(self, delta: float, extra: tuple[PrivacyEvent, ...] = ()) -> float:
        """Return what all events together cost by the lifetime filter."""
        events = [entry.event for entry in self.entries()]
        return rdp_epsilon([*events, *extra], delta, order=self.filter_order)

    def _spent(self, study: str | None = None) -> list[PrivacyEvent]:
        """Return the events of all charges, or of one study's; right after `check_anchor`, and in no order."""
        return [
            event
            for (charged, text), times in self._chain.spending.items()
            if study in (None, charged)
            for event in [_event(text)] * times
        ]

    def _check_releases(self, request: Request, limits: StudyLimits) -> None:
        """Refuse more releases than the study fixes, however cheap (privacy.md rule 9)."""
        allowed = {"evaluate": limits.releases, "describe": 1}.get(request.kind)
        if allowed is None:
            return
        made = self._chain.made[request.study, request.kind]
        if made >= allowed:
            raise RefusedError(
                "SB-204",
                f"The study has made {made} of {counted(allowed, 'release')} ({request.kind})",
            )

    def _check_study(self, request: Request, policy: PolicyTable, limits: StudyLimits) -> None:
        if limits.epsilon is None:
            return  # allowed by policy; the lifetime becomes infinite below
        events = [*self._spent(request.study), request.event]
        # The study promises to its unit; the hospital's cap is for each patient (docs/adr/0021).
        for name, cap, delta, cost_of in (
            ("the study's own epsilon", limits.epsilon, limits.delta, pld_epsilon),
            ("policy.study_epsilon", policy.study_epsilon, policy.delta, patient_epsilon),
        ):
            cost = cost_of(events, delta)
            if cost > cap:
                raise RefusedError(
                    "SB-204",
                    f"{request.title} would bring the study to epsilon {format_epsilon(cost)} "
                    f"at delta {format_delta(delta)}; {name} is {cap:g}",
                )

    def _check_lifetime(self, request: Request, policy: PolicyTable, limits: StudyLimits) -> None:
        if limits.epsilon is None:
            return
        events = [*self._spent(), request.event]
        cost = rdp_epsilon(events, policy.delta, order=self.filter_order)
        if cost > policy.epsilon_budget:
            raise RefusedError(
                "SB-204",
                f"{request.title} would bring this hospital to epsilon {format_epsilon(cost)} "
                f"over its lifetime; policy.epsilon_budget is {policy.epsilon_budget:g}",
            )


def open_ledger(config: NodeConfig, state: VaultState) -> Ledger:
    """Return the ledger in a node's state, with the anchor that node.toml names."""
    anchor = config.path(config.node.anchor) if config.node.anchor else None
    return Ledger(state, Anchor(anchor))


def more_rounds(
    ledger: Ledger, event: PrivacyEvent, policy: PolicyTable, *, most: int = 100_000
) -> int:
    """Return how many more rounds like `event` the lifetime budget admits, at most `most`."""
    spent = [entry.event for entry in ledger.entries()]

    def fits(count: int) -> bool:
        cost = rdp_epsilon([*spent, event.times(count)], policy.delta, order=ledger.filter_order)
        return cost <= policy.epsilon_budget

    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return min(low, most)


def remaining(budget: float, spent: float) -> str:
    """Return budget minus spent as a decimal string, never below zero."""
    if spent == float("inf"):
        return "0"
    left = Decimal(repr(budget)) - Decimal(format_epsilon(spent))
    return str(max(left, Decimal(0)))


def _event(text: object) -> PrivacyEvent:
    return _read_event(str(text))


@lru_cache(maxsize=4096)  # every order reads all of them, and most are one study's same round
def _read_event(text: str) -> PrivacyEvent:
    try:
        return PrivacyEvent.from_json(parse_canonical(text.encode()))
    except (ValueError, IntegrityError):
        raise IntegrityError("SB-402", "The ledger has an unreadable event") from None
