"""The order at work, once it passed the chain: it is remembered on disk, with the head that it shows, before an answer.

With a new charge both are part of the charge's own transaction; without one, or where the order is refused after all,
they have a transaction of their own.
"""

import datetime as dt
from collections.abc import Callable

from solblom_client.log.decision import Decision
from solblom_client.log.decisions import about_head
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.witness import Witness
from solblom_protocol.logs.transparency import Head
from solblom_protocol.messages.order import Order


class Arrivals:
    """What has to be remembered of the order at work; one at a time."""

    def __init__(
        self,
        state: VaultState,
        store: Store,
        witness: Witness,
        *,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._state, self._store, self._witness, self._clock = state, store, witness, clock
        self._order: Order | None = None
        self._head: Head | None = None

    def forget(self) -> None:
        """Begin with another order."""
        self._order = self._head = None

    def take(self, order: Order, *, seen: bool) -> None:
        """Take an order that passed the chain; one that was `seen` shows no head anew.

        Raises:
            HistoryError: the log is not the one that this node has seen grow.
        """
        self._head = None if seen else self._witness.check(order.header)
        self._order = order

    @property
    def decisions(self) -> list[Decision]:
        """What the log of decisions has to say of it."""
        if self._order is None or self._head is None:
            return []
        return [about_head("witnessed", self._order, self._head)]

    def put(self) -> None:
        """Remember it; call inside a transaction, and `forget` once that is on disk."""
        if self._order is not None:
            self._store.remember_order(self._order, now=self._clock())
        if self._order is not None and self._head is not None:
            self._witness.remember(self._order.header)

    def remember(self) -> list[Decision]:
        """Remember it on disk, where nothing has yet; return what the log of decisions has to say of it."""
        decisions = self.decisions
        if self._order is not None:
            with self._state.transaction():
                self.put()
            self.forget()
        return decisions
