"""The vault: signed order in, signed result or refusal out. The only code of Solblom that sees patient data.

It has no network and never raises to its caller: whatever goes wrong becomes a refusal that carries
a code and nothing else. The steps of `_answer` are the steps of "One round" in the architecture, in
that order.
"""

import contextlib
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from solblom_client import gate
from solblom_client.anchor import Anchor
from solblom_client.approval import Approval, read_approval
from solblom_client.cohort import Cohort, join_cohort, read_consent_now
from solblom_client.connectors.table import open_source
from solblom_client.export_gate import export_update
from solblom_client.keys import commitment, derive, keyed_digest, read_node_keys
from solblom_client.keystream import KeyStream
from solblom_client.ledger import Ledger, Request, Reservation, StudyLimits
from solblom_client.local_parameters import load_local, pack_local
from solblom_client.policy import NodeConfig, load_node_config
from solblom_client.site_log import SiteLog
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.training import TrainingSettings, TrainingTrace, train
from solblom_models.flat import layout_of, load_flat
from solblom_models.task import Task
from solblom_protocol.errors import (
    REFUSAL_CODES,
    DataError,
    IntegrityError,
    RefusedError,
    SolblomError,
)
from solblom_protocol.layout import Float32, Layout, unpack
from solblom_protocol.messages import as_json
from solblom_protocol.order import Order, read_order
from solblom_protocol.public_keys import PublicKeys
from solblom_protocol.result import Receipt, Refusal, count_band, write_refusal, write_result
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id

STATE_FILE = "vault.sqlite"


def utc_now() -> dt.datetime:
    """Return the present moment in UTC."""
    return dt.datetime.now(dt.UTC)


def open_ledger(config: NodeConfig, state: VaultState) -> Ledger:
    """Return the ledger in a node's state, with the anchor that node.toml names."""
    anchor = config.path(config.node.anchor) if config.node.anchor else None
    return Ledger(state, Anchor(anchor))


@dataclass(frozen=True)
class _Work:
    """One piece of work that passed the gate."""

    order: Order
    approval: Approval
    layout: Layout
    base: Float32
    request: Request
    reservation: Reservation
    cohort: Cohort
    local: bytes
    digest: str


