"""What the vault answers to an order that passed the gate: an update, a masked sum, or counts with noise.

Patients were read and the charge is on disk. What comes back is ready to leave but has not left: the
vault checks consent once more, writes the receipt and stores the bytes.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.approvals.approval import Approval
from solblom_client.approvals.record import approval_folder
from solblom_client.cohorts.cohort import unit_count
from solblom_client.export_gate import export_sum, export_update
from solblom_client.keys import commitment, derive
from solblom_client.masks.key_file import MaskKeyFile
from solblom_client.masks.secure_answer import Mask, SecureAnswer, pair_masks_of
from solblom_client.masks.steps import MaskSteps
from solblom_client.policy import NodeConfig
from solblom_client.queries import Release, add_noise, check_named, export_release, site_auroc
from solblom_client.site_log import SiteLog
from solblom_client.state import VaultState
from solblom_client.training.dp_sgd import Look, TrainingSettings, TrainingTrace, clipped_sum, train
from solblom_client.training.keystream import KeyStream
from solblom_client.training.local_parameters import pack_local
from solblom_client.work import OrderedModel, Work, build_model
from solblom_models.task import Units
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.counts import pack_values
from solblom_protocol.messages.order import NamedRelease
from solblom_protocol.messages.result import Receipt, count_band
from solblom_protocol.sums.mask_setup import Participants
from solblom_protocol.sums.secure_sum import SumPlan
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id


@dataclass(frozen=True)
class Answer:
    """What a piece of work gives.

    Attributes:
        data: the bytes that leave.
        committed: commitment to the noise in them.
        local: parameters that stay at the hospital, as this round leaves them.
        bits: fractional bits of the public grid on which `data` lies; 0 for counts.
        named: releases beside the counts, outside epsilon.
        trace: what training really did; it stays inside. None for a query.
    """

    data: bytes
    committed: str
    local: bytes = b""
    bits: int = 0
    named: tuple[NamedRelease, ...] = ()
    trace: TrainingTrace | None = None


@dataclass(frozen=True)
class Update:
    """An update with its noise: the bytes, the parameters that stay at the hospital, and what training did."""

    data: bytes
    local: bytes
    trace: TrainingTrace


def make_update(
    approval: Approval,
    model: OrderedModel,
    units: Units,
    work: str,
    *,
    local: bytes,
    noise: KeyStream,
    look: Look | None = None,
) -> Update:
    """Train on these patients and return the update; the same inputs give the same bytes (privacy.md rule 3).

    Args:
        approval: the approved study, with its noise root.
        model: the round's model; its net is trained in place.
        units: the training set, sorted by id.
        work: digest of the work, from which sampling coins follow.
        local: parameters that stay here, as the round before left them.
        noise: the work's noise.
        look: see `training.Look`; a vault gives none.

    Raises:
        ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
        RefusedError: SB-213, the export gate.
    """
    document, task = approval.document, approval.task
    net = build_model(approval, model, local)
    settings = TrainingSettings.of(document, site=approval.record.site)
    coins = KeyStream(derive(approval.root, "sampling", work))
    trace = train(task, net, units, settings, coins=coins, noise=noise, look=look)
    stays = task.local_parameters(document)
    data = export_update(
        model.weights, net, model.layout, local=stays, settings=settings, trace=trace
    )
    return Update(data, pack_local(net, stays), trace)


class Answers:
    """Answers the orders of one hospital; each needs its charge on disk and its consent joined."""

    def __init__(
        self,
        config: NodeConfig,
        state: VaultState,
        log: SiteLog,
        *,
        signing: Ed25519PrivateKey,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._config, self._state, self._log = config, state, log
        self._signing, self._clock = signing, clock

    def to(self, work: Work, participants: Participants | None) -> Answer:
        """Answer a piece of work; `participants` are those whose masks it has, where hospitals may drop out.

        Raises:
            RefusedError: SB-212 no model; SB-213 the export gate; SB-216 masks.
            ConfigurationError: SB-107, the net cannot be trained with patient-level privacy.
        """
        if work.order.header.kind != "train":
            return self._query(work, participants)
        if work.model is None:
            raise RefusedError("SB-212", "The order carries no model")
        plan = work.approval.document.secure_sum
        if plan is not None:
            return self._shared(work, work.model, plan, participants)
        return self._update(work, work.model)

    def _update(self, work: Work, model: OrderedModel) -> Answer:
        noise, committed = self._noise(work)
        made = make_update(
            work.approval, model, work.units, work.digest, local=work.local, noise=noise
        )
        return Answer(made.data, committed, local=made.local, bits=24, trace=made.trace)

    def _shared(
        self, work: Work, model: OrderedModel, plan: SumPlan, participants: Participants | None
    ) -> Answer:
        """Give the clipped sum over all patients with this node's share of the noise, under masks."""
        noise, committed = self._noise(work)
        net = build_model(work.approval, model, work.local)
        settings = TrainingSettings.of(work.approval.document)
        sums, trace = clipped_sum(work.approval.task, net, work.units, settings)
        masked = self._masked(work, plan.training_share, noise, participants)
        bits = plan.fractional_bits
        data = masked.of_values(export_sum(sums, model.layout), bits=bits)
        return Answer(data, committed, bits=bits, trace=trace)

    def _query(self, work: Work, participants: Participants | None) -> Answer:
        """Add the charged noise to the counts; named releases go beside them without noise."""
        noise, committed = self._noise(work)
        counts = np.frombuffer(work.counts, dtype="<i8").astype(np.int64)
        named = work.approval.document.study.evaluation.named
        values: tuple[float, ...] = ()
        if work.model is not None and named:
            net = build_model(work.approval, work.model, work.local)
            values = site_auroc(work.approval.task, net, work.units)
        released = named if values else ()
        plan = work.approval.document.secure_sum
        if plan is not None:
            share = plan.evaluation_share if work.model is not None else plan.table_one_share
            masked = self._masked(work, share or 0, noise, participants)
            check_named(released, values)
            data = masked.of_counts(counts) + pack_values(values)
        else:
            noisy = add_noise(counts, deviation=work.request.event.noise_multiplier, stream=noise)
            data = export_release(Release(noisy, released, values), cells=len(counts))
        return Answer(data, committed, named=released)

    def _masked(
        self, work: Work, share: int, noise: KeyStream, participants: Participants | None
    ) -> SecureAnswer:
        """Return what masks an answer to this order."""
        header, document = work.order.header, work.approval.document
        if participants is not None:
            steps = MaskSteps(header, document, self._signing, self._state)
            mask: Mask = partial(steps.mask, participants=participants)
        else:
            mine = MaskKeyFile(approval_folder(self._config, header.study), header.run).read()
            mask = pair_masks_of(header, document, mine=mine)
        return SecureAnswer.to(document, share=share, noise=noise, mask=mask)

    def _noise(self, work: Work) -> tuple[KeyStream, str]:
        """Return the work's noise and its commitment, which stands in the log before noise is drawn."""
        key = derive(work.approval.root, "noise", work.digest)
        committed = commitment(key, work.digest)
        self._log.write(
            work.request.kind, now=self._clock(), work=work.digest, noise_commitment=committed
        )
        return KeyStream(key), committed

    def receipt(self, work: Work, answer: Answer) -> Receipt:
        """Return what this node signs about an answer."""
        header, node = work.order.header, self._config.node
        return Receipt(
            schema="solblom.receipt/1",
            kind=header.kind,
            site=node.site,
            node=key_id(self._signing.public_key()),
            study=header.study,
            run=header.run,
            round=header.round,
            base_model=header.base_model,
            order=work.order.digest,
            work=work.digest,
            update=digest(answer.data),
            event=work.request.event.to_json(),
            noise_commitment=answer.committed,
            cohort=work.salted("cohort"),
            consent=work.salted("consent"),
            # Of families only these are told: beside a band of patients it would say how large they are.
            patients=count_band(unit_count(work.units, by_family=work.approval.document.by_family)),
            code=work.approval.record.code,
            fixed_point_bits=answer.bits,
            outside_epsilon=list(answer.named),
            simulation=node.simulation,
        )
