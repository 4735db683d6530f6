"""What the person who approves a study is shown: who asks, for what, what leaves, its price in privacy; in words."""

import math
from dataclasses import dataclass
from decimal import Decimal

from solblom_client.approvals.study_changes import ApprovedBefore, study_changes
from solblom_client.approvals.words import Lang, label, number_of, plural_of, printable, text
from solblom_client.budget.forecast import Forecast
from solblom_client.cohorts.cohort import Cohort, unit_count
from solblom_client.cohorts.families import Families
from solblom_client.policy import DatasetTable
from solblom_models.accountant import (
    alone_epsilon,
    format_epsilon,
    patient_epsilon,
    two_hospitals_epsilon,
)
from solblom_models.flat import layout_of
from solblom_models.task import Task
from solblom_protocol.keys.key_files import fingerprint
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.permits.duo import DUO_TERMS
from solblom_protocol.permits.permit import SignedPermit, moment
from solblom_protocol.studies.checks import ROBUST
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import format_delta

OTHER_SIZE = (
    2.0  # a hospital that is smaller or larger than the study says by more than this factor is told
)


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
        permit: the permit beside the approval, a line each; empty without one.
        code: digest of the installed code, which is approved with the study.
        changed: what is different from the version that was approved before; its first line says from which.
        protects: who is protected where that is not the patient alone.
        lang: the language of all texts.
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
    permit: tuple[str, ...] = ()
    code: str = ""
    changed: tuple[str, ...] = ()
    protects: tuple[str, ...] = ()
    lang: Lang = "en"

    def lines(self) -> list[tuple[str, str]]:
        """Return (label, text) in the order in which a person reads; an empty label continues."""
        lang = self.lang
        patients = text(lang, "patients").format(
            training=number_of(lang, self.training_patients, "patient"),
            test=self.test_patients,
            excluded=self.excluded_by_consent,
        )
        lifetime = text(lang, "lifetime").format(
            now=self.lifetime_now, after=self.lifetime_after, budget=self.lifetime_budget
        )
        signers = tuple(f"{who['name']}  {who['fingerprint']}" for who in self.signed_by)
        groups: list[tuple[str, tuple[str, ...]]] = [
            ("purpose", (self.purpose,)),
            ("legal basis", ("; ".join(self.legal_basis),)),
            ("ends", (self.ends,)),
            ("signed by", signers),
            ("permit", self.permit),
            ("data set", (f"{self.dataset}: {patients}",)),
            ("was read", self.reading),
            ("promise", (self.promise,)),
            ("protects", self.protects),
            ("will leave", self.leaves),
            ("adds up with", self.secure_sum),
            ("lifetime", (lifetime,)),
            ("changed", self.changed),
            ("study", (self.study,)),
            ("code", (self.code,)),
        ]
        found = [
            (label(lang, name if not number else ""), printable(line))
            for name, lines in groups
            for number, line in enumerate(lines)
        ]
        return found + [(label(lang, "WARNING"), printable(warning)) for warning in self.warnings]


@dataclass(frozen=True)
class About:
    """What is shown besides the study itself: who asks, who permits, which code, and what was approved before."""

    signers: tuple[PublicKeys, ...]
    permit: SignedPermit | None
    code: str
    before: ApprovedBefore | None
    site: str


