"""Who was in which round, for years: rows in the state file, manifests beside it. Nothing of it ever leaves.

A manifest is the frozen cohort of a piece of work: every patient's id and the digest of their row, the very
bytes of which the receipt carries a keyed digest. It is on disk before the charge is bound, and so before
training: no round is worked on of which the hospital could not say later who was in it. Rounds with the
same patients share a manifest.

The key of the receipt's digest is kept too: the noise root from which it follows is wiped at the permit's
date (privacy.md rule 12), and the receipt must be checked years later. Nothing else follows from it.
"""

import contextlib
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solblom_client.approvals.approval import Approval
from solblom_client.cohorts.family_record import has_families
from solblom_client.keys import derive, keyed_digest
from solblom_client.state import VaultState
from solblom_models.patient_id import patient_id
from solblom_models.task import Units
from solblom_protocol.durable_file import write_whole
from solblom_protocol.errors import DataError, IntegrityError
from solblom_protocol.messages.message import timestamp
from solblom_protocol.messages.order import Order
from solblom_verify.canonical import digest, parse_canonical

FOLDER = "cohorts"  # in the state folder; never part of a support bundle
_DAYS_OF_A_YEAR = 365.25
_TABLES = (
    "CREATE TABLE IF NOT EXISTS cohorts ("
    " work TEXT PRIMARY KEY, study TEXT NOT NULL, run TEXT NOT NULL, kind TEXT NOT NULL,"
    " round INTEGER NOT NULL, dataset TEXT NOT NULL, base_model TEXT NOT NULL, cohort TEXT NOT NULL, key BLOB NOT NULL,"
    " manifest TEXT NOT NULL, receipt TEXT, recorded_at TEXT NOT NULL) STRICT",
)
_COLUMNS = "work, study, run, kind, round, dataset, base_model, cohort, key, manifest, receipt, recorded_at"


@dataclass(frozen=True)
class FrozenCohort:
    """The cohort of one piece of work.

    Attributes:
        cohort: its keyed digest, as in the receipt.
        key: with which that digest was made.
        manifest: name of the file that lists the patients.
        receipt: digest of the signed receipt; None: nothing left the hospital.
    """

    work: str
    study: str
    run: str
    kind: str
    round: int
    dataset: str
    base_model: str
    cohort: str
    key: bytes = field(repr=False)
    manifest: str = field(repr=False)
    receipt: str | None
    recorded_at: str


@dataclass(frozen=True)
class Rebuilt:
    """Whether today's data are the data of a round. Ids stay inside, and out of its text form.

    Attributes:
        patients: how many the round had.
        missing: who is in the data no more.
        changed: whose row is another one now.
    """

    patients: int
    missing: tuple[str, ...] = field(repr=False)
    changed: tuple[str, ...] = field(repr=False)

    @property
    def exact(self) -> bool:
        """Whether the same cohort, row by row, can be built again."""
        return not self.missing and not self.changed


def keep_cohort(
    state: VaultState,
    order: Order,
    approval: Approval,
    rows: bytes,
    *,
    work: str,
    now: dt.datetime,
    years: float,
) -> None:
    """Put the cohort of a piece of work on disk; call it before the charge is bound to the work.

    `rows` is `Cohort.row_bytes`. The same work again changes nothing. What is older than `years` is forgotten.

    Raises:
        IntegrityError: SB-402, the state file does not take it.
        OSError: the disk does not take it; then no training follows.
    """
    header, key = order.header, derive(approval.root, "cohort", work)
    # Named under the study's own key: a list of file names says nothing to who reads it elsewhere.
    name = keyed_digest(derive(approval.root, "cohort", ""), rows).removeprefix("sha256:")
    _write_manifest(state.folder / FOLDER / f"{name}.json", rows)
    values: tuple[object, ...] = (
        *(work, header.study, header.run, header.kind, header.round),
        *(approval.record.dataset, header.base_model),
        *(keyed_digest(key, rows), key, name, None, timestamp(now)),
    )
    with state.transaction():
        make_tables(state)
        places = ", ".join("?" * len(values))
        state.execute(f"INSERT OR IGNORE INTO cohorts ({_COLUMNS}) VALUES ({places})", values)  # noqa: S608
        forget_old(state, before=now - dt.timedelta(days=years * _DAYS_OF_A_YEAR))
    _sweep(state)


