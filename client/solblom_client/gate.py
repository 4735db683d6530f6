"""The gate's checks that need no patient data, each a small pure function. All fail closed with a code.

Order of the checks (privacy.md rule 5): signature (in `read_order`) → approval → dates → policy →
order chain → budget.
"""

import datetime as dt
from dataclasses import dataclass

from solblom_client.policy import PolicyTable
from solblom_models.accountant import alone_epsilon, format_epsilon, patient_epsilon
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.message import CLOCK_TOLERANCE as CLOCK_TOLERANCE
from solblom_protocol.messages.message import parse_timestamp
from solblom_protocol.messages.order import OrderHeader
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.mask_keys import open_mask_keys
from solblom_protocol.sums.mask_setup import Participants, read_participants
from solblom_protocol.sums.run_sums import (
    place_of,
    sum_at,
    sum_count,
    sum_roster,
    tolerates_dropouts,
)
from solblom_verify.envelope import key_id
from solblom_verify.wording import counted, format_delta

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
    check_order_times(header, now=now, latest=latest)
    check_ends(document, now=now)


def check_ends(document: StudyDocument, *, now: dt.datetime) -> None:
    """Refuse a study after its last day.

    Raises:
        RefusedError: SB-206.
    """
    if now.date() > document.study.study.ends:
        raise RefusedError("SB-206", f"The study ended on {document.study.study.ends}")


def check_order_times(header: OrderHeader, *, now: dt.datetime, latest: dt.datetime | None) -> None:
    """Refuse an expired or future order, and a clock that ran backwards.

    Raises:
        RefusedError: SB-206.
    """
    if latest is not None and now < latest - CLOCK_TOLERANCE:
        raise RefusedError("SB-206", "This node's clock has gone backwards since its last order")
    if now > parse_timestamp(header.expires):
        raise RefusedError("SB-206", f"The order expired at {header.expires}")
    if parse_timestamp(header.issued) > now + CLOCK_TOLERANCE:
        raise RefusedError("SB-206", f"The order was issued in the future, at {header.issued}")


def check_policy(document: StudyDocument, policy: PolicyTable) -> None:
    """Refuse a study that the hospital's policy does not allow.

    Raises:
        RefusedError: SB-204 (epsilon or delta above the hospital's) or SB-205.
    """
    study = document.study
    if study.task.name not in policy.tasks:
        raise RefusedError("SB-205", f"policy.tasks does not list {study.task.name}")
    net = str(study.task.model.get("kind", ""))
    if policy.nets and net not in policy.nets:
        raise RefusedError("SB-205", f"policy.nets does not list {net}")
    _check_shared_noise(document, policy)
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
        if policy.release == "manual":  # privacy.md rule 10: nothing is stored where epsilon is off
            raise RefusedError(
                "SB-205", "The study is without privacy: no answer of it is kept, so none can wait"
            )
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
    if document.by_family:
        _check_one_patient(document, policy)


def _check_one_patient(document: StudyDocument, policy: PolicyTable) -> None:
    """Refuse a study by family that costs one patient of a family more than the hospital allows (docs/adr/0021).

    Raises:
        RefusedError: SB-204.
    """
    cost = patient_epsilon(document.all_events, policy.delta)
    if cost > policy.study_epsilon:
        raise RefusedError(
            "SB-204",
            f"The study's epsilon is {document.study.privacy.epsilon} for a family, and at most {format_epsilon(cost)} "
            f"for one patient whose family stays; policy.study_epsilon is {policy.study_epsilon:g}",
            "Ask the researcher for a smaller epsilon, sampling_rate = 1.0, or fewer releases",
        )


