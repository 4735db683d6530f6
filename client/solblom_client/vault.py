"""The vault: signed order in, signed result or refusal out. The only code of Solblom that sees patient data.

It has no network and never raises to its caller: whatever goes wrong becomes a refusal that carries
a code and nothing else. The steps of `_answer` are the steps of "One round" in the architecture, in
that order.
"""

import contextlib
import datetime as dt
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from solblom_client import gate
from solblom_client.answers import Answer, Answers
from solblom_client.approvals.approval import Approval, check_permit, read_approval
from solblom_client.approvals.permits import check_cohort
from solblom_client.approvals.record import approval_folder, end_expired
from solblom_client.arrivals import Arrivals
from solblom_client.budget.ledger import STATE_FILE, Request, Reservation, StudyLimits, open_ledger
from solblom_client.clock import check_clock, pass_clock
from solblom_client.cohorts.cohort import Cohort, check_consent_holds, join_cohort, units_of
from solblom_client.cohorts.family_record import keep_families
from solblom_client.cohorts.record import keep_cohort, note_receipt
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.log.decision import Decision, Event
from solblom_client.log.decision_log import open_decisions
from solblom_client.log.decisions import (
    about_accepted,
    about_answer,
    about_charged,
    about_head,
    about_order,
    about_refusal,
    has_left,
)
from solblom_client.masks.key_file import erase_when_done, own_mask_key
from solblom_client.masks.secure_answer import check_one_masked_answer
from solblom_client.masks.steps import ABOUT_MASKS, MaskSteps
from solblom_client.outbox.outbox import Outbox, held_answer
from solblom_client.policy import NodeConfig, load_node_config
from solblom_client.queries import exact_counts
from solblom_client.rules_in_force import RulesInForce
from solblom_client.service.opening_hours import WaitingError, check_open
from solblom_client.site_log import SiteLog
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.training.dp_sgd import TrainingTrace
from solblom_client.witness import OUTSIDE_CODE, HistoryError, Witness, cosigned, pass_witness_gate
from solblom_client.work import Work, read_model, request_of, run_key, work_digest
from solblom_models.task import Units
from solblom_protocol.errors import (
    REFUSAL_CODES,
    DataError,
    IntegrityError,
    RefusedError,
    SolblomError,
)
from solblom_protocol.messages.order import Order, read_order
from solblom_protocol.messages.result import (
    Refusal,
    seal_mask_reply,
    write_key_reply,
    write_refusal,
    write_result,
    write_witnessed,
)
from solblom_protocol.messages.seal import sealing_key_id
from solblom_protocol.sums.mask_setup import Participants
from solblom_protocol.sums.run_sums import tolerates_dropouts
from solblom_verify.envelope import key_id


def utc_now() -> dt.datetime:
    """Return the present moment in UTC."""
    return dt.datetime.now(dt.UTC)


