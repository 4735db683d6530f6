"""What the coordinator's database says, read and never written: SQLite opens it read-only."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from solblom_protocol.errors import ConfigurationError, RunError
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument, parse_document, study_payload
from solblom_server.coordinator import DATABASE_FILE
from solblom_server.database import ReplyRow, RoundRow, RunRow
from solblom_server.database_schema import SCHEMA_VERSION
from solblom_verify.canonical import parse_canonical

RUN_COLUMNS = "id, study, name, number, status, transport, simulation, started, ended, reason, envelope, roster"


@dataclass(frozen=True)
class ModelRow:
    """A registered version."""

    name: str
    version: int
    run: str
    digest: str
    registered: str

    @property
    def ref(self) -> str:
        """As people write it."""
        return f"{self.name}@v{self.version}"

    @property
    def folder(self) -> str:
        """Name of its folder in models/."""
        return f"{self.name}-v{self.version}"


@dataclass(frozen=True)
class StudyRow:
    """A study that the coordinator has run, by its digest."""

    digest: str
    name: str
    runs: int
    newest: str
    envelope: bytes


@dataclass(frozen=True)
class Incident:
    """An answer that was no update: `kind` is refusal, invalid or late."""

    run: str
    asked: str
    round: int
    site: str
    kind: str
    code: str
    time: str


class Records:
    """The coordinator's database, opened for one request."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def studies(self, *, most: int, start: int = 0) -> list[StudyRow]:
        """Return studies, that of the newest run first."""
        rows = self._connection.execute(
            "SELECT study, name, count(*), max(started), envelope FROM runs GROUP BY study"
            " ORDER BY max(rowid) DESC LIMIT ? OFFSET ?",
            (most, start),
        )
        return [StudyRow(*row) for row in rows]

    def study(self, digest: str) -> StudyRow:
        """Return a study.

        Raises:
            RunError: SB-502, no run was of it.
        """
        row = self._connection.execute(
            "SELECT study, name, count(*), max(started), envelope FROM runs WHERE study = ?"
            " GROUP BY study",
            (digest,),
        ).fetchone()
        if row is None:
            raise RunError("SB-502", f"There is no run of a study {digest[:80]}")
        return StudyRow(*row)

    def find_study(self, named: str) -> StudyRow:
        """Return a study by its digest, or the one of the newest run of that name.

        Raises:
            RunError: SB-502.
        """
        row = self._connection.execute(
            "SELECT study FROM runs WHERE study = ?1 OR name = ?1 ORDER BY rowid DESC LIMIT 1",
            (named,),
        ).fetchone()
        return self.study(named if row is None else str(row[0]))

    def namesakes(self, row: StudyRow) -> list[str]:
        """Return the digests of other studies of the same name, that of the newest run first."""
        rows = self._connection.execute(
            "SELECT study FROM runs WHERE name = ? AND study <> ? GROUP BY study ORDER BY max(rowid) DESC",
            (row.name, row.digest),
        )
        return [str(found[0]) for found in rows]

    def runs(self, *, most: int, start: int = 0, study: str | None = None) -> list[RunRow]:
        """Return runs, newest first."""
        rows = self._connection.execute(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE ?1 IS NULL OR study = ?1"  # noqa: S608 - a constant
            " ORDER BY rowid DESC LIMIT ?2 OFFSET ?3",
            (study, most, start),
        )
        return [_run(row) for row in rows]

    def run(self, run: str) -> RunRow:
        """Return a run.

        Raises:
            RunError: SB-502.
        """
        row = self._connection.execute(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?",  # noqa: S608 - a constant
            (run,),
        ).fetchone()
        if row is None:
            raise RunError("SB-502", f"There is no run {run[:80]}")
        return _run(row)

    def models(self, *, most: int, start: int = 0, study: str | None = None) -> list[ModelRow]:
        """Return registered versions, newest first."""
        rows = self._connection.execute(
            "SELECT m.name, m.version, m.run, m.digest, m.registered FROM models m"
            " LEFT JOIN runs r ON r.id = m.run"
            " WHERE m.digest IS NOT NULL AND (?1 IS NULL OR r.study = ?1)"
            " ORDER BY m.registered DESC, m.rowid DESC LIMIT ?2 OFFSET ?3",
            (study, most, start),
        )
        return [ModelRow(*row) for row in rows]

    def model(self, name: str, version: int) -> ModelRow | None:
        """Return a registered version; None for a folder that the database does not know."""
        row = self._connection.execute(
            "SELECT name, version, run, digest, registered FROM models"
            " WHERE name = ? AND version = ? AND digest IS NOT NULL",
            (name, version),
        ).fetchone()
        return None if row is None else ModelRow(*row)

    def model_of_run(self, run: str) -> ModelRow | None:
        """Return the version that a run led to."""
        row = self._connection.execute(
            "SELECT name, version, run, digest, registered FROM models"
            " WHERE run = ? AND digest IS NOT NULL",
            (run,),
        ).fetchone()
        return None if row is None else ModelRow(*row)

    def count(self, table: str) -> int:
        """Return how many rows there are of `runs`, `studies` or `models`."""
        sql = {
            "runs": "SELECT count(*) FROM runs",
            "studies": "SELECT count(DISTINCT study) FROM runs",
            "models": "SELECT count(*) FROM models WHERE digest IS NOT NULL",
        }[table]
        return int(self._connection.execute(sql).fetchone()[0])

    def rounds(self, run: str) -> list[RoundRow]:
        """Return a run's rounds in order."""
        rows = self._connection.execute(
            "SELECT round, status, base, result, opened, closed FROM rounds WHERE run = ?"
            " ORDER BY round",
            (run,),
        )
        return [RoundRow(*row) for row in rows]

    def replies(self, run: str, *, asked: str = "train") -> list[ReplyRow]:
        """Return all answers of a run to orders of one kind, by round and site."""
        rows = self._connection.execute(
            "SELECT round, site, order_digest, kind, code, receipt, envelope, arrived, seconds, asked"
            " FROM replies WHERE run = ? AND asked = ? ORDER BY round, site, kind",
            (run, asked),
        )
        return [ReplyRow(*row) for row in rows]

    def incidents(self, *, run: str | None = None, most: int = 500) -> list[Incident]:
        """Return answers that were no update and no release, newest first."""
        rows = self._connection.execute(
            "SELECT run, asked, round, site, kind, coalesce(code, ''), arrived FROM replies"
            " WHERE kind != 'result' AND (?1 IS NULL OR run = ?1) ORDER BY rowid DESC LIMIT ?2",
            (run, most),
        )
        return [Incident(*row) for row in rows]

    def charges(self, study: str) -> list[tuple[str, str, PrivacyEvent]]:
        """Return (run, site, event) of everything that receipts of a study's runs report."""
        rows = self._connection.execute(
            "SELECT c.run, c.site, c.event FROM charges c JOIN runs r ON r.id = c.run"
            " WHERE r.study = ? ORDER BY c.rowid",
            (study,),
        )
        return [
            (run, site, PrivacyEvent.from_json(parse_canonical(event.encode())))
            for run, site, event in rows
        ]

    def releases(self, study: str) -> list[tuple[str, str, int, str]]:
        """Return (run, kind, number, record) of a study's releases."""
        rows = self._connection.execute(
            "SELECT run, kind, number, record FROM releases WHERE study = ? ORDER BY rowid",
            (study,),
        )
        return [tuple(row) for row in rows]

    def states(self) -> dict[str, tuple[str, str, str]]:
        """Return (state, code, when) that was last heard of each hospital with a link."""
        rows = self._connection.execute("SELECT site, state, code, heard FROM links ORDER BY site")
        return {site: (state or "", code or "", heard or "") for site, state, code, heard in rows}


@contextmanager
def open_records(home: Path) -> Iterator[Records]:
    """Open the database of a Solblom folder for reading.

    Raises:
        ConfigurationError: SB-103, another version wrote it; SB-101, it cannot be read.
    """
    path = home / DATABASE_FILE
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=5
        )
        with closing(connection):
            connection.execute("PRAGMA query_only=ON")
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version != SCHEMA_VERSION:
                raise ConfigurationError(
                    "SB-103",
                    f"{path.name} has layout {version}; this version of the page reads {SCHEMA_VERSION}",
                    "Open the folder with the Solblom that wrote it, or run `solblom run list` once to bring it up",
                )
            yield Records(connection)
    except sqlite3.Error as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error}") from None


def read_document(envelope: bytes) -> StudyDocument:
    """Return the study in an envelope. Its digest names the run's study; its signature is shown apart.

    Raises:
        ConfigurationError: it is no study of this version.
    """
    return parse_document(study_payload(envelope))


def _run(row: tuple[object, ...]) -> RunRow:
    values = list(row)
    values[6] = bool(values[6])
    return RunRow(*values)  # type: ignore[arg-type]
