"""The coordinator's own durable record, written before anything is sent. SQLite, every commit synced."""

import datetime as dt
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from solblom_protocol.errors import ConfigurationError, RunError
from solblom_protocol.messages.message import timestamp
from solblom_server.database_schema import INDEX, LINKS, SCHEMA, SCHEMA_VERSION, SUMS


@dataclass(frozen=True)
class RunRow:
    """A run as the database knows it."""

    id: str
    study: str
    name: str
    number: int
    status: str
    transport: str
    simulation: bool
    started: str
    ended: str | None
    reason: str | None
    envelope: bytes
    roster: str


@dataclass(frozen=True)
class LinkRow:
    """How a hospital is reached, and what was last heard of it."""

    site: str
    transport_key: str
    route: str  # network | files
    node_text: str | None  # Flower's id, up to 2^64
    state: str | None
    code: str | None
    heard: str | None

    @property
    def node_id(self) -> int | None:
        """Flower's id of the node in this life of the SuperLink."""
        return None if self.node_text is None else int(self.node_text)


@dataclass(frozen=True)
class RoundRow:
    """A round as the database knows it."""

    round: int
    status: str
    base: str
    result: str | None
    opened: str
    closed: str | None


@dataclass(frozen=True)
class ReplyRow:
    """What one site answered in one exchange; `asked` is the order's kind."""

    round: int
    site: str
    order_digest: str
    kind: str
    code: str | None
    receipt: str | None
    envelope: bytes | None
    arrived: str
    seconds: float
    asked: str = "train"


