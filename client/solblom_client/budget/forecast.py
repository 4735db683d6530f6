"""What a study would take from a hospital's lifetime budget: asked of the ledger before it is approved.

Otherwise the hospital and the researcher would learn round by round, and late, that it does not fit.
"""

from dataclasses import dataclass

from solblom_client.approvals.words import Lang, number_of, text
from solblom_client.budget.ledger import STATE_FILE, Ledger, more_rounds, open_ledger
from solblom_client.policy import NodeConfig, PolicyTable
from solblom_client.state import VaultState
from solblom_models.accountant import format_epsilon
from solblom_protocol.errors import RefusedError
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted


@dataclass(frozen=True)
class Forecast:
    """The lifetime before and after a study.

    Attributes:
        budget: policy.epsilon_budget.
        epsilon_now: what the hospital's patients have been charged so far, by the lifetime filter.
        epsilon_after: the same once the whole study has run.
        rounds_to_come: rounds of the study that are not charged yet.
        rounds_that_fit: how many of them the budget admits.
    """

    budget: float
    epsilon_now: float
    epsilon_after: float
    rounds_to_come: int
    rounds_that_fit: int

    @property
    def warning(self) -> str | None:
        """Say what does not fit; None where everything does."""
        return self.warning_in("en")

    def warning_in(self, lang: Lang) -> str | None:
        """Say what does not fit, in a language; None where everything does."""
        budget = f"{self.budget:g}"
        if self.rounds_that_fit < self.rounds_to_come:
            rounds = number_of(lang, self.rounds_to_come, "round")
            return text(lang, "part fits").format(
                fit=self.rounds_that_fit, rounds=rounds, budget=budget
            )
        if self.epsilon_after > self.budget and self.epsilon_after != float("inf"):
            return text(lang, "releases do not fit").format(budget=budget)
        return None


def forecast(config: NodeConfig, document: StudyDocument) -> Forecast:
    """Return what the study would cost over this hospital's lifetime; ledger and anchor are compared.

    Raises:
        IntegrityError: SB-402, the ledger cannot be trusted.
        RefusedError: SB-204, not one round fits.
    """
    state = VaultState(config.state / STATE_FILE)
    try:
        ledger = open_ledger(config, state)
        ledger.check_anchor()
        found = _ask(ledger, document, config.policy)
    finally:
        state.close()
    if found.rounds_to_come and not found.rounds_that_fit:
        after = format_epsilon(found.epsilon_after)
        raise RefusedError(
            "SB-204",
            f"Not one of the study's {counted(found.rounds_to_come, 'round')} fits: the lifetime is at "
            f"epsilon {format_epsilon(found.epsilon_now)} of {found.budget:g}, and the study would "
            f"bring it to {after}",
        )
    return found


def _ask(ledger: Ledger, document: StudyDocument, policy: PolicyTable) -> Forecast:
    rounds = document.study.training.rounds - _charged(ledger, document, "train")
    rounds = max(rounds, 0)
    # Training without privacy is never refused for its cost: the policy allows it or not.
    is_private = document.noise_multiplier is not None
    fit = more_rounds(ledger, document.round_event, policy, most=rounds) if is_private else rounds
    return Forecast(
        budget=policy.epsilon_budget,
        epsilon_now=ledger.lifetime_epsilon(policy.delta),
        epsilon_after=ledger.lifetime_epsilon(policy.delta, _to_come(ledger, document, rounds)),
        rounds_to_come=rounds,
        rounds_that_fit=fit,
    )


def _to_come(ledger: Ledger, document: StudyDocument, rounds: int) -> tuple[PrivacyEvent, ...]:
    """Return what the study still does to patients."""
    found = []
    if rounds:
        found.append(document.round_event.times(rounds))
    releases = document.study.evaluation.releases - _charged(ledger, document, "evaluate")
    if document.evaluation_event is not None:
        found += [document.evaluation_event] * max(releases, 0)
    if document.table_one_event is not None and not _charged(ledger, document, "describe"):
        found.append(document.table_one_event)
    return tuple(found)


def _charged(ledger: Ledger, document: StudyDocument, kind: str) -> int:
    return sum(1 for entry in ledger.entries(document.digest) if entry.kind == kind)
