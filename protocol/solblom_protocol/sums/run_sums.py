"""The sums of a run in which hospitals may drop out: all in one row, so that a node can keep their order.

Rounds come first, then score histograms, then Table 1. An order about masks names its sum by its place.
"""

from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.roster import SumRoster, SumRound


def tolerates_dropouts(document: StudyDocument) -> bool:
    """Tell whether a sum may be opened without all hospitals of the roster."""
    plan = document.secure_sum
    return plan is not None and document.threshold < len(plan.roster.members)


def sum_roster(document: StudyDocument, run: str) -> SumRoster:
    """Return who takes part in a run's sums, as the signed study has it.

    Raises:
        RefusedError: SB-216, the study has no secure sum.
        ConfigurationError: SB-103, its limits would let two survivor sets be agreed.
    """
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        raise RefusedError("SB-216", "The study has no secure sum")
    return SumRoster(
        study=document.digest,
        run=run,
        nodes=plan.roster.keys,
        threshold=document.threshold,
        colluders=table.colluders,
    )


def sum_count(document: StudyDocument) -> int:
    """Return how many sums a run may have."""
    study = document.study
    return study.training.rounds + study.evaluation.releases + (study.table_one is not None)


def place_of(document: StudyDocument, kind: OrderKind, number: int) -> int:
    """Return the place, from 1, of a round, a release or Table 1 among the run's sums."""
    study = document.study
    before = {
        "train": 0,
        "evaluate": study.training.rounds,
        "describe": study.training.rounds + study.evaluation.releases,
    }
    return before[kind] + number


def sum_at(document: StudyDocument, roster: SumRoster, place: int) -> SumRound:
    """Return the sum at a place.

    Raises:
        RefusedError: SB-205, the study has fewer sums.
    """
    rounds, releases = document.study.training.rounds, document.study.evaluation.releases
    if not 1 <= place <= sum_count(document):
        raise RefusedError("SB-205", f"The study has {sum_count(document)} sums, and none {place}")
    if place <= rounds:
        return roster.round(kind="train", number=place, attempt=1)
    if place <= rounds + releases:
        return roster.round(kind="evaluate", number=place - rounds, attempt=1)
    return roster.round(kind="describe", number=1, attempt=1)
