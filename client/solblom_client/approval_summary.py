"""What the person who approves a study is shown: who asks, for what, what leaves, its price in privacy; in words."""

import math
from dataclasses import dataclass
from decimal import Decimal

from solblom_client.cohort import Cohort
from solblom_client.forecast import Forecast
from solblom_client.policy import DatasetTable
from solblom_models.accountant import alone_epsilon, format_epsilon, two_hospitals_epsilon
from solblom_models.flat import layout_of
from solblom_models.task import Task
from solblom_protocol.key_files import fingerprint
from solblom_protocol.public_keys import PublicKeys
from solblom_protocol.study import StudyDocument
from solblom_verify.wording import counted, format_delta


@dataclass(frozen=True)
class ApprovalSummary:
    """What the person who approves is shown. Stays inside the hospital.

    Attributes:
        signed_by: name and fingerprint of each researcher who signed.
        promise: what epsilon and delta mean for one patient, in words.
        leaves: everything that will leave the hospital, a line each.
        lifetime_budget: policy.epsilon_budget.
        lifetime_now: epsilon of the hospital's lifetime before the study.
        lifetime_after: the same when all of the study has run.
        rounds_to_come: rounds not charged yet.
        rounds_that_fit: how many of them the lifetime budget admits.
        warnings: what the person should know before saying yes.
        secure_sum: with whom this hospital adds up under masks, and what is assumed of them.
        reading: what reading the data counted, where the task says so.
    """

    study: str
    title: str
    purpose: str
    legal_basis: tuple[str, ...]
    ends: str
    signed_by: tuple[dict[str, str], ...]
    dataset: str
    training_patients: int
    test_patients: int
    excluded_by_consent: int
    epsilon: str
    delta: str
    promise: str
    rounds: int
    leaves: tuple[str, ...]
    lifetime_budget: str
    lifetime_now: str
    lifetime_after: str
    rounds_to_come: int
    rounds_that_fit: int
    warnings: tuple[str, ...]
    secure_sum: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()

    def lines(self) -> list[tuple[str, str]]:
        """Return (label, text) in the order in which a person reads; an empty label continues."""
        patients = (
            f"{counted(self.training_patients, 'patient')} for training, "
            f"{self.test_patients} kept for testing, {self.excluded_by_consent} excluded by consent"
        )
        found = [("purpose", self.purpose), ("legal basis", "; ".join(self.legal_basis))]
        found += [("ends", self.ends)]
        found += [("signed by", f"{who['name']}  {who['fingerprint']}") for who in self.signed_by]
        found += [("data set", f"{self.dataset}: {patients}")]
        found += [
            ("was read" if not number else "", line) for number, line in enumerate(self.reading)
        ]
        found += [("promise", self.promise)]
        found += [
            ("will leave" if not number else "", line) for number, line in enumerate(self.leaves)
        ]
        found += [
            ("adds up with" if not number else "", line)
            for number, line in enumerate(self.secure_sum)
        ]
        lifetime = (
            f"epsilon {self.lifetime_now} now, {self.lifetime_after} after the study, "
            f"of {self.lifetime_budget}"
        )
        found += [("lifetime", lifetime), ("study", self.study)]
        return found + [("WARNING", text) for text in self.warnings]


def summarise(
    document: StudyDocument,
    task: Task,
    dataset: DatasetTable,
    cohort: Cohort,
    expected: Forecast,
    signers: list[PublicKeys],
) -> ApprovalSummary:
    """Return the summary of a study that passed every check."""
    study = document.study
    return ApprovalSummary(
        study=document.digest,
        title=study.study.title,
        purpose=study.study.purpose,
        legal_basis=study.study.legal_basis,
        ends=study.study.ends.isoformat(),
        signed_by=tuple(
            {"name": signer.name, "fingerprint": fingerprint(signer.signing)} for signer in signers
        ),
        dataset=dataset.name,
        training_patients=len(cohort.training.ids),
        test_patients=len(cohort.test.ids),
        excluded_by_consent=cohort.excluded,
        epsilon=str(study.privacy.epsilon),
        delta=format_delta(study.privacy.delta),
        promise=promise(study.privacy.epsilon, study.privacy.delta) + _condition(document),
        rounds=study.training.rounds,
        leaves=tuple(what_leaves(document, task)),
        lifetime_budget=f"{expected.budget:g}",
        lifetime_now=format_epsilon(expected.epsilon_now),
        lifetime_after=format_epsilon(expected.epsilon_after),
        rounds_to_come=expected.rounds_to_come,
        rounds_that_fit=expected.rounds_that_fit,
        warnings=tuple(_warnings(document, expected)),
        secure_sum=tuple(_secure_sum(document)),
        reading=tuple(f"{count:,} {what}" for what, count in cohort.notes.items()),
    )