def _check_shared_noise(document: StudyDocument, policy: PolicyTable) -> None:
    """Refuse to rely on other hospitals' noise beyond what this hospital allows (privacy.md rule 7).

    Raises:
        RefusedError: SB-205; SB-204, what this node alone guarantees is too little.
    """
    if document.secure_sum is None:
        return
    rule = policy.shared_noise
    if not rule.allow:
        raise RefusedError(
            "SB-205",
            "The study lets each hospital add only a share of the noise; policy.shared_noise.allow is "
            "false",
            "Read docs/concepts/shared-noise.md; then, in node.toml: shared_noise = { allow = true }",
        )
    if document.honest_nodes < rule.min_honest_nodes:
        raise RefusedError(
            "SB-205",
            f"The study counts the noise of {counted(document.honest_nodes, 'hospital')}; "
            f"policy.shared_noise.min_honest_nodes is {rule.min_honest_nodes}",
            "Take part with more hospitals, or lower min_honest_nodes in node.toml",
        )
    alone = alone_epsilon(document)
    if alone > rule.alone_epsilon:
        raise RefusedError(
            "SB-204",
            f"If all others work together, the study costs epsilon {format_epsilon(alone)}; "
            f"policy.shared_noise.alone_epsilon is {rule.alone_epsilon:g}",
        )


def check_roster(document: StudyDocument, *, site: str, node: str) -> None:
    """Refuse a secure sum in which this node does not take part under its own key.

    Raises:
        RefusedError: SB-216.
    """
    if document.secure_sum is None:
        return
    keys = {member: key_id(key) for member, key in document.secure_sum.roster.keys.items()}
    if keys.get(site) != node:
        raise RefusedError(
            "SB-216", f"The study's roster does not name {site} with this node's key"
        )


def check_secure_sum(header: OrderHeader, document: StudyDocument) -> Participants | None:
    """Refuse an order whose hospitals are not exactly the approved roster, and mask keys where none belong.

    Returns whose masks a vector has, where hospitals may drop out. An order only repeats the roster: a
    coordinator could enrol puppets (privacy.md rule 8).

    Raises:
        RefusedError: SB-216.
    """
    plan = document.secure_sum
    if plan is None:
        if header.masking:
            raise RefusedError("SB-216", "The order carries mask keys; the study has no secure sum")
        return None
    approved = [(site, key_id(key)) for site, key in plan.roster.keys.items()]
    if [(entry.site, entry.node) for entry in header.roster] != approved:
        strange = sorted({(e.site, e.node) for e in header.roster} ^ set(approved))
        names = ", ".join(sorted({site for site, _ in strange}))
        raise RefusedError("SB-216", f"The order's hospitals are not the approved roster: {names}")
    if header.kind == "keys":
        if header.masking:
            raise RefusedError("SB-216", "An order for keys carries keys")
        return None
    if tolerates_dropouts(document):
        return _check_setups(header, document)
    open_mask_keys(header.masking, plan.roster, run=header.run, study=header.study)
    return None


def _check_setups(header: OrderHeader, document: StudyDocument) -> Participants | None:
    """Refuse an order for a vector whose mask setups do not hold, before anything is charged.

    The orders about masks carry other things, which their own steps check (masks/steps.py).

    Raises:
        RefusedError: SB-216.
    """
    if header.kind not in ("train", "evaluate", "describe"):
        return None
    roster = sum_roster(document, header.run)
    of = sum_at(document, roster, place_of(document, header.kind, header.round))
    try:
        papers = [text.encode() for text in header.masking]
        return read_participants(roster, of, papers, recipient=header.site)
    except IntegrityError as error:
        raise RefusedError("SB-216", error.message) from None


def check_round(header: OrderHeader, document: StudyDocument) -> None:
    """Refuse an order that differs from the approved study.

    Raises:
        RefusedError: SB-205.
    """
    study = document.study
    sums = sum_count(document) if tolerates_dropouts(document) else 0
    approved = {
        "train": study.training.rounds,
        "evaluate": study.evaluation.releases,
        "describe": 0 if study.table_one is None else 1,
        "keys": 0 if document.secure_sum is None else 1,
        "setup": sums,
        "agree": sums,
        "open": sums,
        "witness": 1,
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
