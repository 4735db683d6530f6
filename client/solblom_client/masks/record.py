"""What a node must never forget about its masks, and what it must forget in time (privacy.md rule 8).

Never forgotten: which setups it made, which vector it masked under each, which survivor set it signed,
which rounds are closed. Erased: mask key, self seed and received shares, once their round is closed; and
from a release on, of each hospital the share that must not leave. SQLite overwrites what is erased
(`secure_delete`); what the disk keeps below the file is out of reach. A sealed share that the coordinator
kept opens with the run's share key, so that one goes too when the run ends (`close_run`).

Every step commits to disk before what it allows leaves the node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.message import parse_message
from solblom_protocol.sums.mask_setup import MaskSecrets
from solblom_protocol.sums.mask_shares import SharePair
from solblom_protocol.sums.roster import SumRoster, SumRound
from solblom_protocol.sums.survivors import (
    AgreedSurvivors,
    MaskedWork,
    SurvivorSet,
    check_only_one,
    check_survivors,
)
from solblom_verify.canonical import canonical_json, parse_canonical

_SETUP = "run = ? AND kind = ? AND round = ? AND attempt = ?"
_ROUND = "run = ? AND kind = ? AND round = ?"


@dataclass(frozen=True)
class ReleasedShares:
    """What a node gives out for its one survivor set: of each participant one share, never both."""

    seeds: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)


class MaskRecord:
    """A node's memory of its masks, in the vault's state file; the tables are `state.MASK_SCHEMA`.

    Raises:
        IntegrityError: SB-402, this SQLite does not overwrite what it deletes.
    """

    def __init__(self, state: VaultState) -> None:
        self._state = state
        if state.query("PRAGMA secure_delete=ON") != [(1,)]:
            raise IntegrityError("SB-402", "Erased mask keys would stay in the state file")

    def keep_share_key(self, roster: SumRoster, key: X25519PrivateKey) -> None:
        """Store the key to which the others seal this node's shares: one for a run, ever.

        Raises:
            RefusedError: SB-207, the run has one.
        """
        with self._state.transaction():
            if self._state.query("SELECT 1 FROM mask_runs WHERE run = ?", (roster.run,)):
                raise RefusedError("SB-207", f"The run {roster.run} has a share key already")
            self._state.execute(
                "INSERT INTO mask_runs VALUES (?, ?, ?, ?)",
                (roster.run, roster.study, roster.digest, key.private_bytes_raw()),
            )

    def share_key(self, roster: SumRoster) -> X25519PrivateKey | None:
        """Return the run's share key, or None before there was one.

        Raises:
            RefusedError: SB-207, the run is closed, or was begun with another roster.
        """
        rows = self._state.query(
            "SELECT roster, share_key FROM mask_runs WHERE run = ?", (roster.run,)
        )
        if not rows:
            return None
        if rows[0][0] != roster.digest:
            raise RefusedError("SB-207", f"The run {roster.run} was begun with another roster")
        if not isinstance(rows[0][1], bytes):
            raise RefusedError("SB-207", f"The masks of the run {roster.run} are erased")
        return X25519PrivateKey.from_private_bytes(rows[0][1])

    def keep_setup(self, of: SumRound, secrets: MaskSecrets, *, setup: bytes) -> None:
        """Store a setup and its secrets before it leaves: one for a sum and attempt, ever.

        Raises:
            RefusedError: SB-207, there is one, or the round is closed.
        """
        with self._state.transaction():
            self._check_open(of)
            if self.setup(of) is not None:
                raise RefusedError(
                    "SB-207", f"Attempt {of.attempt} of round {of.number} has a mask setup already"
                )
            self._state.execute(
                "INSERT INTO mask_setups VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)",
                (
                    *_setup_key(of),
                    of.roster,
                    setup,
                    secrets.mask_seed,
                    secrets.self_seed,
                ),
            )

    def setup(self, of: SumRound) -> bytes | None:
        """Return the signed setup that this node made for a sum, if it made one."""
        rows = self._state.query(
            f"SELECT setup FROM mask_setups WHERE {_SETUP} AND roster = ?",  # noqa: S608
            (*_setup_key(of), of.roster),
        )
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    def secrets(self, of: SumRound) -> MaskSecrets:
        """Return the secrets of this node's setup.

        Raises:
            RefusedError: SB-207, it made no setup for this sum, or they are erased.
        """
        rows = self._state.query(
            f"SELECT mask_key, self_seed FROM mask_setups WHERE {_SETUP} AND roster = ?",  # noqa: S608
            (*_setup_key(of), of.roster),
        )
        if not rows:
            raise RefusedError(
                "SB-207", f"No mask setup for attempt {of.attempt} of round {of.number}"
            )
        key, seed = rows[0]
        if not isinstance(key, bytes) or not isinstance(seed, bytes):
            raise RefusedError("SB-207", f"The mask key of round {of.number} is erased")
        return MaskSecrets(key, seed)

    def keep_masked(
        self, work: MaskedWork, *, vector: str, shares: Mapping[str, SharePair]
    ) -> None:
        """Note the one vector that is masked under a setup, before it leaves. The same again is no second one.

        Args:
            work: whose masks are in it, and the model it belongs to.
            vector: digest of the masked vector.
            shares: what the participants' setups deal to this node.

        Raises:
            RefusedError: SB-207, another vector, other setups or another model; the round is closed.
        """
        of = work.round
        row = (work.participants, work.base_model, canonical_json(work.sites).decode(), vector)
        with self._state.transaction():
            self._check_open(of)
            self.secrets(of)
            found = self._state.query(
                f"SELECT participants, base_model, sites, vector FROM mask_setups WHERE {_SETUP}",  # noqa: S608
                _setup_key(of),
            )[0]
            if found == row:
                return
            if found != (None, None, None, None):
                raise RefusedError(
                    "SB-207",
                    f"Attempt {of.attempt} of round {of.number} has a masked vector already; a second one under the "
                    "same masks would show the difference",
                )
            self._state.execute(
                f"UPDATE mask_setups SET participants=?, base_model=?, sites=?, vector=? WHERE {_SETUP}",  # noqa: S608
                (*row, *_setup_key(of)),
            )
            for owner, pair in sorted(shares.items()):
                self._state.execute(
                    "INSERT INTO mask_shares VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*_setup_key(of), owner, pair.key, pair.seed),
                )

    def masked(self, of: SumRound) -> MaskedWork:
        """Return what this node masked for a sum.

        Raises:
            RefusedError: SB-207, nothing.
        """
        rows = self._state.query(
            f"SELECT participants, base_model, sites FROM mask_setups WHERE {_SETUP}"  # noqa: S608
            " AND roster = ? AND vector IS NOT NULL",
            (*_setup_key(of), of.roster),
        )
        if not rows:
            raise RefusedError(
                "SB-207",
                f"No vector was masked here for attempt {of.attempt} of round {of.number}",
            )
        participants, base_model, sites = (str(value) for value in rows[0])
        names = parse_canonical(sites.encode())
        if not isinstance(names, list):
            raise IntegrityError("SB-402", "The node's ledger is damaged")
        return MaskedWork(of, participants, base_model, tuple(str(name) for name in names))

    def survivors(self, of: SumRound) -> SurvivorSet | None:
        """Return the survivor set of a round, whichever attempt it is of; None before there is one."""
        rows = self._state.query(
            f"SELECT survivors FROM mask_survivors WHERE {_ROUND}",  # noqa: S608
            _round_key(of),
        )
        if not rows:
            return None
        if not isinstance(rows[0][0], bytes):
            raise IntegrityError("SB-402", "The node's ledger is damaged")
        return parse_message(SurvivorSet, rows[0][0])

    def keep_survivors(self, roster: SumRoster, asked: SurvivorSet) -> None:
        """Record the round's survivor set, before it is signed: the first one is the only one.

        Raises:
            RefusedError: SB-207, another set is recorded, in this attempt or another; nothing was masked
            here; the round is closed.
            IntegrityError: SB-404, the set does not fit what was masked, or is too small.
        """
        with self._state.transaction():
            self._record(roster, asked)

    def release(self, roster: SumRoster, agreed: AgreedSurvivors) -> ReleasedShares:
        """Give out the survivors' seed shares and the others' key shares, and erase those of the other kind.

        Both happen in one transaction, so whatever a later order says, the other kind is gone.

        Raises:
            RefusedError: SB-207, as `keep_survivors`.
            IntegrityError: SB-404, as `keep_survivors`; SB-402, a share is not there.
        """
        of, chosen = agreed.chosen.round, agreed.chosen
        with self._state.transaction():
            work = self._record(roster, chosen)
            for owner in work.sites:
                unwanted = "key_share" if owner in chosen.survivors else "seed_share"
                self._state.execute(
                    f"UPDATE mask_shares SET {unwanted} = NULL WHERE {_SETUP} AND owner = ?",  # noqa: S608
                    (*_setup_key(of), owner),
                )
            self._state.execute(
                f"UPDATE mask_survivors SET released = 1 WHERE {_ROUND}",  # noqa: S608
                _round_key(of),
            )
        return self._released(of, chosen)

    def close_round(self, of: SumRound) -> None:
        """Erase mask keys, self seeds and shares of a round and all before it, of every attempt.

        Nothing more is masked, signed or released for them.
        """
        with self._state.transaction():
            self._state.execute(
                "INSERT INTO mask_closed VALUES (?, ?, ?) ON CONFLICT (run, kind) DO UPDATE"
                " SET round = max(round, excluded.round)",
                _round_key(of),
            )
            self._state.execute(
                "UPDATE mask_setups SET mask_key = NULL, self_seed = NULL"
                " WHERE run = ? AND kind = ? AND round <= ?",
                _round_key(of),
            )
            self._state.execute(
                "DELETE FROM mask_shares WHERE run = ? AND kind = ? AND round <= ?", _round_key(of)
            )

    def close_run(self, roster: SumRoster) -> None:
        """Erase all secrets of a run, its share key too."""
        with self._state.transaction():
            self._state.execute(
                "INSERT INTO mask_runs VALUES (?, ?, ?, NULL)"
                " ON CONFLICT (run) DO UPDATE SET share_key = NULL",
                (roster.run, roster.study, roster.digest),
            )
            self._state.execute(
                "UPDATE mask_setups SET mask_key = NULL, self_seed = NULL WHERE run = ?",
                (roster.run,),
            )
            self._state.execute("DELETE FROM mask_shares WHERE run = ?", (roster.run,))

    def close_study(self, study: str, *, but: str | None = None) -> None:
        """Erase all secrets of a study's runs, or of all but one: a newer run has begun, or the study was revoked."""
        with self._state.transaction():
            rows = self._state.query("SELECT run FROM mask_runs WHERE study = ?", (study,))
            for (run,) in rows:
                if run == but:
                    continue
                for sql in (
                    "UPDATE mask_runs SET share_key = NULL WHERE run = ?",
                    "UPDATE mask_setups SET mask_key = NULL, self_seed = NULL WHERE run = ?",
                    "DELETE FROM mask_shares WHERE run = ?",
                ):
                    self._state.execute(sql, (run,))

    def _record(self, roster: SumRoster, asked: SurvivorSet) -> MaskedWork:
        """Check a survivor set and record it where there is none; call inside a transaction."""
        of = asked.round
        recorded = self.survivors(of)
        check_only_one(asked, recorded=recorded)
        self._check_open(of)
        work = self.masked(of)
        check_survivors(roster, asked, masked=work)
        if recorded is None:
            self._state.execute(
                "INSERT INTO mask_survivors VALUES (?, ?, ?, ?, 0)",
                (*_round_key(of), asked.payload()),
            )
        return work

    def _released(self, of: SumRound, chosen: SurvivorSet) -> ReleasedShares:
        seeds: dict[str, bytes] = {}
        keys: dict[str, bytes] = {}
        rows = self._state.query(
            f"SELECT owner, key_share, seed_share FROM mask_shares WHERE {_SETUP}",  # noqa: S608
            _setup_key(of),
        )
        for owner, key_share, seed_share in rows:
            survived = owner in chosen.survivors
            share, other = (seed_share, key_share) if survived else (key_share, seed_share)
            if not isinstance(share, bytes) or other is not None:
                raise IntegrityError("SB-402", f"The shares of {owner} are not as they were left")
            (seeds if survived else keys)[str(owner)] = share
        return ReleasedShares(seeds, keys)

    def _check_open(self, of: SumRound) -> None:
        run = self._state.query("SELECT share_key FROM mask_runs WHERE run = ?", (of.run,))
        closed = self._state.query(
            "SELECT 1 FROM mask_closed WHERE run = ? AND kind = ? AND round >= ?", _round_key(of)
        )
        if closed or (run and run[0][0] is None):
            raise RefusedError("SB-207", f"Round {of.number} is closed, its mask keys are erased")


def _round_key(of: SumRound) -> tuple[str, str, int]:
    return (of.run, of.kind, of.number)


def _setup_key(of: SumRound) -> tuple[str, str, int, int]:
    return (*_round_key(of), of.attempt)