def note_receipt(state: VaultState, work: str, receipt: str) -> None:
    """Note with which receipt a piece of work left; call it inside the transaction that stores the reply."""
    state.execute("UPDATE cohorts SET receipt = ? WHERE work = ?", (receipt, work))


def make_tables(state: VaultState) -> None:
    """Make the record's table in a state file that has none yet; call inside a transaction."""
    for statement in _TABLES:
        state.execute(statement, ())


def frozen_cohorts(state: VaultState) -> list[FrozenCohort]:
    """Return the cohort of every piece of work, oldest first.

    Raises:
        IntegrityError: SB-402.
    """
    if not state.query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'cohorts'"):
        return []
    rows = state.query(f"SELECT {_COLUMNS} FROM cohorts ORDER BY recorded_at, rowid")  # noqa: S608
    return [_from_row(row) for row in rows]


def read_manifest(state: VaultState, record: FrozenCohort) -> dict[str, str]:
    """Return each patient's row digest, after checking that these are the patients of the receipt.

    Raises:
        IntegrityError: SB-407, the manifest is gone or was changed.
    """
    path = state.folder / FOLDER / f"{record.manifest}.json"
    try:
        rows = path.read_bytes()
    except OSError:
        raise IntegrityError("SB-407", "The manifest of a cohort is gone") from None
    if keyed_digest(record.key, rows) != record.cohort:
        raise IntegrityError("SB-407", "The manifest of a cohort is not the one of its receipt")
    value: Any = parse_canonical(rows)
    return {patient_id(str(patient)): str(row) for patient, row in value}


def rebuild(manifest: Mapping[str, str], today: Mapping[str, str]) -> Rebuilt:
    """Tell whether `today` (row digests by id, of all the data set's patients) gives the manifest's cohort again.

    Patients who came later do not matter: the manifest says who was in the round.
    """
    missing = sorted(patient for patient in manifest if patient not in today)
    changed = sorted(p for p, row in manifest.items() if p in today and today[p] != row)
    return Rebuilt(len(manifest), tuple(missing), tuple(changed))


def row_digests(units: Units) -> dict[str, str]:
    """Return each patient's row digest as a manifest has it.

    Raises:
        DataError: SB-304, a patient stands twice.
    """
    found = {patient_id(text): digest(units.row_bytes(n)) for n, text in enumerate(units.ids)}
    if len(found) != len(units.ids):
        raise DataError("SB-304", "A patient has more than one row")
    return found


def forget_old(state: VaultState, *, before: dt.datetime) -> None:
    """Remove records older than a moment; call inside a transaction. Their manifests go with the next round."""
    state.execute("DELETE FROM cohorts WHERE recorded_at < ?", (timestamp(before),))
    if has_families(state):  # of studies that trained on nobody, or so long ago
        state.execute("DELETE FROM families WHERE study NOT IN (SELECT study FROM cohorts)", ())


def _sweep(state: VaultState) -> None:
    """Remove manifests that no record names any more."""
    kept = {str(row[0]) for row in state.query("SELECT DISTINCT manifest FROM cohorts")}
    with contextlib.suppress(OSError):  # they are removed the next time
        for path in (state.folder / FOLDER).iterdir():
            if path.stem not in kept:
                path.unlink(missing_ok=True)


def _write_manifest(path: Path, rows: bytes) -> None:
    """Write a manifest whole, synced and for the node's user alone; one with these bytes stays as it is."""
    if path.is_file() and path.read_bytes() == rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, rows)


def _from_row(row: tuple[object, ...]) -> FrozenCohort:
    work, study, run, kind, number, dataset, model, cohort, key, manifest, receipt, moment = row
    if not isinstance(key, bytes):
        raise IntegrityError("SB-402", "The record of cohorts cannot be read")
    return FrozenCohort(
        *(str(work), str(study), str(run), str(kind), int(str(number))),
        dataset=str(dataset),
        base_model=str(model),
        cohort=str(cohort),
        key=key,
        manifest=str(manifest),
        receipt=None if receipt is None else str(receipt),
        recorded_at=str(moment),
    )