class Database:
    """The coordinator's database file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(
            path, isolation_level=None, timeout=30, check_same_thread=False
        )
        # A commit takes one sync instead of three, and is on disk when it returns.
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._bring_up(path)
        self._connection.execute(INDEX)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _bring_up(self, path: Path) -> None:
        """Make the tables, or add what an older version lacks.

        Raises:
            ConfigurationError: SB-103, a newer version wrote the file.
        """
        steps = {0: SCHEMA + LINKS + SUMS, 1: LINKS + SUMS, 2: SUMS, SCHEMA_VERSION: ""}
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version not in steps:
            raise ConfigurationError(
                "SB-103",
                f"{path.name} has layout {version}; this version of Solblom knows {SCHEMA_VERSION}",
                "Install the newer Solblom that wrote it",
            )
        if steps[version]:
            self._connection.executescript(
                f"BEGIN;{steps[version]}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside or nothing."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def add_link(self, site: str, transport_key: str, *, route: str) -> None:
        """Record how a hospital is reached: its transport key (PEM), and `network` or `files`."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO links VALUES (?, ?, ?, NULL, NULL, NULL, NULL)",
                (site, transport_key, route),
            )

    def remove_link(self, site: str) -> None:
        """Forget a hospital: its transport key opens nothing any more."""
        with self.transaction():
            self._connection.execute("DELETE FROM links WHERE site = ?", (site,))

    def links(self) -> dict[str, LinkRow]:
        """Return how each hospital is reached, by site."""
        rows = self._connection.execute(
            "SELECT site, transport_key, route, node_id, state, code, heard FROM links ORDER BY site"
        )
        found = [LinkRow(*row) for row in rows]
        return {row.site: row for row in found}

    def set_node_id(self, site: str, node_id: int | None) -> None:
        """Record a node's id in this life of the SuperLink; None: it has none."""
        text = (
            None if node_id is None else str(node_id)
        )  # up to 2^64: too large for SQLite's integers
        with self.transaction():
            self._connection.execute("UPDATE links SET node_id = ? WHERE site = ?", (text, site))

    def note_link(self, site: str, state: str, code: str | None, *, now: dt.datetime) -> None:
        """Record what was last heard of a node."""
        with self.transaction():
            self._connection.execute(
                "UPDATE links SET state = ?, code = ?, heard = ? WHERE site = ?",
                (state, code, timestamp(now), site),
            )

    def set_status(self, run_id: str, status: str) -> None:
        """Record what is wanted of a run: `open`, `stopping`, `evaluating`, `witnessing`."""
        with self.transaction():
            self._connection.execute("UPDATE runs SET status = ? WHERE id = ?", (status, run_id))

    def status(self, run_id: str) -> str:
        """Return a run's status."""
        row = self._connection.execute("SELECT status FROM runs WHERE id = ?", (run_id,)).fetchone()
        return "" if row is None else str(row[0])

    def create_run(
        self,
        *,
        study: str,
        name: str,
        envelope: bytes,
        roster: str,
        transport: str,
        simulation: bool,
        now: dt.datetime,
    ) -> RunRow:
        """Record a new run. Its id follows from the study and its number, so a lost database asks for the same work."""
        with self.transaction():
            number = 1 + self._one("SELECT count(*) FROM runs WHERE study = ?", (study,))
            run_id = f"{name}-{number}-{study.removeprefix('sha256:')[:8]}"
            self._connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, 'open', ?, ?, ?, NULL, NULL, ?, ?)",
                (
                    run_id,
                    study,
                    name,
                    number,
                    transport,
                    simulation,
                    timestamp(now),
                    envelope,
                    roster,
                ),
            )
        return self.run(run_id)

    def run(self, run_id: str) -> RunRow:
        """Return a run.

        Raises:
            RunError: SB-502.
        """
        rows = self._connection.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchall()
        if not rows:
            raise RunError("SB-502", f"There is no run {run_id}")
        return _run(rows[0])

    def runs(self) -> list[RunRow]:
        """Return all runs, newest last."""
        return [_run(r) for r in self._connection.execute("SELECT * FROM runs ORDER BY rowid")]

    def unfinished_runs(self) -> list[RunRow]:
        """Return the runs that are open, being evaluated or witnessed, or about to stop, newest last."""
        rows = self._connection.execute(
            "SELECT * FROM runs WHERE status IN ('open', 'evaluating', 'witnessing', 'stopping')"
            " ORDER BY rowid"
        )
        return [_run(r) for r in rows]

    def end_run(self, run_id: str, status: str, reason: str | None, *, now: dt.datetime) -> None:
        """Record how a run ended."""
        with self.transaction():
            self._connection.execute(
                "UPDATE runs SET status = ?, reason = ?, ended = ? WHERE id = ?",
                (status, reason, timestamp(now), run_id),
            )

    def reopen_run(self, run_id: str) -> None:
        """Record that a run goes on."""
        with self.transaction():
            self._connection.execute(
                "UPDATE runs SET status = 'open', reason = NULL, ended = NULL WHERE id = ?",
                (run_id,),
            )

    def open_round(self, run_id: str, number: int, base: str, *, now: dt.datetime) -> None:
        """Record a round before its orders are written; an open round stays as it is."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO rounds VALUES (?, ?, 'open', ?, NULL, ?, NULL)",
                (run_id, number, base, timestamp(now)),
            )

    def close_round(self, run_id: str, number: int, result: str, *, now: dt.datetime) -> None:
        """Record the model that a round led to."""
        with self.transaction():
            self._connection.execute(
                "UPDATE rounds SET status = 'closed', result = ?, closed = ?"
                " WHERE run = ? AND round = ?",
                (result, timestamp(now), run_id, number),
            )

    def rounds(self, run_id: str) -> list[RoundRow]:
        """Return a run's rounds in order."""
        rows = self._connection.execute(
            "SELECT round, status, base, result, opened, closed FROM rounds WHERE run = ?"
            " ORDER BY round",
            (run_id,),
        )
        return [RoundRow(*row) for row in rows]

    def next_attempt(self, run_id: str, number: int, site: str, *, kind: str = "train") -> int:
        """Return the number of the next attempt of a site's round or release."""
        return 1 + self._one(
            "SELECT count(*) FROM orders WHERE run = ? AND kind = ? AND round = ? AND site = ?",
            (run_id, kind, number, site),
        )

    def add_order(
        self,
        digest: str,
        run_id: str,
        number: int,
        site: str,
        attempt: int,
        *,
        kind: str = "train",
        sealed: str = "",
        now: dt.datetime,
    ) -> None:
        """Record an order before it is sent."""
        with self.transaction():
            self._connection.execute(
                "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (digest, run_id, number, site, attempt, timestamp(now), kind, sealed),
            )

    def newest_order(
        self, run_id: str, number: int, site: str, *, kind: str
    ) -> tuple[str, str] | None:
        """Return (digest of the sealed bytes, when issued) of the newest attempt."""
        row = self._connection.execute(
            "SELECT sealed, issued FROM orders WHERE run = ? AND kind = ? AND round = ? AND site = ?"
            " ORDER BY attempt DESC LIMIT 1",
            (run_id, kind, number, site),
        ).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def is_order(
        self, digest: str, run_id: str, number: int, site: str, *, kind: str = "train"
    ) -> bool:
        """Tell whether an order was issued to this site for this round or release, in any attempt."""
        return bool(
            self._one(
                "SELECT count(*) FROM orders WHERE digest = ? AND run = ? AND kind = ?"
                " AND round = ? AND site = ?",
                (digest, run_id, kind, number, site),
            )
        )

    def last_answered(self, run_id: str, site: str) -> tuple[str | None, str | None]:
        """Return (last answered order, last receipt) of a site in a run, as far as we know."""
        order = self._connection.execute(
            "SELECT order_digest FROM replies WHERE run = ? AND site = ? AND kind = 'result'"
            " AND order_digest != ''"
            " ORDER BY rowid DESC LIMIT 1",
            (run_id, site),
        ).fetchone()
        receipt = self._connection.execute(
            "SELECT receipt FROM replies WHERE site = ? AND kind = 'result' AND receipt IS NOT NULL"
            " ORDER BY rowid DESC LIMIT 1",
            (site,),
        ).fetchone()
        return (order[0] if order else None, receipt[0] if receipt else None)

    def add_reply(self, run_id: str, reply: ReplyRow) -> None:
        """Record what a site answered; the same answer twice is recorded once."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run_id,
                    reply.round,
                    reply.site,
                    reply.order_digest,
                    reply.kind,
                    reply.code,
                    reply.receipt,
                    reply.envelope,
                    reply.arrived,
                    reply.seconds,
                    reply.asked,
                ),
            )

    def set_late(self, run_id: str, number: int, *, besides: Collection[str]) -> None:
        """Mark results of a training round as late that came before a crash and are not in its fold."""
        with self.transaction():
            rows = self._connection.execute(
                "SELECT site FROM replies WHERE run = ? AND asked = 'train' AND round = ?"
                " AND kind = 'result'",
                (run_id, number),
            )
            for site in {str(row[0]) for row in rows} - set(besides):
                self._connection.execute(
                    "UPDATE OR REPLACE replies SET kind = 'late' WHERE run = ? AND asked = 'train'"
                    " AND round = ? AND site = ? AND kind = 'result'",
                    (run_id, number, site),
                )

    def add_charge(
        self, run_id: str, number: int, site: str, work: str, event: str, *, kind: str = "train"
    ) -> None:
        """Record what a receipt says was done to patients; the same work twice is one charge."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO charges VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, number, site, work, event, kind),
            )

    def charges(self, run_id: str) -> list[tuple[int, str, str, str]]:
        """Return (round, site, event as JSON, kind) of every work in a run, released twice or not."""
        rows = self._connection.execute(
            "SELECT round, site, event, kind FROM charges WHERE run = ?"
            " ORDER BY round, site, kind, work",
            (run_id,),
        )
        return [tuple(row) for row in rows]

    def fix_participants(self, run_id: str, place: int, sites: list[str]) -> list[str]:
        """Record whose masks are in a sum's vectors, before they are asked for; what stands there stays. Return it."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO sums VALUES (?, ?, ?, NULL)",
                (run_id, place, ",".join(sites)),
            )
        row = self._connection.execute(
            "SELECT participants FROM sums WHERE run = ? AND place = ?", (run_id, place)
        ).fetchone()
        return str(row[0]).split(",")

    def fix_survivors(self, run_id: str, place: int, sites: list[str]) -> list[str]:
        """Record whose vectors a sum has, before anybody is asked to sign that; what stands there stays. Return it."""
        with self.transaction():
            self._connection.execute(
                "UPDATE sums SET survivors = ? WHERE run = ? AND place = ? AND survivors IS NULL",
                (",".join(sites), run_id, place),
            )
        found = self.survivors(run_id, place)
        return [] if found is None else found

    def survivors(self, run_id: str, place: int) -> list[str] | None:
        """Return whose vectors a sum has; None before that is fixed."""
        row = self._connection.execute(
            "SELECT survivors FROM sums WHERE run = ? AND place = ?", (run_id, place)
        ).fetchone()
        return None if row is None or row[0] is None else str(row[0]).split(",")

    def add_release(
        self, run_id: str, study: str, kind: str, number: int, model: str, record: str
    ) -> None:
        """Record the sum that an evaluation or a Table 1 led to, as canonical JSON."""
        with self.transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO releases VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, study, kind, number, model, record),
            )

    def releases(self, study: str) -> list[tuple[str, str, int, str, str]]:
        """Return (run, kind, number, model, record) of a study's releases over all its runs."""
        rows = self._connection.execute(
            "SELECT run, kind, number, model, record FROM releases WHERE study = ? ORDER BY rowid",
            (study,),
        )
        return [tuple(row) for row in rows]

    def replies(self, run_id: str, *, asked: str = "train") -> list[ReplyRow]:
        """Return all answers of a run to orders of one kind, by round and site."""
        rows = self._connection.execute(
            "SELECT round, site, order_digest, kind, code, receipt, envelope, arrived, seconds, asked"
            " FROM replies WHERE run = ? AND asked = ? ORDER BY round, site, kind",
            (run_id, asked),
        )
        return [ReplyRow(*row) for row in rows]

    def reserve_version(self, name: str, run_id: str, *, now: dt.datetime) -> int:
        """Return the version number of a run's model; the same run gets the same number again."""
        with self.transaction():
            row = self._connection.execute(
                "SELECT version FROM models WHERE run = ?", (run_id,)
            ).fetchone()
            if row:
                return int(row[0])
            version = 1 + self._one(
                "SELECT coalesce(max(version), 0) FROM models WHERE name = ?", (name,)
            )
            self._connection.execute(
                "INSERT INTO models VALUES (?, ?, ?, NULL, ?)",
                (name, version, run_id, timestamp(now)),
            )
        return version

    def set_model_digest(self, run_id: str, digest: str) -> None:
        """Record the digest of a registered artefact."""
        with self.transaction():
            self._connection.execute("UPDATE models SET digest = ? WHERE run = ?", (digest, run_id))

    def models(self) -> list[tuple[str, int, str, str | None, str]]:
        """Return (name, version, run, digest, registered) of all models."""
        rows = self._connection.execute(
            "SELECT name, version, run, digest, registered FROM models ORDER BY name, version"
        )
        return [tuple(row) for row in rows]

    def _one(self, sql: str, values: tuple[object, ...]) -> int:
        return int(self._connection.execute(sql, values).fetchone()[0])


def _run(row: tuple[object, ...]) -> RunRow:
    values = list(row)
    values[6] = bool(values[6])
    return RunRow(*values)  # type: ignore[arg-type]
