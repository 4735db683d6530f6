"""What the vault remembers besides the ledger: orders seen, receipts made, replies stored, parameters that stay."""

import datetime as dt
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from solblom_client import clock
from solblom_client.gate import RunHistory
from solblom_client.state import VaultState
from solblom_protocol.messages.mailbox import MailFile, read_mail, write_mail
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.order import Order
from solblom_protocol.messages.seal import read_header, sealing_key_id

REPLIES_FOLDER = "replies"


@dataclass(frozen=True)
class StoredReply:
    """What a request was answered with.

    `sealed` is None where its file is gone or was changed, or where another coordinator than today's would open it.
    """

    work: str
    sealed: bytes | None


class Store:
    """The vault's memory: its state file, and replies as files beside it, because they are as large as models."""

    def __init__(self, state: VaultState) -> None:
        self._state = state
        self._replies = state.folder / REPLIES_FOLDER

    def latest_time(self) -> dt.datetime | None:
        """Return the newest moment that this node has seen; it survives restarts."""
        return clock.latest_time(self._state)

    def note_time(self, now: dt.datetime) -> None:
        """Remember a moment at which the clock was looked at."""
        clock.note_time(self._state, now)

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

    def stored_reply(self, request: str, *, recipient: X25519PublicKey) -> StoredReply | None:
        """Return the reply of a request that was answered; `recipient` is the pinned coordinator's sealing key."""
        rows = self._state.query("SELECT work, reply FROM results WHERE request = ?", (request,))
        if not rows:
            return None
        sealed = read_mail(self._file(request, str(rows[0][1])))
        if sealed is not None and read_header(sealed).recipient != sealing_key_id(recipient):
            sealed = None
        return StoredReply(str(rows[0][0]), sealed)

    def keep_reply(
        self, request: str, work: str, sealed: bytes, *, run: str, kind: str, round_number: int
    ) -> None:
        """Store a reply; call inside the transaction that marks its charge as spent, and `sweep` after it.

        Replies of earlier rounds are forgotten: the gate refuses to go back (SB-207), so they could
        never be given out again.

        Raises:
            ConfigurationError: SB-601, the disk does not take it.
        """
        file = write_mail(self._replies, sealed, answers=_plain(request))
        self._state.execute(
            "DELETE FROM results WHERE run = ? AND kind = ? AND round < ?",
            (run, kind, round_number),
        )
        self._state.execute(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)",
            (request, work, file.digest, run, kind, round_number),
        )

    def erase_reply(self, request: str) -> None:
        """Erase a stored reply: its cohort has changed (privacy.md rule 10).

        The file first: a crash in between leaves the row, and the reply is erased when asked for again.

        Raises:
            OSError: the file cannot be removed.
        """
        for (reply,) in self._state.query(
            "SELECT reply FROM results WHERE request = ?", (request,)
        ):
            self._file(request, str(reply)).path.unlink(missing_ok=True)
        with self._state.transaction():
            self._state.execute("DELETE FROM results WHERE request = ?", (request,))

    def sweep(self) -> None:
        """Remove the files of replies that nothing refers to: forgotten ones, and those of a crash.

        Raises:
            OSError: a file cannot be removed.
        """
        if not self._replies.is_dir():
            return
        rows = self._state.query("SELECT request, reply FROM results")
        kept = {self._file(str(request), str(reply)).path.name for request, reply in rows}
        for path in self._replies.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _file(self, request: str, reply: str) -> MailFile:
        name = _plain(request)
        return MailFile(self._replies / f"{name}.{reply}.reply", reply, name)

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

    def newest_local_parameters(self, study: str) -> bytes:
        """Return the parameters that stay here as the study's newest run left them; empty where there are none."""
        rows = self._state.query(
            "SELECT data FROM local_parameters WHERE substr(run, 1, ?) = ? ORDER BY rowid DESC LIMIT 1",
            (len(study) + 1, f"{study}/"),
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


def _plain(digest: str) -> str:
    return digest.removeprefix("sha256:")
