"""What the vault remembers besides the ledger: orders seen, receipts made, replies stored, parameters that stay."""

import datetime as dt

from solblom_client.gate import RunHistory
from solblom_client.state import VaultState
from solblom_protocol.messages import parse_timestamp, timestamp
from solblom_protocol.order import Order


class Store:
    """The vault's memory in its state file."""

    def __init__(self, state: VaultState) -> None:
        self._state = state

    def latest_time(self) -> dt.datetime | None:
        """Return the newest moment at which an order was accepted."""
        rows = self._state.query("SELECT max(seen_at) FROM orders")
        return parse_timestamp(str(rows[0][0])) if rows[0][0] is not None else None

    def history(self, order: Order) -> RunHistory:
        """Return what this node has seen of the order's run."""
        header = order.header
        rows = self._state.query(
            "SELECT round, max(attempt) FROM orders WHERE run = ? AND kind = ? GROUP BY round"
            " ORDER BY round DESC LIMIT 1",
            (header.run, header.kind),
        )
        last_round, last_attempt = (int(str(rows[0][0])), int(str(rows[0][1]))) if rows else (0, 0)
        return RunHistory(
            last_round=last_round,
            last_attempt=last_attempt,
            seen=self._knows("orders", order.digest),
            knows_previous=header.previous_order is None
            or self._knows("orders", header.previous_order),
            knows_receipt=header.last_receipt is None
            or self._knows("receipts", header.last_receipt),
        )

    def remember_order(self, order: Order, *, now: dt.datetime) -> None:
        """Note an order that passed the chain; call inside a transaction."""
        header = order.header
        self._state.execute(
            "INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?, ?)",
            (order.digest, header.run, header.kind, header.round, header.attempt, timestamp(now)),
        )

    def stored_reply(self, request: str) -> tuple[str, bytes] | None:
        """Return (work digest, sealed reply) of a request that was answered."""
        rows = self._state.query("SELECT work, sealed FROM results WHERE request = ?", (request,))
        if not rows or not isinstance(rows[0][1], bytes):
            return None
        return str(rows[0][0]), rows[0][1]

    def keep_reply(self, request: str, work: str, sealed: bytes) -> None:
        """Store a reply; call inside the transaction that marks its charge as spent."""
        self._state.execute(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (request, work, sealed)
        )

    def erase_reply(self, request: str) -> None:
        """Erase a stored reply: its cohort has changed (privacy.md rule 10)."""
        with self._state.transaction():
            self._state.execute("DELETE FROM results WHERE request = ?", (request,))

    def keep_receipt(self, digest: str, run: str, round_number: int) -> None:
        """Note a receipt that this node made; call inside a transaction."""
        self._state.execute(
            "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", (digest, run, round_number)
        )

    def local_parameters(self, run: str, before_round: int) -> bytes:
        """Return the parameters that stay here, as the newest earlier round left them; empty at first."""
        rows = self._state.query(
            "SELECT data FROM local_parameters WHERE run = ? AND round < ? ORDER BY round DESC LIMIT 1",
            (run, before_round),
        )
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else b""

    def keep_local_parameters(self, run: str, round_number: int, data: bytes) -> None:
        """Store the parameters that stay here; call inside a transaction."""
        self._state.execute(
            "INSERT OR REPLACE INTO local_parameters VALUES (?, ?, ?)", (run, round_number, data)
        )

    def strikes(self, study: str) -> int:
        """Return how many data-dependent refusals a study has had since a person looked."""
        rows = self._state.query("SELECT count FROM strikes WHERE study = ?", (study,))
        return int(str(rows[0][0])) if rows else 0

    def add_strike(self, study: str) -> None:
        """Count a data-dependent refusal."""
        with self._state.transaction():
            self.note_strike(study)

    def note_strike(self, study: str) -> None:
        """Count a data-dependent refusal; call inside a transaction."""
        self._state.execute(
            "INSERT INTO strikes VALUES (?, 1) ON CONFLICT (study) DO UPDATE SET count = count + 1",
            (study,),
        )

    def clear_strikes(self, study: str) -> None:
        """Forget refusals: a person has approved the study again."""
        with self._state.transaction():
            self._state.execute("DELETE FROM strikes WHERE study = ?", (study,))

    def _knows(self, table: str, digest: str) -> bool:
        return bool(self._state.query(f"SELECT 1 FROM {table} WHERE digest = ?", (digest,)))  # noqa: S608
