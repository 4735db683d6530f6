"""The gate's checks that need no patient data, each a small pure function. All fail closed with a code.

Order of the checks (privacy.md rule 5): signature (in `read_order`) → approval → dates → policy →
order chain → budget.
"""

import datetime as dt
from dataclasses import dataclass

from solblom_client.policy import PolicyTable
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages import parse_timestamp
from solblom_protocol.order import OrderHeader
from solblom_protocol.study import StudyDocument
from solblom_verify.wording import counted, format_delta

CLOCK_TOLERANCE = dt.timedelta(minutes=5)
MAX_DATA_REFUSALS = 3


@dataclass(frozen=True)
class RunHistory:
    """What this node has seen of one run.

    Attributes:
        last_round: highest round answered or begun; 0 for none.
        last_attempt: highest attempt of that round.
        seen: this order (its digest) was seen before.
        knows_previous: the order's `previous_order` is one of this node's own, or None.
        knows_receipt: the order's `last_receipt` is one of this node's own, or None.
    """

    last_round: int
    last_attempt: int
    seen: bool
    knows_previous: bool
    knows_receipt: bool


def check_recipient(header: OrderHeader, *, site: str, node: str) -> None:
    """Refuse an order that is meant for somebody else, or whose roster lacks this node.

    Raises:
        RefusedError: SB-202.
    """
    if header.site != site or header.node != node:
        raise RefusedError("SB-202", "The order is meant for another node")
    names = [entry.site for entry in header.roster]
    if names != sorted(set(names)):
        raise RefusedError("SB-202", "The order's roster is not sorted or names a site twice")
    if not any(entry.site == site and entry.node == node for entry in header.roster):
        raise RefusedError("SB-202", "The order's roster does not name this node")


def check_times(
    header: OrderHeader, document: StudyDocument, *, now: dt.datetime, latest: dt.datetime | None
) -> None:
    """Refuse an expired or future order, an ended study, and a clock that ran backwards.

    Raises:
        RefusedError: SB-206.
    """
    if latest is not None and now < latest - CLOCK_TOLERANCE:
        raise RefusedError("SB-206", "This node's clock has gone backwards since its last order")
    if now > parse_timestamp(header.expires):
        raise RefusedError("SB-206", f"The order expired at {header.expires}")
    if parse_timestamp(header.issued) > now + CLOCK_TOLERANCE:
        raise RefusedError("SB-206", f"The order was issued in the future, at {header.issued}")
    if now.date() > document.study.study.ends:
        raise RefusedError("SB-206", f"The study ended on {document.study.study.ends}")


def check_policy(document: StudyDocument, policy: PolicyTable) -> None:
    """Refuse a study that the hospital's policy does not allow.

    Raises:
        RefusedError: SB-204 (epsilon or delta above the hospital's) or SB-205.
    """
    study = document.study
    if study.task.name not in policy.tasks:
        raise RefusedError("SB-205", f"policy.tasks does not list {study.task.name}")
    if study.privacy.noise == "shared":
        raise RefusedError("SB-205", "Shared noise needs the secure sum, which this version lacks")
    unnamed = sorted(set(study.evaluation.named) - set(policy.named_releases))
    if unnamed:
        raise RefusedError(
            "SB-205",
            f"The study releases {', '.join(unnamed)} outside epsilon; "
            "policy.named_releases does not list it",
        )
    if study.privacy.epsilon == "off":
        if not policy.allow_privacy_off:
            raise RefusedError("SB-205", "The study is without privacy; allow_privacy_off is false")
        return
    if study.privacy.delta > policy.delta:
        raise RefusedError(
            "SB-204",
            f"The study's delta is {format_delta(study.privacy.delta)}; "
            f"policy.delta is {format_delta(policy.delta)}",
        )
    if study.privacy.epsilon > policy.study_epsilon:
        raise RefusedError(
            "SB-204",
            f"The study's epsilon is {study.privacy.epsilon:g}; "
            f"policy.study_epsilon is {policy.study_epsilon:g}",
        )


def check_round(header: OrderHeader, document: StudyDocument) -> None:
    """Refuse an order that differs from the approved study.

    Raises:
        RefusedError: SB-205.
    """
    study = document.study
    approved = {
        "train": study.training.rounds,
        "evaluate": study.evaluation.releases,
        "describe": 0 if study.table_one is None else 1,
    }[header.kind]
    if header.round > approved:
        raise RefusedError(
            "SB-205",
            f"The order asks to {header.kind} number {header.round}; {approved} are approved",
        )
    if header.noise != document.study.privacy.noise:
        raise RefusedError("SB-205", "The order names another noise mode than the approved study")
    if len(header.roster) < document.study.cohort.min_nodes:
        raise RefusedError(
            "SB-205",
            f"The roster has {counted(len(header.roster), 'node')}; "
            f"{document.study.cohort.min_nodes} are needed",
        )


def check_chain(header: OrderHeader, history: RunHistory) -> None:
    """Refuse an order out of sequence, and stop when this node's own past is missing.

    The same order again, or a new attempt at the newest round, is welcome: it gets the same bytes.

    Raises:
        RefusedError: SB-208 an unknown receipt of this node's own (its state was rolled back);
        SB-207 otherwise.
    """
    if not history.knows_receipt:
        raise RefusedError("SB-208", "The order names a receipt that this node never made")
    if not history.knows_previous:
        raise RefusedError("SB-207", "The order follows one that this node never saw")
    if header.round < history.last_round:
        raise RefusedError(
            "SB-207",
            f"The order is for round {header.round}; round {history.last_round} is answered",
        )
    same_round = header.round == history.last_round
    if same_round and not history.seen and header.attempt <= history.last_attempt:
        raise RefusedError("SB-207", f"Attempt {header.attempt} of the round was made before")
