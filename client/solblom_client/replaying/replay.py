"""Replay inside a hospital: grade B works on one of its rounds again, grade C looks at the noise in it.

A person at the hospital asks for it by a command; no order can. It charges nothing, because it draws no new number: the
same work gives the same bytes (privacy.md rule 3). It stores and sends nothing, and says to the person here
only whether the bytes are the same. What it did stands in the log of decisions.

It refuses, by name: a round whose patients have changed or withdrawn (rule 13), a noise root that is gone (rule 12), a
masked round (rule 8), other code, another approval or data set than the receipt's (rule 3).
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from solblom_client.answers import make_update
from solblom_client.approvals.approval import Approval, read_approval
from solblom_client.approvals.permits import PERMIT_FILE, check_for_approval
from solblom_client.approvals.record import RECORDS, approval_folder, end_expired
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.clock import check_clock
from solblom_client.cohorts.cohort import join_cohort, read_consent_now, rows_as_bytes
from solblom_client.cohorts.rebuild import find_cohort
from solblom_client.cohorts.record import read_manifest, rebuild, row_digests
from solblom_client.connectors.sources import open_source
from solblom_client.keys import NodeKeys, commitment, derive, keyed_digest
from solblom_client.log.decision import Decision
from solblom_client.log.once import log_once
from solblom_client.policy import NodeConfig
from solblom_client.replaying.noise_residual import NoiseResidual
from solblom_client.replaying.noise_verdict import NoiseVerdict, Values, judge
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.training.keystream import KeyStream
from solblom_client.work import read_model, request_of, run_key, work_digest
from solblom_models.patient_id import patient_id
from solblom_models.replay import DifferenceError, Recording, states
from solblom_models.replay_files import update_name
from solblom_models.task import Units
from solblom_protocol.errors import (
    ConfigurationError,
    RefusedError,
    RunError,
    SolblomError,
)
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.layout import Float32, pack
from solblom_protocol.messages.message import parse_message, timestamp
from solblom_protocol.messages.order import Order, OrderHeader, RosterEntry
from solblom_protocol.messages.result import RECEIPT_PAYLOAD_TYPE, Receipt
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id, open_envelope
from solblom_verify.wording import counted

ENOUGH_VALUES, MOST_ROUNDS = 400, 6  # of noise that is judged together


@dataclass(frozen=True)
class ReplayedRound:
    """What a replay found. Stays inside the hospital.

    Attributes:
        same: whether the same bytes came out; the digest is that of the receipt.
        noise: the verdict on the noise, where it was asked for.
    """

    site: str
    round: int
    work: str
    update: str
    same: bool
    noise: NoiseVerdict | None


@dataclass(frozen=True)
class SignedRound:
    """What this hospital signed about one of its rounds, and the model that it had before it."""

    receipt: Receipt
    digest: str
    base: Float32


def replay_round(
    config: NodeConfig,
    keys: NodeKeys,
    folder: Path,
    number: int,
    *,
    with_noise: bool,
    now: dt.datetime,
) -> ReplayedRound:
    """Work on one round of a verified artefact again, and log what came out.

    Raises:
        RefusedError: SB-443 to SB-446, or what an approval, a permit or a policy says.
        RunError: SB-441, the artefact keeps nothing; SB-449, this hospital has no update in the round.
        DifferenceError: SB-442, the rounds before it do not lead to its model.
    """
    state = VaultState(config.state / STATE_FILE)
    decision = Decision("replayed", round=number, kind="train")
    try:
        with state.exclusive():
            replay = _Replay(config, keys, state, folder, now)
            signed = replay.signed_round(number)
            receipt = signed.receipt
            decision = replace(
                decision,
                study=receipt.study,
                run=receipt.run,
                work=receipt.work,
                receipt=signed.digest,
            )
            found = replay.found(signed, with_noise=with_noise)
    except SolblomError as error:
        log_once(config, keys, replace(decision, what="not-done", code=error.code), now=now)
        raise
    finally:
        state.close()
    failed = found.noise is not None and not found.noise.passed
    what = "noise-differs" if failed else "same" if found.same else "differs"
    log_once(config, keys, replace(decision, what=what), now=now)
    return found


@dataclass(frozen=True)
class _Replay:
    config: NodeConfig
    keys: NodeKeys
    state: VaultState
    folder: Path
    now: dt.datetime

    def signed_round(self, number: int) -> SignedRound:
        """Return what this node signed about a round, and the model before it, worked out by grade A's code.

        Raises:
            RunError: SB-449 or SB-441. RefusedError: SB-445. DifferenceError: SB-442.
        """
        receipt, name = self._receipt(number)
        if receipt.event.get("kind") not in ("poisson-gaussian", "no-privacy"):
            raise RefusedError(
                "SB-445",
                "The round was masked, and its mask keys were erased when the run ended (privacy.md rule 8)",
            )
        recording = Recording.of(self.folder)
        for done, found in states(recording):
            if done == number - 1:
                base = found.model
                break
        else:
            raise RunError("SB-449", f"The model has no round {number}")
        if digest(pack([base])) != receipt.base_model:
            raise DifferenceError("the receipt names another model", number=number)
        return SignedRound(receipt, name, base)

    def _receipt(self, number: int) -> tuple[Receipt, str]:
        public = self.keys.signing.public_key()
        own = key_id(public)
        try:
            sites = Recording.manifest_of(self.folder).object("sites")
            site = next((s for s, entry in sites.items() if entry.text("keyid") == own), "")
            data = (self.folder / f"training/receipts/{number:03d}-{site}.dsse.json").read_bytes()
            opened = open_envelope(data, payload_type=RECEIPT_PAYLOAD_TYPE, keys={own: public})
        except (ValueError, OSError):
            raise RunError(
                "SB-449", f"The model has no update of {self.config.node.site} in round {number}"
            ) from None
        return parse_message(Receipt, opened.payload), digest(data)

    def found(self, signed: SignedRound, *, with_noise: bool) -> ReplayedRound:
        """Work on the round again and compare; with the noise of other rounds too where it is judged."""
        made, noise = self._work_on(signed, look=with_noise)
        verdict = None
        if noise is not None:
            judged = [(signed.receipt.round, noise), *self._noise_of_others(signed, noise.size)]
            verdict = judge(judged)
        return ReplayedRound(
            site=signed.receipt.site,
            round=signed.receipt.round,
            work=signed.receipt.work,
            update=signed.receipt.update,
            same=digest(made) == signed.receipt.update,
            noise=verdict,
        )

    def _noise_of_others(self, signed: SignedRound, size: int) -> Iterator[tuple[int, Values]]:
        """Yield the noise of rounds nearby, one at least, until there is enough to judge; leave out what is refused."""
        rounds = len(Recording.of(self.folder).rounds)
        number, found = signed.receipt.round, 0
        nearest = sorted(set(range(1, rounds + 1)) - {number}, key=lambda n: (abs(n - number), n))
        for other in nearest:
            if found and (found >= MOST_ROUNDS - 1 or (found + 1) * size >= ENOUGH_VALUES):
                return
            try:
                noise = self._work_on(self.signed_round(other), look=True)[1]
            except (RefusedError, RunError):
                continue
            if noise is not None:
                found += 1
                yield other, noise

    def _work_on(self, signed: SignedRound, *, look: bool) -> tuple[bytes, Values | None]:
        """Return the update of a round, worked on again, and the noise in the one that was sent."""
        receipt = signed.receipt
        approval = self._approval(receipt)
        order = self._order(signed, approval)
        model = read_model(order, approval)
        if model is None:
            raise RefusedError("SB-446", "The round has no model")
        units, rows = self._units(signed, approval)
        local = Store(self.state).local_parameters(run_key(order), receipt.round)
        work = work_digest(request_of(order, approval), approval, rows, counts=b"", local=local)
        if work != receipt.work:
            raise RefusedError(
                "SB-446",
                "The round's work had other inputs: its roster, its data set or parameters that stay here are not "
                "the same (privacy.md rule 3)",
            )
        seen = None
        if look:
            document, task, site = approval.document, approval.task, approval.record.site
            seen = NoiseResidual.of(document, model, task, site=site)
        made = make_update(
            approval,
            model,
            units,
            work,
            local=local,
            noise=KeyStream(derive(approval.root, "noise", work)),
            look=None if seen is None else seen.look,
        )
        if seen is None:
            return made.data, None
        return made.data, seen.of_update(self._sent(receipt, model.layout.size))

    def _sent(self, receipt: Receipt, size: int) -> Float32:
        """Return the update that left, as the artefact keeps it."""
        data = (self.folder / update_name(receipt.round, receipt.site)).read_bytes()
        if digest(data) != receipt.update or len(data) != 4 * size:
            raise DifferenceError(
                "the stored update is not the one that was signed",
                number=receipt.round,
                site=receipt.site,
            )
        return np.frombuffer(data, dtype="<f4")

    def _approval(self, receipt: Receipt) -> Approval:
        """Return the approval under which the round was worked on, if it stands.

        Raises:
            RefusedError: SB-444 the root is gone; SB-446 code or approval are others; SB-203, SB-217 or SB-218.
        """
        check_clock(
            self.state, self.now
        )  # a clock that was set back finds no root that is to be gone
        for study in end_expired(self.config, self.keys, self.state, now=self.now):
            log_once(self.config, self.keys, Decision("ended", study=study), now=self.now)
        folder = approval_folder(self.config, receipt.study)
        if not (folder / RECORDS[0]).is_file() and any(
            (folder / name).is_file() for name in (RECORDS[1], PERMIT_FILE)
        ):
            raise _root_is_gone()
        try:
            approval = read_approval(self.config, self.keys, receipt.study)
        except ConfigurationError as error:
            if error.code == "SB-109":
                raise _root_is_gone() from None
            raise
        except RefusedError as error:
            if error.code in ("SB-205", "SB-211"):
                raise RefusedError("SB-446", f"{error.message} (privacy.md rule 3)") from None
            raise
        check_for_approval(
            self.config,
            self.state,
            approval.document,
            approval.permit,
            code=approval.record.code,
            now=self.now,
        )
        _check_same_approval(approval, receipt)
        return approval

    def _order(self, signed: SignedRound, approval: Approval) -> Order:
        """Return the order as far as the work depends on it; expiry, courier and attempt are no part of it."""
        receipt, config = signed.receipt, self.config
        recording = Recording.of(self.folder)
        sites = recording.manifest.object("sites")
        coordinator = PublicKeys.read(config.path(config.coordinator.key))
        header = OrderHeader(
            schema="solblom.order/1",
            kind="train",
            coordinator=coordinator.key_id,
            site=receipt.site,
            node=receipt.node,
            study=receipt.study,
            run=receipt.run,
            round=receipt.round,
            attempt=1,
            issued=timestamp(self.now),
            expires=timestamp(self.now),
            base_model=receipt.base_model,
            layout=recording.layout.to_json(),
            roster=[
                RosterEntry(site=site, node=sites.object(site).text("keyid"))
                for site in sorted(sites.members)
            ],
            noise=approval.document.study.privacy.noise,
            previous_order=None,
            last_receipt=None,
            masking=(),
        )
        return Order(header, receipt.order, pack([signed.base]))

    def _units(self, signed: SignedRound, approval: Approval) -> tuple[Units, bytes]:
        """Return the round's patients as they are today, sorted by id; refused where anything about them has changed.

        Raises:
            RefusedError: SB-443.
        """
        receipt = signed.receipt
        source = open_source(self.config, approval.dataset, approval.document.contract)
        units = approval.task.read_units(source, approval.document)
        consent = read_consent_now(self.config, now=self.now)
        try:
            record = find_cohort(self.state, signed.digest)
        except (
            ConfigurationError
        ):  # older than the record is kept: only an unchanged cohort can be told
            joined = join_cohort(self.config, self.keys, approval.document, units, now=self.now)
            chosen = joined.training
        else:
            members = read_manifest(self.state, record)
            _check_members(rebuild(members, row_digests(units)).exact)
            gone = sum(not consent.includes(patient) for patient in members)
            if gone:
                raise RefusedError(
                    "SB-443",
                    f"{counted(gone, 'patient')} of the round may no longer be used: a withdrawal holds for "
                    "replays too (privacy.md rule 13)",
                )
            order = sorted(range(len(units.ids)), key=lambda n: patient_id(units.ids[n]))
            chosen = units.select([n for n in order if patient_id(units.ids[n]) in members])
        rows, root = rows_as_bytes(chosen), approval.root
        _check_members(keyed_digest(derive(root, "cohort", receipt.work), rows) == receipt.cohort)
        state = keyed_digest(
            derive(root, "consent", receipt.work), consent.record_bytes(chosen.ids)
        )
        if state != receipt.consent:
            raise RefusedError(
                "SB-443",
                "The consent of the round's patients is not what it was then (privacy.md rule 13)",
            )
        return chosen, rows


def _check_members(same: bool) -> None:
    if not same:
        raise RefusedError(
            "SB-443",
            "A patient of the round is no longer in the data, or has another row now (privacy.md rule 13)",
            "`solblom node cohort rebuild` with the receipt's digest says how many",
        )


def _root_is_gone() -> RefusedError:
    return RefusedError(
        "SB-444",
        "The study's noise root is gone: its permit ended or its approval was revoked (privacy.md rule 12)",
    )


def _check_same_approval(approval: Approval, receipt: Receipt) -> None:
    """Refuse where code or noise root are not those of the receipt.

    Raises:
        RefusedError: SB-446.
    """
    if approval.record.code != receipt.code:
        raise RefusedError(
            "SB-446",
            "The round was worked on with other code than is approved now (privacy.md rule 3)",
        )
    committed = commitment(derive(approval.root, "noise", receipt.work), receipt.work)
    if committed != receipt.noise_commitment:
        raise RefusedError(
            "SB-446",
            "The study was approved anew since, with another noise root (privacy.md rules 3 and 12)",
        )