def summarise(
    document: StudyDocument,
    task: Task,
    dataset: DatasetTable,
    cohort: Cohort,
    expected: Forecast,
    about: About,
    *,
    lang: Lang = "en",
) -> ApprovalSummary:
    """Return the summary of a study that passed every check."""
    study = document.study
    privacy = study.privacy
    promised = promise(privacy.epsilon, privacy.delta, unit=privacy.unit, lang=lang)
    in_all = unit_count(cohort.training, by_family=document.by_family)
    about_divisor = _other_size(document, about.site, in_all, lang)
    return ApprovalSummary(
        study=document.digest,
        title=study.study.title,
        purpose=study.study.purpose,
        legal_basis=study.study.legal_basis,
        ends=study.study.ends.isoformat(),
        signed_by=tuple(
            {"name": signer.name, "fingerprint": fingerprint(signer.signing)}
            for signer in about.signers
        ),
        dataset=dataset.name,
        training_patients=len(cohort.training.ids),
        test_patients=len(cohort.test.ids),
        excluded_by_consent=cohort.excluded,
        epsilon=str(study.privacy.epsilon),
        delta=format_delta(study.privacy.delta),
        promise=promised + _condition(document, lang),
        rounds=study.training.rounds,
        leaves=tuple(what_leaves(document, task, lang=lang)),
        lifetime_budget=f"{expected.budget:g}",
        lifetime_now=format_epsilon(expected.epsilon_now),
        lifetime_after=format_epsilon(expected.epsilon_after),
        rounds_to_come=expected.rounds_to_come,
        rounds_that_fit=expected.rounds_that_fit,
        warnings=tuple(_warnings(document, expected, lang) + about_divisor),
        secure_sum=tuple(_secure_sum(document, lang)),
        reading=tuple(f"{count:,} {what}" for what, count in cohort.notes.items()),
        permit=() if about.permit is None else tuple(_permit(about.permit, lang)),
        code=about.code,
        changed=tuple(_changed(document, about, lang)),
        protects=tuple(_protects(document, cohort, lang)),
        lang=lang,
    )


def _permit(signed: SignedPermit, lang: Lang) -> list[str]:
    """Return who permits what, until when, in words."""
    permit, grant = signed.permit, signed.permit.fl_permit
    limits = grant.limits
    uses = []
    for use in grant.duo:
        meaning = DUO_TERMS[use.id]
        words = meaning.en if lang == "en" else meaning.no
        uses.append(f"{use.id}{f' {use.disease}' if use.disease else ''} ({words})")
    found = [
        text(lang, "permit by").format(
            jti=permit.jti, issuer=permit.iss, key=fingerprint(signed.issuer.key)
        ),
        text(lang, "permit dates").format(
            begin=moment(permit.nbf), end=moment(permit.exp), root=moment(permit.ends)
        ),
        text(lang, "permit basis").format(basis="; ".join(grant.legal_basis)),
        "; ".join(uses),
        text(lang, "permit limits").format(
            rounds=number_of(lang, limits.rounds_max, "round"),
            runs=number_of(lang, limits.runs_max, "run"),
            epsilon=grant.dp.eps_max,
            delta=grant.dp.delta,
            patients=number_of(lang, limits.min_cohort, "patient"),
        ),
    ]
    if grant.code:
        found.append(text(lang, "permit code").format(count=len(grant.code)))
    return found


def _changed(document: StudyDocument, about: About, lang: Lang) -> list[str]:
    """Return what is different from the version of the study that was approved before."""
    before = about.before
    if before is None:
        return [text(lang, "first")]
    changes = study_changes(before, document.payload(), about.code)
    if not changes:
        return [text(lang, "unchanged").format(date=before.approved)]
    lines = [f"{change.path}: {change.old} -> {change.new}" for change in changes]
    return [text(lang, "changed since").format(date=before.approved), *lines]


def _protects(document: StudyDocument, cohort: Cohort, lang: Lang) -> list[str]:
    """Return what the unit is where it is the family, and what is promised to one patient of it."""
    if not document.by_family:
        return []
    members = Families.of(cohort.training).members
    families = number_of(lang, len(members), "family")
    several = sum(1 for family in members if len(family) > 1)
    found = [text(lang, "unit family").format(families=families, several=several)]
    if document.evaluation_event is not None or document.table_one_event is not None:
        found.append(text(lang, "unit family counted"))
    if document.noise_multiplier is not None:
        cost = format_epsilon(patient_epsilon(document.all_events, document.study.privacy.delta))
        found.append(text(lang, "unit family of one patient").format(epsilon=cost))
    return found


def promise(epsilon: float | str, delta: float, *, unit: str = "patient", lang: Lang = "en") -> str:
    """Return what a patient or a family is promised, in words; figures are rounded towards more loss."""
    if not isinstance(epsilon, float | int):
        return text(lang, "no promise")
    one_in = f"{int(1 / Decimal(repr(delta))):,}"
    return text(lang, "promise of a family" if unit == "family" else "promise").format(
        factor=_in_prose(lang, _factor(epsilon)),
        one_in=_in_prose(lang, one_in),
        epsilon=f"{epsilon:g}",
        delta=format_delta(delta),
    )


