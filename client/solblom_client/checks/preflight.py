"""Are this hospital's data fit for a study, before anybody approves it. Runs when a person asks, never per order.

Refusals that depend on data answer questions about patients (privacy.md rule 5), so all of this is looked at once,
inside, where the answer stays. What may leave is one light a check, whose names are fixed (traffic_light.py).
"""

import datetime as dt
from dataclasses import dataclass

from solblom_client.approvals.approval import (
    ISOLATION_TOLERANCE,
    check_promise,
    node_code_digest,
    study_signers,
)
from solblom_client.approvals.permits import find_permit, pinned_issuers
from solblom_client.budget.forecast import forecast
from solblom_client.checks.finding import Checklist, Finding, Light, Seen
from solblom_client.checks.preflight_data import look_at_data
from solblom_client.cohorts.cohort import Cohort, join_cohort, unit_count
from solblom_client.gate import check_policy, check_roster
from solblom_client.keys import NodeKeys
from solblom_client.policy import DatasetTable, NodeConfig, fitting_dataset
from solblom_client.training.gradients import choose_path
from solblom_models.accountant import format_epsilon
from solblom_models.study_document import check_task
from solblom_models.task import Task, isolation_error
from solblom_protocol.permits.permit import check_covers, open_permit
from solblom_protocol.permits.permit import check_dates as check_permit_dates
from solblom_protocol.studies.study import StudyDocument, check_dates, open_study
from solblom_verify.envelope import key_id
from solblom_verify.wording import counted

STUDY_CHECKS = (
    "signature",
    "dates",
    "permit",
    "policy",
    "promise",
    "task",
    "budget",
    "data set",
    "schema",
    "units and codes",
    "values",
    "missing values",
    "patients",
    "identical rows",
    "cohort",
    "labels",
    "leakage",
    "split",
    "gradients",
)


@dataclass(frozen=True)
class Preflight:
    """What a check of a study found. Stays inside the hospital."""

    study: str | None  # digest; None where the signature does not hold
    title: str | None
    findings: tuple[Finding, ...]


def preflight(
    config: NodeConfig, keys: NodeKeys, envelope: bytes, *, now: dt.datetime
) -> Preflight:
    """Check a signed study: signature and policy first, then the data by the study's contract. Writes nothing."""
    checks = Checklist(STUDY_CHECKS)

    def opened() -> StudyDocument:
        known = {name: who.signing for name, who in study_signers(config).items()}
        return open_study(envelope, known)

    document = checks.get("signature", opened)
    if document is None:
        return Preflight(None, None, checks.findings())
    checks.note("signature", (Light.OK, "signed by a researcher whom this hospital knows"))
    task = _check_paper(checks, config, keys, document, now)
    dataset = None
    if task is not None:
        dataset = checks.get("data set", lambda: fitting_dataset(config, task.connector))
    if task is not None and dataset is not None:
        checks.note("data set", (Light.OK, f"{dataset.name} ({dataset.connector})"))
        _check_data(checks, config, keys, document, task, dataset, now)
    return Preflight(document.digest, document.study.study.title, checks.findings())


def _check_paper(
    checks: Checklist,
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    now: dt.datetime,
) -> Task | None:
    """Check what needs no patient; return the task where it accepts the study."""

    def dates() -> Seen:
        check_dates(document.study, today=now.date())
        return Light.OK, f"ends on {document.study.study.ends}"

    def policy() -> Seen:
        check_policy(document, config.policy)
        node = key_id(keys.signing.public_key())
        check_roster(document, site=config.node.site, node=node)
        return Light.OK, "node.toml allows it"

    def promise() -> Seen:
        check_promise(document)
        if document.noise_multiplier is None:
            return Light.ATTENTION, "NONE: the study trains without noise", "Read what that means"
        return Light.OK, f"its noise keeps epsilon {document.study.privacy.epsilon}"

    def accepted() -> Task:
        task = check_task(document)
        choose_path(task, task.build(document))
        return task

    checks.check("dates", dates)
    checks.check("policy", policy)
    checks.check("promise", promise)
    task = checks.get("task", accepted)
    if task is not None:
        checks.note("task", (Light.OK, f"{task.name} is installed and accepts the study"))
        checks.check("permit", lambda: _permit(config, document, task, now))
    checks.check("budget", lambda: _budget(config, document))
    return task


def _permit(config: NodeConfig, document: StudyDocument, task: Task, now: dt.datetime) -> Seen:
    """Look for a permit in the permits' folder; whether it was revoked is looked at when the study is approved."""
    token = find_permit(config, document, now=now)
    if token is None and config.permit.required:
        todo = f"Put the issuer's permit into {config.permit.folder}, or give node approve --permit FILE"
        return Light.ATTENTION, "this hospital needs one, and none is in the folder", todo
    if token is None:
        return Light.OK, "none, and none is needed here"
    permit = open_permit(token, pinned_issuers(config)).permit
    check_permit_dates(permit, now=now)
    check_covers(permit, document, site=config.node.site, code=node_code_digest(task))
    return Light.OK, f"by {permit.iss}; it covers the study"


