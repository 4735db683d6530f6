"""How much noise each node of a secure sum adds: the smallest whole-number shares that keep the promise.

The honest nodes' shares together must be as much as the promise needs, so each adds sigma / sqrt(K - t)
for K nodes of which t are assumed to work with the coordinator (privacy.md rule 7; nobody may drop out).
"""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal, localcontext

from solblom_models.accountant import pld_epsilon
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.secure_sum import (
    MOST_NODES,
    SMALLEST_SHARE,
    Roster,
    SumPlan,
    count_sensitivity,
    fractional_bits,
    training_sensitivity,
)

LARGEST_SHARE = 2**26 - 1


def add_shared_noise(document: StudyDocument, roster: Roster, *, values: int) -> StudyDocument:
    """Return the document with the shares of training and releases; `values` is an update's size.

    Table 1 takes its part of epsilon first, since every patient pays for it (as with local noise).

    Raises:
        ValueError: no noise is enough.
    """
    study = document.study
    privacy, evaluation, table = study.privacy, study.evaluation, study.table_one
    if privacy.epsilon == "off" or study.secure_sum is None:
        raise ValueError("without epsilon there is no noise to share")
    honest = (study.secure_sum.threshold or len(roster.members)) - study.secure_sum.colluders
    if not 1 <= honest <= MOST_NODES:
        raise ValueError(f"{honest} nodes' noise is counted")
    bits = fractional_bits(privacy.clipping_norm, values)
    plan = SumPlan(
        roster=roster,
        values=values,
        fractional_bits=bits,
        training_share=SMALLEST_SHARE,
        evaluation_share=None,
        table_one_share=None,
    )
    rounds, delta = study.training.rounds, privacy.delta
    found = _with_plan(document, plan)
    if table is not None:
        share = _smallest(
            lambda s: _cost(_with_share(found, "table_one_share", s).table_one_event, 1, [], delta),
            at_most=table.epsilon,
            guess=_guess(table.epsilon, len(table.variables), count_sensitivity(), honest),
        )
        found = _with_share(found, "table_one_share", share)
    beside = [] if found.table_one_event is None else [found.table_one_event]
    if evaluation.releases:
        target = privacy.epsilon if evaluation.epsilon is None else evaluation.epsilon
        times = evaluation.releases
        share = _smallest(
            lambda s: _cost(
                _with_share(found, "evaluation_share", s).evaluation_event, times, beside, delta
            ),
            at_most=target,
            guess=_guess(target, times, count_sensitivity(), honest),
        )
        found = _with_share(found, "evaluation_share", share)
    sensitivity = training_sensitivity(privacy.clipping_norm, bits, values)
    others = beside + shared_with_training(found)
    share = _smallest(
        lambda s: _cost(_with_share(found, "training_share", s).round_event, rounds, others, delta),
        at_most=privacy.epsilon,
        guess=_guess(privacy.epsilon, rounds, sensitivity, honest),
    )
    return _with_share(found, "training_share", share)


def shared_with_training(document: StudyDocument) -> list[PrivacyEvent]:
    """Return the evaluations that training patients pay for too: all, where the split is by groups."""
    event, evaluation = document.evaluation_event, document.study.evaluation
    if event is None or evaluation.split.by == "patient":
        return []
    return [event] * evaluation.releases


def _with_plan(document: StudyDocument, plan: SumPlan) -> StudyDocument:
    """Return the document with a plan and the noise multipliers that follow from it."""
    marks = {
        "secure_sum": plan,
        "noise_multiplier": "1.0000",
        "evaluation_noise": None if plan.evaluation_share is None else "1.0000",
        "table_one_noise": None if plan.table_one_share is None else "1.0000",
    }
    found = document.model_copy(update=marks)
    events = {
        "noise_multiplier": found.round_event,
        "evaluation_noise": found.evaluation_event,
        "table_one_noise": found.table_one_event,
    }
    noises = {name: None if e is None else e.noise_multiplier for name, e in events.items()}
    return found.model_copy(update=noises)


def _with_share(document: StudyDocument, name: str, share: int) -> StudyDocument:
    if document.secure_sum is None:
        raise ValueError("the study has no secure sum")
    return _with_plan(document, document.secure_sum.model_copy(update={name: share}))


def _cost(
    event: PrivacyEvent | None, times: int, beside: list[PrivacyEvent], delta: float
) -> float:
    if event is None:
        raise ValueError("the study releases nothing of the kind")
    return pld_epsilon([event] * times + beside, delta)


def _guess(epsilon: float, steps: int, sensitivity: Decimal, honest: int) -> int:
    """Return a share far below what is needed: the search doubles it until it is enough."""
    with localcontext() as context:
        context.prec = 30
        share = sensitivity * Decimal(steps).sqrt() / (100 * Decimal(max(epsilon, 0.01)))
        share /= Decimal(honest).sqrt()
    return max(SMALLEST_SHARE, int(share.to_integral_value(ROUND_CEILING)))


def _smallest(cost: Callable[[int], float], *, at_most: float, guess: int) -> int:
    """Return the smallest share, to one part in ten thousand, that costs at most so much.

    Raises:
        ValueError: none does.
    """
    low, high = 0, guess
    while cost(high) > at_most:
        low, high = high, 2 * high
        if high > LARGEST_SHARE:
            raise ValueError(f"no share of noise reaches epsilon {at_most}")
    low = low or SMALLEST_SHARE - 1
    while high - low > max(1, high // 10_000):
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= at_most else (middle, high)
    return high
