"""Notices of withdrawals: that runs are affected, never who or how many, in scheduled batches (privacy.md rule 13).

* A new notice at most every `notice_days`; asked for again before that, the same bytes.
* Every run to which an update was given is listed, whether or not anybody withdrew. All manifests are read,
  whatever the first ones say: neither size nor work depends on the answer. An update that waits for a person, or
  that a person rejected, was not given.
* Once affected, always: coming back, or a second withdrawal, shows nothing.

Only what stands behind a person's will counts. An expiry, a death or a birthday is no withdrawal.
"""

import datetime as dt
from dataclasses import dataclass

from solblom_client.cohorts.cohort import read_consent_now
from solblom_client.cohorts.record import FrozenCohort, frozen_cohorts, read_manifest
from solblom_client.consent.join import ConsentState
from solblom_client.consent.rules import BECAUSE_OF_TIME
from solblom_client.keys import NodeKeys
from solblom_client.outbox.outbox import Outbox
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import parse_timestamp, timestamp
from solblom_protocol.messages.withdrawal_notice import NoticedRun, WithdrawalNotice, write_notice
from solblom_verify.canonical import canonical_json, parse_canonical
from solblom_verify.envelope import key_id

_TABLE = (
    "CREATE TABLE IF NOT EXISTS withdrawal_notices ("
    " id INTEGER PRIMARY KEY, issued_at TEXT NOT NULL, affected TEXT NOT NULL, sealed BLOB NOT NULL) STRICT"
)

Run = tuple[str, str]
"""Digest of the study, and the run's name."""


@dataclass(frozen=True)
class Notice:
    """A sealed notice. `again`: it is the last one, because the next is not due yet."""

    sealed: bytes
    again: bool
    runs: int
    next_at: dt.datetime


@dataclass(frozen=True)
class _Last:
    issued_at: dt.datetime
    affected: frozenset[Run]
    sealed: bytes


def notice_of(
    config: NodeConfig,
    keys: NodeKeys,
    state: VaultState,
    coordinator: PublicKeys,
    *,
    now: dt.datetime,
) -> Notice:
    """Return the notice that may leave now, and remember it.

    Raises:
        DataError: SB-308, consent cannot be read now.
        IntegrityError: SB-402, SB-405 or SB-407.
    """
    records = _given(config, state)
    runs = sorted({(record.study, record.run) for record in records})
    last, wait = _last(state), dt.timedelta(days=config.consent.notice_days)
    if last is not None and now < last.issued_at + wait:
        return Notice(last.sealed, True, len(runs), last.issued_at + wait)
    consent = read_consent_now(config, now=now)
    before = frozenset() if last is None else last.affected
    affected = affected_runs(state, records, consent) | before
    notice = WithdrawalNotice(
        schema="solblom.withdrawal-notice/1",
        site=config.node.site,
        node=key_id(keys.signing.public_key()),
        issued=timestamp(now.replace(hour=0, minute=0, second=0, microsecond=0)),
        runs=[
            NoticedRun(study=study, run=run, affected=1 if (study, run) in affected else 0)
            for study, run in runs
        ],
        padding="",
    )
    sealed = write_notice(notice, key=keys.signing, recipient=coordinator.sealing)
    text = canonical_json(sorted(list(run) for run in affected)).decode()
    with state.transaction():
        state.execute(_TABLE, ())
        state.execute(
            "INSERT INTO withdrawal_notices (issued_at, affected, sealed) VALUES (?, ?, ?)",
            (timestamp(now), text, sealed),
        )
    return Notice(sealed, False, len(runs), now + wait)


def _given(config: NodeConfig, state: VaultState) -> list[FrozenCohort]:
    """Return the cohorts of updates that left, or that the coordinator may have: released counts as left.

    Raises:
        IntegrityError: SB-402 or SB-405.
    """
    kept = {held.work for held in Outbox.of(config).all() if held.status != "released"}
    records = (r for r in frozen_cohorts(state) if r.kind == "train" and r.receipt is not None)
    return [record for record in records if record.work not in kept]


def affected_runs(
    state: VaultState, records: list[FrozenCohort], consent: ConsentState
) -> frozenset[Run]:
    """Return the runs in which somebody was who has withdrawn. Every manifest is read to its end."""
    withdrawn: dict[str, int] = {}
    for record in records:
        if record.manifest not in withdrawn:
            reasons = [consent.reason(patient) for patient in read_manifest(state, record)]
            withdrawn[record.manifest] = sum(
                reason is not None and reason not in BECAUSE_OF_TIME for reason in reasons
            )
    return frozenset((r.study, r.run) for r in records if withdrawn[r.manifest])


def _last(state: VaultState) -> _Last | None:
    named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'withdrawal_notices'"
    if not state.query(named):
        return None
    rows = state.query(
        "SELECT issued_at, affected, sealed FROM withdrawal_notices ORDER BY id DESC LIMIT 1"
    )
    if not rows:
        return None
    moment, affected, sealed = rows[0]
    value = parse_canonical(str(affected).encode())
    if not isinstance(value, list) or not isinstance(sealed, bytes):
        raise IntegrityError("SB-402", "The last notice of withdrawals cannot be read")
    runs = frozenset((str(study), str(run)) for study, run in value)
    return _Last(parse_timestamp(str(moment)), runs, sealed)