class Vault:
    """A hospital's vault, opened from its node.toml."""

    def __init__(self, config: NodeConfig, *, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._config = config
        self._clock = clock
        self._keys = read_node_keys(config.state)
        self._node = key_id(self._keys.signing.public_key())
        self.rules = RulesInForce.of(config)
        self._coordinator = self.rules.coordinator
        self._state = VaultState(config.state / STATE_FILE)
        self._store = Store(self._state)
        self._log = SiteLog(config.state / "log" / "vault.jsonl")
        signing = self._keys.signing
        self._answers = Answers(config, self._state, self._log, signing=signing, clock=clock)
        self._decisions = open_decisions(config, self._keys, self._state)
        self._outbox = Outbox.of(config)
        self._witness = Witness(self._state, self._coordinator.signing)
        self._arrivals = Arrivals(self._state, self._store, self._witness, clock=clock)
        self.ledger = open_ledger(config, self._state)
        self.last_trace: TrainingTrace | None = None
        self._rows_read = False
        self._participants: Participants | None = None
        self._study: str | None = None  # of the order at work
        self.at_work = False  # on an order, in whatever thread
        self.waits = False  # the newest reply is neither yes nor no: nothing needs to be carried
        self._stopped: set[str] = set()  # studies with a strike that the disk did not take

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], dt.datetime] = utc_now) -> "Vault":
        """Open the vault of a node.toml."""
        return cls(load_node_config(path), clock=clock)

    @property
    def recipient(self) -> str:
        """Identity of the key to which orders for this node are sealed."""
        return sealing_key_id(self._keys.sealing.public_key())

    def close(self) -> None:
        """Close the state file."""
        self._state.close()
        self._decisions.close()

    def clear_strikes(self, study: str) -> None:
        """Let a stopped study go on: a person has looked."""
        self._store.clear_strikes(study)
        self._stopped.discard(study)

    def give_up(self) -> None:
        """Count the order at work as a refusal that may depend on data: its process ends because it hangs.

        Without this, hanging could answer questions about patients without end (privacy.md rule 5).
        May be called from another thread; writes through a connection of its own.
        """
        if self._study is None or not self._rows_read:
            return
        state = VaultState(self._config.state / STATE_FILE)
        try:
            Store(state).add_strike(self._study)
        finally:
            state.close()

    def process(self, sealed: bytes) -> bytes:
        """Answer a sealed order with a sealed reply; never raises for anything the order holds."""
        try:
            with self._state.exclusive():
                self.at_work = True
                return self._process_alone(sealed)
        except Exception as error:  # the lock itself failed
            return self._refuse(None, "SB-214", error)
        finally:
            self.at_work = False

    def _process_alone(self, sealed: bytes) -> bytes:
        """Answer one order while no other is at work: what is noted about it is its own."""
        order: Order | None = None
        self._rows_read, self._study, self._participants = False, None, None
        self._arrivals.forget()
        self.waits = False
        try:
            order = read_order(
                sealed, key=self._keys.sealing, coordinator=self._coordinator.signing
            )
            self._study = order.header.study
            self.rules.check()
            is_witness = order.header.kind == "witness"
            return self._answer_as_witness(order) if is_witness else self._answer(order)
        except Exception as error:  # whatever it is, its text stays here
            reason = self._remember_all_the_same() or error
            return self._refuse(order, self._outside_code(order, reason), reason)

    def _outside_code(self, order: Order | None, error: Exception) -> str:
        """Return the code that may leave, and count a refusal that may depend on data.

        Once a row was read, every failure may depend on a patient, so all of them share one code,
        and the third stops the study here until a person has looked (privacy.md rule 5).
        """
        if isinstance(error, WaitingError):  # the same whatever the data, and no refusal
            return error.code
        if isinstance(error, HistoryError):
            return OUTSIDE_CODE
        if self._rows_read or isinstance(error, DataError):
            if order is not None:
                self._strike(order.header.study)
            return "SB-209"
        if isinstance(error, SolblomError) and error.code in REFUSAL_CODES:
            return error.code
        return "SB-214"

    def _remember(self) -> None:
        """Remember the order that passed the chain, on disk; with a new charge it is part of the charge."""
        if decisions := self._arrivals.remember():
            self._note(*decisions)

    def _remember_all_the_same(self) -> Exception | None:
        """Remember an order that is refused after all; return why that cannot be done."""
        try:
            self._remember()
        except Exception as error:  # then that is what the refusal is about
            return error
        return None

    def _strike(self, study: str) -> None:
        """Count a refusal; where the disk does not take it, stop the study until this process ends."""
        try:
            self._store.add_strike(study)
        except IntegrityError:  # uncounted, refusals could answer questions without end
            self._stopped.add(study)

    def _answer(self, order: Order) -> bytes:
        approval = self._pass_gate(order)
        if order.header.kind in ABOUT_MASKS:
            return self._answer_about_masks(order, approval)
        model = read_model(order, approval)
        request = request_of(order, approval)
        self._outbox.check(request.digest)
        masks = approval.document.secure_sum is not None
        if masks:
            check_one_masked_answer(self.ledger, request)
        stored = self._store.stored_reply(request.digest, recipient=self._coordinator.sealing)
        reservation = self._charged(order, request, approval)
        # From here on patient rows may be read.
        source, cohort = self._join(approval)
        least, by_family = self._config.policy.min_patients, approval.document.by_family
        units = units_of(order, cohort, least=least, by_family=by_family)
        local = self._store.local_parameters(run_key(order), self._after_round(order, approval))
        counts = exact_counts(order, approval, model, source, units, local)
        rows = cohort.row_bytes(units)
        found_work = work_digest(request, approval, rows, counts=counts, local=local)
        if stored is not None and stored.work == found_work and stored.sealed is not None:
            self._outbox.check_stored(
                request.digest, found_work, has_left=partial(has_left, self._config, found_work)
            )
            self._check_consent_again(order, approval, units)
            self._note(about_order("again", order, request=request.digest))
            self._log.write_once_an_hour(
                "reply-again", now=self._clock(), kind=order.digest, order=order.digest
            )
            return stored.sealed
        if masks:
            check_one_masked_answer(self.ledger, request, work=found_work)
        if stored is not None:
            self._store.erase_reply(request.digest)
        if reservation.work not in (None, found_work) or reservation.status == "spent":
            # The cohort has changed since: independent noise, and a charge of its own.
            reservation = self._reserve(order, request, approval)
        reservation = self._bind(order, approval, reservation, rows, found_work)
        work = Work(
            *(order, approval, model, request, reservation, cohort, units, rows, counts, local),
            found_work,
            # Of the ledger, which a death in between does not undo (docs/adr/0006).
            second_answer=stored is not None or self._answered_otherwise(request, found_work),
        )
        answer = self._answers.to(work, self._participants)
        self.last_trace = answer.trace or self.last_trace
        return self._release(work, answer)

    def _answered_otherwise(self, request: Request, work: str) -> bool:
        """Tell whether this request was answered before, by another piece of work."""
        answered = self.ledger.answered_work(request)
        return any(asked == request.digest and found != work for asked, found in answered)

    def _pass_gate(self, order: Order) -> Approval:
        """Run every check that reads no patient data.

        Raises:
            RefusedError: the first rule that says no.
        """
        now, header = self._clock(), order.header
        gate.check_recipient(header, site=self._config.node.site, node=self._node)
        self._end_permits(now)  # whether or not orders are worked on now (privacy.md rule 12)
        check_open(self._config, now)
        pass_clock(self._state, now)
        approval = read_approval(self._config, self._keys, header.study)
        gate.check_times(header, approval.document, now=now, latest=self._store.latest_time())
        check_permit(self._config, self._state, header, approval, now=now)
        gate.check_policy(approval.document, self._config.policy)
        gate.check_round(header, approval.document)
        gate.check_roster(approval.document, site=header.site, node=self._node)
        self._participants = gate.check_secure_sum(header, approval.document)
        history = self._store.history(order)
        gate.check_chain(header, history)
        if header.study in self._stopped:
            raise RefusedError("SB-210", "The study was stopped: a data refusal could not be noted")
        if self._store.strikes(header.study) >= gate.MAX_DATA_REFUSALS:
            raise RefusedError("SB-210", "The study was stopped after three data refusals")
        self._arrivals.take(order, seen=history.seen)
        return approval

    def _answer_as_witness(self, order: Order) -> bytes:
        """Cosign the head of the coordinator's log: no patient, no study and no budget is touched."""
        now = self._clock()
        seen = pass_witness_gate(
            order, self._config, self._state, node=self._node, witness=self._witness, now=now
        )
        self._arrivals.take(order, seen=seen)
        self._remember()
        message, head = cosigned(order, self._keys.signing, now=now)
        self._note(about_head("cosigned", order, head))
        return write_witnessed(message, key=self._keys.signing, recipient=self._coordinator.sealing)

    def end_permits(self) -> None:
        """Wipe the noise roots whose permit's date has come, without waiting for an order (privacy.md rule 12)."""
        with self._state.exclusive():
            self._end_permits(self._clock())

    def _end_permits(self, now: dt.datetime) -> None:
        latest = max(now, self._store.latest_time() or now)  # a clock that went back keeps no root
        for study in end_expired(self._config, self._keys, self._state, now=latest):
            self._decisions.append(Decision("ended", study=study), now=now)

    def _charged(self, order: Order, request: Request, approval: Approval) -> Reservation:
        """Return the charge for a request: one of before, or a new one on disk."""
        found = self.ledger.find(request.digest)
        if found is None:
            return self._reserve(order, request, approval)
        self.ledger.confirm()
        self._remember()
        self._note(*about_accepted(order, request))
        return found

    def _reserve(self, order: Order, request: Request, approval: Approval) -> Reservation:
        privacy = approval.document.study.privacy
        epsilon = None if privacy.epsilon == "off" else privacy.epsilon
        seen = [about_order("received", order), *self._arrivals.decisions]
        decisions = [*seen, *about_charged(order, request)]
        # One transaction: a log that cannot be written must not cost a charge for each order.
        with self._decisions.with_charge(*decisions, now=self._clock()) as note:

            def beside(state: VaultState) -> None:
                note(state)
                self._arrivals.put()

            reservation = self.ledger.reserve(
                request,
                policy=self._config.policy,
                limits=StudyLimits(
                    epsilon, privacy.delta, approval.document.study.evaluation.releases
                ),
                now=self._clock(),
                beside=beside,
            )
            self._arrivals.forget()
        self._log.write(
            "reserved", now=self._clock(), run=request.run, kind=request.kind, round=request.round
        )
        return reservation

    def _note(self, *decisions: Decision) -> None:
        """Log what may repeat without end; nothing leaves that is not logged.

        Raises:
            IntegrityError: SB-406.
        """
        self._decisions.append(*decisions, now=self._clock(), often=True)

    def _join(self, approval: Approval) -> tuple[Any, Cohort]:
        """Read the rows and join consent now.

        Raises:
            DataError: the data do not obey the contract.
        """
        self._rows_read = True
        source = open_source(self._config, approval.dataset, approval.document.contract)
        units = approval.task.read_units(source, approval.document)
        cohort = join_cohort(self._config, self._keys, approval.document, units, now=self._clock())
        check_cohort(approval.permit, cohort, by_family=approval.document.by_family)
        if approval.document.by_family:
            study = approval.document.digest
            keep_families(self._state, self._keys.split, study, cohort.everybody)
        return source, cohort

    def _bind(
        self, order: Order, approval: Approval, reservation: Reservation, rows: bytes, work: str
    ) -> Reservation:
        """Put on disk who is in this work, then bind its charge to it; both before training."""
        years = self._config.consent.cohort_record_years
        keep_cohort(self._state, order, approval, rows, work=work, now=self._clock(), years=years)
        return self.ledger.bind(reservation, work)

    @staticmethod
    def _after_round(order: Order, approval: Approval) -> int:
        """Return the round before which local parameters are taken; an evaluation follows all rounds."""
        rounds = approval.document.study.training.rounds
        return order.header.round if order.header.kind == "train" else rounds + 1

    def _answer_about_masks(self, order: Order, approval: Approval) -> bytes:
        """Answer an order for keys, shares or signatures: nothing of it depends on patients."""
        self._remember()
        self._note(about_order("received", order), about_order("accepted", order))
        if tolerates_dropouts(approval.document):
            steps = MaskSteps(order.header, approval.document, self._keys.signing, self._state)
            answer, kind = steps.answer(), f"masks-{order.header.kind}"
            self._log.write(kind, now=self._clock(), run=order.header.run)
            return seal_mask_reply(answer, recipient=self._coordinator.sealing)
        folder = approval_folder(self._config, order.header.study)
        message = own_mask_key(order, approval.document, folder)
        self._log.write("mask-key", now=self._clock(), run=order.header.run)
        return write_key_reply(message, key=self._keys.signing, recipient=self._coordinator.sealing)

    def _check_consent_again(self, order: Order, approval: Approval, units: Units) -> None:
        """Drop what was made when somebody withdrew, or approval or permit fell, meanwhile; the charge stays.

        Stored bytes pass it too (rule 10): reading a large table takes minutes, in which a hospital may say no.

        Raises:
            DataError: SB-308.
            RefusedError: SB-203, SB-206, SB-217 or SB-218; outside SB-209, as everything after rows were read.
            WaitingError: SB-219, the hospital has changed its rules.
        """
        now, header = self._clock(), order.header
        self.rules.check()
        check_clock(self._state, now)
        gate.check_ends(approval.document, now=now)
        approved = read_approval(self._config, self._keys, header.study)
        if approved.record != approval.record:
            raise RefusedError("SB-203", "The study was approved anew while an order was worked on")
        check_consent_holds(self._config, units, now=now)
        check_permit(self._config, self._state, header, approval, now=self._clock())

    def _release(self, work: Work, answer: Answer) -> bytes:
        """Store result, receipt and charge in one transaction, then hand out the sealed bytes."""
        self._check_consent_again(work.order, work.approval, work.units)
        header = work.order.header
        receipt = self._answers.receipt(work, answer)
        key, recipient = self._keys.signing, self._coordinator.sealing
        sealed, receipt_digest = write_result(receipt, answer.data, key=key, recipient=recipient)
        if self._outbox.manual:  # said before it is stored: bytes that nobody judged never leave
            held = held_answer(
                *(work, answer, receipt),
                receipt_digest=receipt_digest,
                sealed_bytes=len(sealed),
                delta=self._config.policy.delta,
                destination=self._coordinator.key_id,
                now=self._clock(),
            )
            self._outbox.write(held)
        # Logged before it can leave: a death in between makes it again, and logs it once more.
        event: Event = "held" if self._outbox.manual else "released"
        self._decisions.append(
            about_answer(
                event,
                work,
                answer,
                receipt,
                digest=receipt_digest,
                to=self._coordinator.key_id,
            ),
            now=self._clock(),
        )
        self._store_answer(work, answer, sealed, receipt_digest)
        with contextlib.suppress(OSError, IntegrityError):  # they are removed with the next ones
            self._store.sweep()
        self._log.write(event, now=self._clock(), work=work.digest, receipt=receipt_digest)
        if work.approval.document.secure_sum is not None:
            done = self.ledger.answered(header.study, header.run)
            folder = approval_folder(self._config, header.study)
            erase_when_done(work.order, work.approval.document, folder, done=done)
        self._outbox.check(work.request.digest)
        return sealed

    def _store_answer(self, work: Work, answer: Answer, sealed: bytes, receipt_digest: str) -> None:
        """Put an answer, its receipt and its spent charge on disk: all, or nothing."""
        header, run = work.order.header, run_key(work.order)
        with self._state.transaction():
            if work.request.event.kind != "no-privacy":  # rule 10: nothing is stored then
                self._store.keep_reply(
                    work.request.digest,
                    work.digest,
                    sealed,
                    run=run,
                    kind=header.kind,
                    round_number=header.round,
                )
                if header.kind == "train":
                    self._store.keep_local_parameters(run, header.round, answer.local)
            self._store.keep_receipt(receipt_digest, header.run, header.round)
            note_receipt(self._state, work.digest, receipt_digest)
            self.ledger.mark_spent(work.reservation)
            if work.second_answer:
                # It shows that something changed here, and counts as a refusal would (privacy.md
                # rule 5; docs/adr/0006): noted with the answer, or no answer leaves.
                self._store.note_strike(header.study)

    def _refuse(self, order: Order | None, code: str, error: Exception) -> bytes:
        with contextlib.suppress(OSError):  # a log that cannot be written refuses all the same
            known = order is not None
            self._log.write_failure(f"refused {code}", error, now=self._clock(), known_sender=known)
        with contextlib.suppress(OSError, IntegrityError):
            self._note(*about_refusal(order, error, code))
        self.waits = code == "SB-219"
        refusal = Refusal(
            schema="solblom.refusal/1",
            site=self._config.node.site,
            node=self._node,
            order=None if order is None else order.digest,
            code=code,
        )
        return write_refusal(refusal, key=self._keys.signing, recipient=self._coordinator.sealing)