class Vault:
    """A hospital's vault, opened from its node.toml."""

    def __init__(self, config: NodeConfig, *, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._config = config
        self._clock = clock
        self._keys = read_node_keys(config.state)
        self._node = key_id(self._keys.signing.public_key())
        self._coordinator = PublicKeys.read(config.path(config.coordinator.key))
        self._state = VaultState(config.state / STATE_FILE)
        self._store = Store(self._state)
        self._log = SiteLog(config.state / "log" / "vault.jsonl")
        self.ledger = open_ledger(config, self._state)
        self.last_trace: TrainingTrace | None = None
        self._rows_read = False

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], dt.datetime] = utc_now) -> "Vault":
        """Open the vault of a node.toml."""
        return cls(load_node_config(path), clock=clock)

    def close(self) -> None:
        """Close the state file."""
        self._state.close()

    def clear_strikes(self, study: str) -> None:
        """Let a stopped study go on: a person has looked."""
        self._store.clear_strikes(study)

    def process(self, sealed: bytes) -> bytes:
        """Answer a sealed order with a sealed reply; never raises for anything the order holds."""
        try:
            with self._state.exclusive():
                return self._process_alone(sealed)
        except Exception as error:  # the lock itself failed
            return self._refuse(None, "SB-214", error)

    def _process_alone(self, sealed: bytes) -> bytes:
        """Answer one order while no other is at work: what is noted about it is its own."""
        order: Order | None = None
        self._rows_read = False
        try:
            order = read_order(
                sealed, key=self._keys.sealing, coordinator=self._coordinator.signing
            )
            return self._answer(order)
        except Exception as error:  # whatever it is, its text stays here
            return self._refuse(order, self._outside_code(order, error), error)

    def _outside_code(self, order: Order | None, error: Exception) -> str:
        """Return the code that may leave, and count a refusal that may depend on data.

        Once a row was read, every failure may depend on a patient, so all of them share one code,
        and the third stops the study here until a person has looked (privacy.md rule 5).
        """
        if self._rows_read or isinstance(error, DataError):
            if order is not None:
                with contextlib.suppress(IntegrityError):  # a full disk must not raise out of here
                    self._store.add_strike(order.header.study)
            return "SB-209"
        if isinstance(error, SolblomError) and error.code in REFUSAL_CODES:
            return error.code
        return "SB-214"

    def _answer(self, order: Order) -> bytes:
        approval = self._pass_gate(order)
        layout, base = _read_model(order, approval)
        request = self._request(order, approval)
        stored = self._store.stored_reply(request.digest)
        found = self.ledger.find(request.digest)
        if found is not None:
            self.ledger.confirm()
        reservation = found or self._reserve(request, approval)
        # From here on patient rows may be read.
        cohort = self._join(approval)
        local = self._store.local_parameters(_run_key(order), order.header.round)
        work_digest = self._work_digest(request, approval, cohort, local)
        if stored is not None and stored[0] == work_digest:
            self._log.write("reply-again", now=self._clock(), order=order.digest)
            return stored[1]
        if stored is not None:
            self._store.erase_reply(request.digest)
        if reservation.work not in (None, work_digest) or reservation.status == "spent":
            # The cohort has changed since: independent noise, and a charge of its own.
            reservation = self._reserve(request, approval)
        reservation = self.ledger.bind(reservation, work_digest)
        work = _Work(
            order, approval, layout, base, request, reservation, cohort, local, work_digest
        )
        return self._train(work)

    def _pass_gate(self, order: Order) -> Approval:
        """Run every check that reads no patient data; remember the order.

        Raises:
            RefusedError: the first rule that says no.
        """
        now, header = self._clock(), order.header
        gate.check_recipient(header, site=self._config.node.site, node=self._node)
        approval = read_approval(self._config, self._keys, header.study)
        gate.check_times(header, approval.document, now=now, latest=self._store.latest_time())
        gate.check_policy(approval.document, self._config.policy)
        gate.check_round(header, approval.document)
        gate.check_chain(header, self._store.history(order))
        if self._store.strikes(header.study) >= gate.MAX_DATA_REFUSALS:
            raise RefusedError("SB-210", "The study was stopped after three data refusals")
        with self._state.transaction():
            self._store.remember_order(order, now=now)
        return approval

    def _request(self, order: Order, approval: Approval) -> Request:
        header, document = order.header, approval.document
        inputs: Any = {
            "schema": "solblom.request/1",
            "study": header.study,
            "run": header.run,
            "round": header.round,
            "base_model": header.base_model,
            "layout": header.layout,
            "roster": [as_json(entry) for entry in header.roster],
            "noise": header.noise,
            "code": approval.record.code,
            "dataset": approval.record.dataset,
        }
        return Request(
            digest=digest(canonical_json(inputs)),
            study=header.study,
            run=header.run,
            round=header.round,
            event=document.round_event,
        )

    def _reserve(self, request: Request, approval: Approval) -> Reservation:
        privacy = approval.document.study.privacy
        epsilon = None if privacy.epsilon == "off" else privacy.epsilon
        reservation = self.ledger.reserve(
            request,
            policy=self._config.policy,
            limits=StudyLimits(epsilon, privacy.delta),
            now=self._clock(),
        )
        self._log.write("reserved", now=self._clock(), run=request.run, round=request.round)
        return reservation

    def _join(self, approval: Approval) -> Cohort:
        """Read the rows and join consent now.

        Raises:
            DataError: the data do not obey the contract, or are too few by this node's own
            threshold.
        """
        self._rows_read = True
        source = open_source(self._config, approval.dataset)
        units = approval.task.read_units(source, approval.document)
        cohort = join_cohort(self._config, self._keys, approval.document, units, now=self._clock())
        if len(cohort.training.ids) < self._config.policy.min_patients:
            raise DataError("SB-306", "The training set is smaller than policy.min_patients")
        if len(set(cohort.training.labels.tolist())) < 2:
            raise DataError("SB-305", "All patients of the training set have the same label")
        return cohort

    def _work_digest(
        self, request: Request, approval: Approval, cohort: Cohort, local: bytes
    ) -> str:
        """Return the digest of every input of the update (privacy.md rule 3); leaves out expiry and attempt."""
        key = derive(approval.root, "cohort", "")
        inputs: Any = {
            "schema": "solblom.work/1",
            "request": request.digest,
            "event": request.event.to_json(),
            "cohort": keyed_digest(key, cohort.training_bytes()),
            "local": keyed_digest(key, local),
        }
        return digest(canonical_json(inputs))

    def _train(self, work: _Work) -> bytes:
        document, task = work.approval.document, work.approval.task
        noise_key = derive(work.approval.root, "noise", work.digest)
        committed = commitment(noise_key, work.digest)
        self._log.write("training", now=self._clock(), work=work.digest, noise_commitment=committed)
        model = _model_at(task, work)
        settings = TrainingSettings.of(document)
        self.last_trace = train(
            task,
            model,
            work.cohort.training,
            settings,
            coins=KeyStream(derive(work.approval.root, "sampling", work.digest)),
            noise=KeyStream(noise_key),
        )
        update = export_update(
            work.base,
            model,
            work.layout,
            local=task.local_parameters,
            settings=settings,
            trace=self.last_trace,
        )
        self._check_consent_again(work)
        return self._release(work, model, update, committed)

    def _check_consent_again(self, work: _Work) -> None:
        """Drop the update when somebody withdrew during training; the charge stays (privacy.md rule 10).

        Raises:
            DataError: SB-308.
        """
        again = read_consent_now(self._config, now=self._clock())
        if not all(again.includes(patient) for patient in work.cohort.training.ids):
            raise DataError("SB-308", "Consent changed while the round was trained")

    def _release(self, work: _Work, model: torch.nn.Module, update: bytes, committed: str) -> bytes:
        """Store result, receipt and charge in one transaction, then hand out the sealed bytes."""
        header = work.order.header
        receipt = Receipt(
            schema="solblom.receipt/1",
            site=self._config.node.site,
            node=self._node,
            study=header.study,
            run=header.run,
            round=header.round,
            base_model=header.base_model,
            order=work.order.digest,
            work=work.digest,
            update=digest(update),
            event=work.request.event.to_json(),
            noise_commitment=committed,
            cohort=self._salted(work, "cohort", work.cohort.training_bytes()),
            consent=self._salted(work, "consent", work.cohort.consent_bytes()),
            patients=count_band(len(work.cohort.training.ids)),
            code=work.approval.record.code,
            fixed_point_bits=24,
            simulation=self._config.node.simulation,
        )
        sealed, receipt_digest = write_result(
            receipt, update, key=self._keys.signing, recipient=self._coordinator.sealing
        )
        with self._state.transaction():
            if work.request.event.kind != "no-privacy":  # rule 10: nothing is stored then
                self._store.keep_reply(work.request.digest, work.digest, sealed)
            self._store.keep_receipt(receipt_digest, header.run, header.round)
            local = pack_local(model, work.approval.task.local_parameters)
            self._store.keep_local_parameters(_run_key(work.order), header.round, local)
            self.ledger.mark_spent(work.reservation)
        self._log.write("released", now=self._clock(), work=work.digest, receipt=receipt_digest)
        return sealed

    def _salted(self, work: _Work, purpose: Literal["cohort", "consent"], data: bytes) -> str:
        # A key of its own per piece of work: two rounds' digests cannot be compared (rule 12).
        return keyed_digest(derive(work.approval.root, purpose, work.digest), data)

    def _refuse(self, order: Order | None, code: str, error: Exception) -> bytes:
        with contextlib.suppress(OSError):  # a log that cannot be written refuses all the same
            self._log.write_failure(f"refused {code}", error, now=self._clock())
        refusal = Refusal(
            schema="solblom.refusal/1",
            site=self._config.node.site,
            node=self._node,
            order=None if order is None else order.digest,
            code=code,
        )
        return write_refusal(refusal, key=self._keys.signing, recipient=self._coordinator.sealing)


def _read_model(order: Order, approval: Approval) -> tuple[Layout, Float32]:
    """Return layout and weights of the order's model, compared with the net that was approved.

    Raises:
        RefusedError: SB-212, another net, or values that are not finite.
    """
    task = approval.task
    expected = layout_of(task.build(approval.document), local=task.local_parameters)
    # Compared as bytes: in Python true equals 1, and another spelling would be another request.
    if canonical_json(order.header.layout) != canonical_json(list(expected.to_json())):
        raise RefusedError("SB-212", "The order's model has other tensors than the approved net")
    if len(order.array) != 4 * expected.size:
        raise RefusedError("SB-212", "The order's model has another size than its layout")
    base = unpack(order.array, expected)
    if not bool(torch.isfinite(torch.from_numpy(base.copy())).all()):
        raise RefusedError("SB-212", "The order's model has values that are not finite")
    return expected, base


def _model_at(task: Task, work: _Work) -> torch.nn.Module:
    model = task.build(work.approval.document)
    load_flat(model, work.layout, work.base)
    load_local(model, task.local_parameters, work.local)
    return model


def _run_key(order: Order) -> str:
    """Return a name for the run that no other study can share."""
    return f"{order.header.study}/{order.header.run}"