def _budget(config: NodeConfig, document: StudyDocument) -> Seen:
    found = forecast(config, document)
    text = (
        f"lifetime epsilon {format_epsilon(found.epsilon_now)} now, "
        f"{format_epsilon(found.epsilon_after)} after the study, of {found.budget:g}; "
        f"{found.rounds_that_fit} of {counted(found.rounds_to_come, 'round')} fit"
    )
    if found.warning is not None:
        return Light.ATTENTION, text, found.warning
    return Light.OK, text


def _check_data(
    checks: Checklist,
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    task: Task,
    dataset: DatasetTable,
    now: dt.datetime,
) -> None:
    looked = look_at_data(checks, config, document, task, dataset)
    if looked is None:
        return
    cohort = checks.get(
        "cohort", lambda: join_cohort(config, keys, document, looked.units, now=now)
    )
    if cohort is None:
        return
    needed = max(document.study.cohort.min_patients, config.policy.min_patients)
    checks.note("cohort", _cohort(cohort, needed, by_family=document.by_family))
    checks.note("labels", _labels(cohort, document, config.policy.min_patients))
    checks.check("leakage", lambda: looked.leakage(cohort))
    checks.note("split", _split(cohort, document, config.policy.min_patients))
    checks.check("gradients", lambda: _gradients(cohort, document, task))


def _cohort(cohort: Cohort, needed: int, *, by_family: bool) -> Seen:
    training, units = len(cohort.training.ids), unit_count(cohort.training, by_family=by_family)
    of = f" in {counted(units, 'family', 'families')}" if by_family else ""
    text = (
        f"{counted(training, 'patient')}{of} to train on, {needed} needed; "
        f"{cohort.excluded} excluded by consent"
    )
    if units < needed:
        return (
            Light.STOP,
            text,
            "Join with more patients, or lower min_patients with the researcher",
        )
    return Light.OK, text


def _labels(cohort: Cohort, document: StudyDocument, small: int) -> Seen:
    labels = cohort.everybody.labels.tolist()
    if document.ranks:
        return _diseases(labels, small)
    positives = sum(1 for label in labels if label == 1)
    text = f"{positives} of {counted(len(labels), 'patient')} with the outcome"
    if positives:
        text += f" ({positives / len(labels):.1%})"
    fewest = min(positives, len(labels) - positives)
    if fewest == 0:
        return Light.STOP, text, "Training needs both classes at a hospital"
    if fewest < small:
        todo = f"A class has fewer than {small}: expect little from this hospital's own figures"
        return Light.ATTENTION, f"{text}; a small cell", todo
    return Light.OK, text


def _diseases(labels: list[int], small: int) -> Seen:
    counts = {label: labels.count(label) for label in set(labels)}
    rare = sum(1 for count in counts.values() if count < small)
    text = (
        f"{counted(len(counts), 'disease')} of the study; {rare} with fewer than {small} patients"
    )
    if len(counts) < 2:
        return Light.STOP, text, "Training needs two diseases at a hospital"
    return Light.OK, text


def _split(cohort: Cohort, document: StudyDocument, needed: int) -> Seen:
    training, test = cohort.training.labels.tolist(), cohort.counted_test.labels.tolist()
    text = f"{len(training)} to train, {len(cohort.test.ids)} to test"
    if len(set(training)) < 2:
        return Light.STOP, f"{text}; one class only to train", "Join with more patients"
    releases = document.study.evaluation.releases
    if releases and len(test) < needed:
        todo = f"Evaluations need {needed} test patients and will be refused here (SB-209)"
        return Light.ATTENTION, text, todo
    if len(set(test)) < 2:
        return Light.ATTENTION, f"{text}; one class only to test", "Its own figures will say little"
    return Light.OK, f"{text}; both classes in each"


def _gradients(cohort: Cohort, document: StudyDocument, task: Task) -> Seen:
    error = isolation_error(task, task.build(document), cohort.training)
    if error > ISOLATION_TOLERANCE:
        return (
            Light.STOP,
            f"other patients change one patient's gradient by {error:.1%} (SB-309)",
            "Report it to the task's author",
        )
    return Light.OK, "each patient's gradient is its own"


CONCERNS = ("units and codes", "missing values", "identical rows", "labels", "leakage", "split")
"""What an approval does not refuse, and a person should see before saying yes."""


def concerns(
    config: NodeConfig, keys: NodeKeys, envelope: bytes, *, now: dt.datetime
) -> tuple[Finding, ...]:
    """Return what of the data a person should look at before approving a study."""
    found = preflight(config, keys, envelope, now=now).findings
    return tuple(f for f in found if f.name in CONCERNS and f.light is not Light.OK)