def _in_prose(lang: Lang, number: str) -> str:
    """Return a number as people of that language write it: a decimal comma, and spaces between thousands."""
    return number if lang == "en" else number.translate({ord(","): " ", ord("."): ","})


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


def what_leaves(document: StudyDocument, task: Task, *, lang: Lang = "en") -> list[str]:
    """Return everything that a study lets leave a hospital, a line each."""
    study, training = document.study, document.study.training
    size = layout_of(task.build(document), local=task.local_parameters(document)).size
    noise = text(lang, "without noise" if document.noise_multiplier is None else "with noise")
    if document.secure_sum is not None:
        noise = text(lang, "under masks")
    found = [
        text(lang, "updates").format(
            updates=number_of(lang, training.rounds, "update"),
            size=number_of(lang, size, "number"),
            noise=noise,
        )
    ]
    if document.keeps_updates:
        found.append(text(lang, "updates kept" if document.secure_sum is None else "sums kept"))
    evaluation = study.evaluation
    if evaluation.releases:
        kind = "rank histogram" if document.ranks else "score histogram"
        what = number_of(lang, evaluation.releases, kind)
        found.append(text(lang, "histograms").format(what=what, cells=document.evaluation_cells))
    if study.table_one is not None:
        names = ", ".join(study.table_one.variables)
        found.append(text(lang, "table one").format(names=names))
    if evaluation.named:
        found.append(text(lang, "named").format(names=", ".join(evaluation.named)))
    return found


def _threshold(document: StudyDocument, nodes: int, lang: Lang) -> str:
    if document.threshold == nodes:
        return text(lang, "threshold all").format(nodes=nodes)
    return text(lang, "threshold").format(needed=document.threshold, nodes=nodes)


def _condition(document: StudyDocument, lang: Lang) -> str:
    """Return on what the promise depends where others add part of the noise."""
    table = document.study.secure_sum
    if table is None:
        return ""
    return text(lang, "condition").format(colluders=number_of(lang, table.colluders, "hospital"))


def _secure_sum(document: StudyDocument, lang: Lang) -> list[str]:
    """Return who adds up together, by name and fingerprint, and what the promise assumes of them."""
    plan, table = document.secure_sum, document.study.secure_sum
    if plan is None or table is None:
        return []
    delta = document.study.privacy.delta
    training = [document.round_event] * document.study.training.rounds
    found = [f"{m.site}  {fingerprint(m.key)}" for m in plan.roster.members]
    return [
        *found,
        _threshold(document, len(plan.roster.members), lang),
        text(lang, "assumed").format(colluders=number_of(lang, table.colluders, "hospital")),
        text(lang, "alone").format(epsilon=format_epsilon(alone_epsilon(document))),
        text(lang, "two hospitals").format(
            epsilon=format_epsilon(two_hospitals_epsilon(training, delta))
        ),
    ]


def _other_size(document: StudyDocument, site: str, in_all: int, lang: Lang) -> list[str]:
    """Return a warning where updates are compared and this hospital is of quite another size than the study says.

    Divisors count what is drawn: patients, or families where these are the unit; `in_all` does too.
    """
    training, rate = document.study.training, document.study.privacy.sampling_rate
    if training.strategy not in ROBUST:
        return []
    divisor, expected = training.divisor_of(site), rate * in_all
    if divisor / OTHER_SIZE <= expected <= divisor * OTHER_SIZE:
        return []
    units = plural_of(lang, document.study.privacy.unit)
    told = text(lang, "other size")
    return [told.format(divisor=f"{divisor:g}", units=units, expected=f"{expected:.0f}")]


def _warnings(document: StudyDocument, expected: Forecast, lang: Lang) -> list[str]:
    warning = expected.warning_in(lang)
    found = [] if warning is None else [warning]
    if document.noise_multiplier is None:
        found.append(text(lang, "privacy off"))
    return found
