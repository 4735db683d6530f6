"""Broken ledgers, one plausible slip each, that the schedules must find: proof that the claims can fail."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from schedules.machine import CAPS, NOISE, ONE, ORDER, SAME, TODAY, UNDER
from solblom_client import answers as answers_module
from solblom_client import vault as vault_module
from solblom_client.budget.anchor import EMPTY_HEAD, LedgerHead
from solblom_client.budget.ledger import Ledger
from solblom_client.store import Store
from solblom_client.vault import Vault
from solblom_protocol.studies.study import StudyDocument

FIND, RESERVE, SPENT, DERIVE = Ledger.find, Ledger.reserve, Ledger._spent, answers_module.derive
INIT, STORED, WORK, PASS = (
    Vault.__init__,
    Store.stored_reply,
    vault_module.work_digest,
    Vault._pass_gate,
)

TABLE_ONE: Any = StudyDocument.table_one_event.fget  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Mutant:
    """A slip, the claims that may find it, and how the product is changed to make it."""

    name: str
    claims: tuple[str, ...]
    target: Any
    attribute: str
    instead: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make the slip while the block runs."""
        with mock.patch.object(self.target, self.attribute, self.instead):
            yield


def _clean_start(self: Vault, *args: Any, **kwargs: Any) -> None:
    """Open the vault, and tidy up charges that were reserved and gave no result."""
    INIT(self, *args, **kwargs)
    ledger = self.ledger
    with self._state.transaction():
        self._state.execute("DELETE FROM events WHERE status = 'reserved'", ())
        self._state.execute("DELETE FROM journal", ())
        head = LedgerHead(0, EMPTY_HEAD)
        for number, work in self._state.query("SELECT id, work FROM events ORDER BY id"):
            head = ledger._append(head, ledger._charge_entry(int(str(number))))
            if work is not None:
                head = ledger._append(head, ["bind", number, work])
    ledger._anchor.write(head)


def _found_unbound(self: Ledger, request: str) -> Any:
    found = FIND(self, request)
    return found and replace(found, work=None, status="reserved")


def _rows_first(self: Vault, order: Any) -> Any:
    approval = PASS(self, order)
    self._join(approval)
    return approval


def _without_patients(request: Any, approval: Any, rows: bytes, **others: Any) -> str:
    return WORK(request, approval, b"", **others)


def _table_one_of_some(self: StudyDocument) -> Any:
    event = TABLE_ONE(self)
    return event and replace(event, patients_from="0.3")


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def _stored_for_anybody(self: Store, request: str, *, recipient: Any) -> Any:
    """Give the stored reply as if it were of today's patients, whoever they are."""
    stored = STORED(self, request, recipient=recipient)
    return stored and replace(stored, work=_Anything())


def _one_noise(root: bytes, purpose: Any, work: str) -> bytes:
    return DERIVE(root, purpose, "the study's" if purpose == "noise" else work)


def _one_lot_of_coins(root: bytes, purpose: Any, work: str) -> bytes:
    return DERIVE(root, purpose, "the study's" if purpose == "sampling" else work)


def _fresh_noise(root: bytes, purpose: Any, work: str) -> bytes:
    return os.urandom(32) if purpose == "noise" else DERIVE(root, purpose, work)


def _nothing_of_a_study(self: Ledger, study: str | None = None) -> Any:
    return [] if study is not None else SPENT(self)


def _cheap(self: Ledger, request: Any, **kwargs: Any) -> Any:
    one = replace(request.event, steps=1)
    return RESERVE(self, replace(request, event=one), **kwargs)


MUTANTS = (
    Mutant(
        "a charge without a result is dropped at the next start",
        (UNDER,), Vault, "__init__", _clean_start,
    ),
    Mutant(
        "a replay over other patients uses the old charge",
        (UNDER,), Ledger, "find", _found_unbound,
    ),
    Mutant("several steps are charged as one", (UNDER,), Ledger, "reserve", _cheap),
    Mutant(
        "Table 1 is charged to training patients only",
        (UNDER,), StudyDocument, "table_one_event", property(_table_one_of_some),
    ),
    # Without the ledger's anchor a restored state is still stopped, by the log of decisions (SB-406): no mutant.
    Mutant(
        "the lifetime starts anew with each study",
        (CAPS,), Ledger, "_check_lifetime", lambda *_: None,
    ),
    Mutant(
        "the study's budget starts anew with each round",
        (CAPS,), Ledger, "_spent", _nothing_of_a_study,
    ),
    Mutant("noise follows from the study alone", (NOISE,), answers_module, "derive", _one_noise),
    Mutant("coins follow from the study alone", (NOISE,), answers_module, "derive", _one_lot_of_coins),
    Mutant("the work digest leaves out the patients", (NOISE, TODAY), vault_module, "work_digest", _without_patients),
    Mutant("each attempt draws fresh noise", (SAME, UNDER), answers_module, "derive", _fresh_noise),
    Mutant("a repeated order is charged again", (ONE,), Ledger, "find", lambda *_: None),
    Mutant(
        "a stored reply outlives its patients' consent",
        (TODAY,), Store, "stored_reply", _stored_for_anybody,
    ),
    Mutant("rows are read before the charge", (ORDER,), Vault, "_pass_gate", _rows_first),
)  # fmt: skip