def promise(epsilon: float | str, delta: float) -> str:
    """Return what a patient is promised, in words; figures are rounded towards more loss."""
    if not isinstance(epsilon, float | int):
        return "NONE: training without noise. An update may reveal single patients."
    one_in = int(1 / Decimal(repr(delta)))
    return (
        f"whether or not one patient takes part, nothing that anyone concludes becomes more than "
        f"{_factor(epsilon)} times as likely, except with probability 1 in {one_in:,} "
        f"(epsilon {epsilon:g}, delta {format_delta(delta)})"
    )


def _factor(epsilon: float) -> str:
    """Return e^epsilon rounded up: two decimals below 10, one below 100, whole, or a power of ten."""
    factor = math.exp(epsilon)
    if factor < 10:
        return f"{math.ceil(factor * 100) / 100:.2f}"
    if factor < 100:
        return f"{math.ceil(factor * 10) / 10:.1f}"
    if factor < 1e6:
        return f"{math.ceil(factor):,}"
    return f"10^{math.ceil(math.log10(factor))}"


def what_leaves(document: StudyDocument, task: Task) -> list[str]:
    """Return everything that a study lets leave a hospital, a line each."""
    study, training = document.study, document.study.training
    size = layout_of(task.build(document), local=task.local_parameters(document)).size
    noise = "WITHOUT NOISE" if document.noise_multiplier is None else "with noise"
    if document.secure_sum is not None:
        noise = (
            "with a share of the noise, under masks that only the sum of all hospitals takes off"
        )
    updates = counted(training.rounds, "update")
    found = [
        f"{updates} of {counted(size, 'number')} {noise}, each with a signed receipt that gives the "
        "number of patients as a band such as 100-199"
    ]
    evaluation = study.evaluation
    if evaluation.releases:
        kind = "rank" if document.ranks else "score"
        what = counted(evaluation.releases, f"{kind} histogram")
        found.append(f"{what} of the test patients, {document.evaluation_cells} counts with noise")
    if study.table_one is not None:
        names = ", ".join(study.table_one.variables)
        found.append(f"Table 1 of all patients, counts with noise: {names}")
    if evaluation.named:
        found.append(f"WITHOUT NOISE, outside epsilon: {', '.join(evaluation.named)}")
    return found


def _threshold(document: StudyDocument, nodes: int) -> str:
    if document.threshold == nodes:
        return f"threshold: all {nodes}; if one is missing, no sum is opened"
    return f"threshold: {document.threshold} of {nodes}; a sum of fewer is never opened"


def _condition(document: StudyDocument) -> str:
    """Return on what the promise depends where others add part of the noise."""
    table = document.study.secure_sum
    if table is None:
        return ""
    return f", if at most {counted(table.colluders, 'hospital')} below works with the coordinator"


def _secure_sum(document: StudyDocument) -> list[str]:
    """Return who adds up together, by name and fingerprint, and what the promise assumes of them."""
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        return []
    delta = document.study.privacy.delta
    training = [document.round_event] * document.study.training.rounds
    found = [f"{m.site}  {fingerprint(m.key)}" for m in plan.roster.members]
    found += [
        _threshold(document, len(plan.roster.members)),
        f"assumed: at most {counted(table.colluders, 'hospital')} of them with the coordinator; each of the "
        "others adds its share of the noise",
        f"if all of them work together: epsilon {format_epsilon(alone_epsilon(document))} for your "
        "patients, from your own share alone",
        f"a patient of two of these hospitals: epsilon "
        f"{format_epsilon(two_hospitals_epsilon(training, delta))} from the training",
    ]
    return found


def _warnings(document: StudyDocument, expected: Forecast) -> list[str]:
    found = [] if expected.warning is None else [expected.warning]
    if document.noise_multiplier is None:
        found.append(
            "Privacy is off: this study uses up the lifetime budget for good, and no study with "
            "privacy can follow"
        )
    return found
