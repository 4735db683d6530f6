"""One piece of work: what was asked, for which patients, at which price. Pure: reads no file, draws no number.

The request is known before a row is read; the work digest after, and it covers every input of what
leaves (privacy.md rule 3). It leaves out expiry, courier and attempt: same inputs, same bytes.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch

from solblom_client.approvals.approval import Approval
from solblom_client.budget.ledger import Request, Reservation
from solblom_client.cohorts.cohort import Cohort
from solblom_client.keys import derive, keyed_digest
from solblom_client.training.local_parameters import load_local
from solblom_models.flat import layout_of, load_flat
from solblom_models.task import Task, Units
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.layout import Float32, Layout, unpack
from solblom_protocol.messages.message import as_json
from solblom_protocol.messages.order import Order
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import canonical_json, digest


@dataclass(frozen=True)
class OrderedModel:
    """The model of an order: names and shapes, the weights, and the approval that says which net they are of."""

    layout: Layout
    weights: Float32
    approval: Approval

    @cached_property  # not before a charge: a large net takes longer to build than to fill
    def net(self) -> torch.nn.Module:
        """The approved net, not yet with these weights; built once for each order."""
        return self.approval.task.build(self.approval.document)


@dataclass(frozen=True)
class _ApprovedNet:
    """What gives a layout; a study and its task are known by their names."""

    study: str
    task: str
    document: StudyDocument = field(compare=False)
    by: Task = field(compare=False)


@lru_cache(
    maxsize=8
)  # a net is as large as its model, its layout is small, and every order is compared with it
def _layout_of(approved: _ApprovedNet) -> tuple[Layout, bytes]:
    task, document = approved.by, approved.document
    found = layout_of(task.build(document), local=task.local_parameters(document))
    return found, canonical_json(list(found.to_json()))


@dataclass(frozen=True)
class Work:
    """A piece of work that passed the gate.

    Attributes:
        model: None for Table 1, which needs none.
        units: the patients it touches, and whose consent it needs: training, test, or all.
        rows: ids and rows of these patients as bytes: input of keyed digests.
        counts: exact counts of a release, little-endian int64; empty for training.
        local: parameters that stay at the hospital.
        second_answer: whether the request was answered before, for other patients.
    """

    order: Order
    approval: Approval
    model: OrderedModel | None
    request: Request
    reservation: Reservation
    cohort: Cohort
    units: Units
    rows: bytes
    counts: bytes
    local: bytes
    digest: str
    second_answer: bool

    def salted(self, purpose: Literal["cohort", "consent"]) -> str:
        """Return a digest for the receipt, with a key of its own: two cannot be compared (rule 12)."""
        data = self.rows if purpose == "cohort" else self.cohort.consent_bytes(self.units)
        return keyed_digest(derive(self.approval.root, purpose, self.digest), data)


def event_of(order: Order, approval: Approval) -> PrivacyEvent:
    """Return what an order does to patients, as the approved study fixes it.

    Raises:
        RefusedError: SB-205, the study releases nothing of that kind.
    """
    document, event = approval.document, None
    match (
        order.header.kind
    ):  # what an order about keys, masks or the log does to patients is nothing
        case "train":
            event = document.round_event
        case "evaluate":
            event = document.evaluation_event
        case "describe":
            event = document.table_one_event
    if event is None:
        raise RefusedError("SB-205", f"The study has nothing to {order.header.kind}")
    return event


def request_of(order: Order, approval: Approval) -> Request:
    """Return the request of an order: the key under which its charge and its reply are found again.

    Table 1 is asked once per study, whatever the run, so neither run nor roster are part of it; under
    masks they are, because the masks are the run's. The masks themselves are no input: like the seal,
    they change what travels and cancel in what is opened.
    """
    header = order.header
    inputs: Any = {
        "schema": "solblom.request/1",
        "kind": header.kind,
        "study": header.study,
        "code": approval.record.code,
        "dataset": approval.record.dataset,
    }
    if header.kind != "describe" or approval.document.secure_sum is not None:
        inputs |= {
            "run": header.run,
            "round": header.round,
            "base_model": header.base_model,
            "layout": header.layout,
            "roster": [as_json(entry) for entry in header.roster],
            "noise": header.noise,
        }
    return Request(
        digest=digest(canonical_json(inputs)),
        study=header.study,
        run=header.run,
        kind=header.kind,
        round=header.round,
        event=event_of(order, approval),
    )


def work_digest(
    request: Request, approval: Approval, rows: bytes, *, counts: bytes, local: bytes
) -> str:
    """Return the digest of every input of what leaves (privacy.md rule 3)."""
    key = derive(approval.root, "cohort", "")
    inputs: Any = {
        "schema": "solblom.work/1",
        "request": request.digest,
        "event": request.event.to_json(),
        "cohort": keyed_digest(key, rows),
        "counts": keyed_digest(key, counts),
        "local": keyed_digest(key, local),
    }
    return digest(canonical_json(inputs))


def read_model(order: Order, approval: Approval) -> OrderedModel | None:
    """Return the order's model, compared with the net that was approved; None for Table 1.

    Raises:
        RefusedError: SB-212, another net, or values that are not finite.
    """
    if order.header.kind == "describe":
        if order.array or order.header.layout:
            raise RefusedError("SB-212", "An order for Table 1 carries a model")
        return None
    document, task = approval.document, approval.task
    name = f"{type(task).__module__}.{type(task).__qualname__}"
    expected, as_bytes = _layout_of(_ApprovedNet(document.digest, name, document, task))
    # Compared as bytes: in Python true equals 1, and another spelling would be another request.
    if canonical_json(order.header.layout) != as_bytes:
        raise RefusedError("SB-212", "The order's model has other tensors than the approved net")
    if len(order.array) != 4 * expected.size:
        raise RefusedError("SB-212", "The order's model has another size than its layout")
    weights = unpack(order.array, expected)
    if not bool(np.isfinite(weights).all()):
        raise RefusedError("SB-212", "The order's model has values that are not finite")
    return OrderedModel(expected, weights, approval)


def build_model(approval: Approval, model: OrderedModel, local: bytes) -> torch.nn.Module:
    """Return the order's net with its weights and the hospital's own parameters; once for each order."""
    load_flat(model.net, model.layout, model.weights)
    load_local(model.net, approval.task.local_parameters(approval.document), local)
    return model.net


def run_key(order: Order) -> str:
    """Return a name for the run that no other study can share."""
    return f"{order.header.study}/{order.header.run}"
