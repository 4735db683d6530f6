"""A hospital's own approval of a study: read by a person, signed by the node, tied to code and data set.

Data checks run here, once, not per order (privacy.md rule 5): otherwise refusals would answer
questions about patients. The noise root of the study is born here and its commitment stands in the
approval (rule 12).
"""

import datetime as dt
import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_client.approvals.permits import (
    PERMIT_FILE,
    check_cohort,
    check_for_approval,
    check_order,
    find_permit,
    pinned_issuers,
    stored_permit,
)
from solblom_client.approvals.record import (
    APPROVAL_PAYLOAD_TYPE,
    RECORDS,
    ApprovalRecord,
    approval_folder,
    end_expired,
    last_approved,
    read_record,
    set_aside,
    wipe_secrets,
)
from solblom_client.approvals.summary import About, ApprovalSummary, summarise
from solblom_client.approvals.words import Lang
from solblom_client.budget.forecast import forecast
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.clock import check_clock, pass_clock
from solblom_client.cohorts.cohort import Cohort, join_cohort, unit_count
from solblom_client.cohorts.family_record import check_same_families
from solblom_client.connectors.sources import open_source
from solblom_client.gate import check_policy, check_roster
from solblom_client.keys import SECRET_BYTES, NodeKeys
from solblom_client.log.decision import Decision
from solblom_client.log.once import log_once
from solblom_client.masks.record import MaskRecord
from solblom_client.policy import DatasetTable, NodeConfig, fitting_dataset
from solblom_client.state import VaultState
from solblom_client.training.gradients import choose_path
from solblom_models.accountant import format_epsilon, pld_epsilon
from solblom_models.study_document import check_task
from solblom_models.task import Task, find_task, has_one_label, isolation_error
from solblom_protocol.code_digest import NODE_PARTS, code_digest
from solblom_protocol.errors import ConfigurationError, DataError, IntegrityError, RefusedError
from solblom_protocol.keys.key_files import read_secret, write_new
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import (
    timestamp,
)
from solblom_protocol.messages.order import OrderHeader
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.permits.permit import SignedPermit, moment, open_permit
from solblom_protocol.studies.study import (
    StudyDocument,
    check_dates,
    open_study,
    study_signatures,
)
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import key_id
from solblom_verify.wording import counted

ISOLATION_TOLERANCE = 1e-4  # of a gradient's norm: float32 rounding stays far below, a leak above


@dataclass(frozen=True)
class Approval:
    """An approved study, ready for the gate."""

    record: ApprovalRecord
    document: StudyDocument
    task: Task
    dataset: DatasetTable
    root: bytes
    permit: SignedPermit | None = None


@dataclass(frozen=True)
class Prepared:
    """A study that passed every check and waits for a person's yes."""

    document: StudyDocument
    envelope: bytes
    task: Task
    dataset: DatasetTable
    summary: ApprovalSummary
    permit: SignedPermit | None = None


def study_signers(config: NodeConfig) -> dict[str, PublicKeys]:
    """Return the researchers whom this hospital knows, by key id."""
    keys = [PublicKeys.read(config.path(file)) for file in config.policy.study_signers]
    return {public.key_id: public for public in keys}


def node_code_digest(task: Task) -> str:
    """Return the digest of the installed code that would see this study's patients."""
    return code_digest({*NODE_PARTS, type(task).__module__.split(".")[0]})


def approve(
    config: NodeConfig,
    keys: NodeKeys,
    envelope: bytes,
    *,
    now: dt.datetime,
    root: bytes | None = None,
    permit: bytes | None = None,
) -> ApprovalSummary:
    """Check a signed study against policy, budget and data, and approve it.

    `root` is given in a simulation only; a hospital's root comes from the operating system. `permit` is the
    token of a permit; without one, the permit's folder and an earlier approval are looked at.

    Raises:
        SolblomError: the signature, dates, policy, budget or data do not allow it; nothing is
            written then.
    """
    if root is not None and not config.node.simulation:
        raise ConfigurationError("SB-103", "A noise root may be given in a simulation only")
    prepared = prepare(config, keys, envelope, now=now, permit=permit)
    confirm(config, keys, prepared, now=now, root=root)
    return prepared.summary


def prepare(
    config: NodeConfig,
    keys: NodeKeys,
    envelope: bytes,
    *,
    now: dt.datetime,
    permit: bytes | None = None,
    lang: Lang = "en",
) -> Prepared:
    """Check a signed study against permit, policy, budget and data; approve nothing.

    Written is only what must not be forgotten: the end of a permit, and the newest revocation list.

    Raises:
        SolblomError: the signature, dates, permit, policy, budget or data do not allow it.
    """
    known = study_signers(config)
    document = open_study(envelope, {k: who.signing for k, who in known.items()})
    check_dates(document.study, today=now.date())
    task = check_task(document)
    granted = _check_permit(config, keys, document, permit, code=node_code_digest(task), now=now)
    check_policy(document, config.policy)
    check_roster(document, site=config.node.site, node=key_id(keys.signing.public_key()))
    document.study.training.divisor_of(config.node.site)  # raises where the study names no number
    check_promise(document)
    choose_path(task, task.build(document))
    expected = forecast(config, document)  # before a row is read
    dataset = fitting_dataset(config, task.connector)
    cohort = check_data(config, keys, document, task, dataset, now=now)
    check_cohort(granted, cohort, by_family=document.by_family)
    about = About(
        signers=tuple(known[key] for key in study_signatures(envelope)),
        permit=granted,
        code=node_code_digest(task),
        before=last_approved(config, keys, document.study.study.name),
        site=config.node.site,
    )
    summary = summarise(document, task, dataset, cohort, expected, about, lang=lang)
    return Prepared(document, envelope, task, dataset, summary, granted)


def _check_permit(
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    given: bytes | None,
    *,
    code: str,
    now: dt.datetime,
) -> SignedPermit | None:
    """Return the permit under which a study may be approved: given, in the folder, or that of the approval before.

    Raises:
        RefusedError: SB-206, SB-217 or SB-218.
    """
    state = VaultState(config.state / STATE_FILE)
    try:
        check_clock(state, now)
        for study in end_expired(config, keys, state, now=now):
            log_once(config, keys, Decision("ended", study=study), now=now)
        token = given if given is not None else find_permit(config, document, now=now)
        if token is not None:
            permit: SignedPermit | None = open_permit(token, pinned_issuers(config))
        else:  # what was approved with a permit is not approved again without one
            folder = approval_folder(config, document.digest)
            kept = [folder / name for name in RECORDS if (folder / name).is_file()]
            named = next((p for p in (read_record(f, keys).permit for f in kept) if p), None)
            permit = stored_permit(config, folder, named)
        check_for_approval(config, state, document, permit, code=code, now=now)
    finally:
        state.close()
    return permit


def confirm(
    config: NodeConfig,
    keys: NodeKeys,
    prepared: Prepared,
    *,
    now: dt.datetime,
    root: bytes | None = None,
) -> None:
    """Write down that a person said yes.

    Raises:
        SolblomError: what an earlier approval left does not hold.
    """
    _note_time(config, now)
    _write(
        config,
        keys,
        prepared.document,
        prepared.envelope,
        prepared.task,
        prepared.dataset,
        root or os.urandom(SECRET_BYTES),
        now,
        prepared.permit,
    )
    # How the data were read: what was converted and mapped, and each map by its digest.
    reading = approval_folder(config, prepared.document.digest) / "reading.json"
    reading.write_bytes(canonical_json(list(prepared.summary.reading)))
    log_once(config, keys, Decision("approved", study=prepared.document.digest), now=now)


def _note_time(config: NodeConfig, now: dt.datetime) -> None:
    state = VaultState(config.state / STATE_FILE)
    try:
        pass_clock(state, now)
    finally:
        state.close()


def check_promise(document: StudyDocument) -> None:
    """Refuse a study whose noise does not keep the epsilon that the person reads.

    Raises:
        RefusedError: SB-204.
    """
    privacy = document.study.privacy
    if privacy.epsilon == "off":
        return
    cost = pld_epsilon(document.all_events, privacy.delta)
    if cost > privacy.epsilon:
        raise RefusedError(
            "SB-204",
            f"The study's noise costs epsilon {format_epsilon(cost)} over its rounds and releases; "
            f"it promises {privacy.epsilon:g}",
        )


def check_data(
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    task: Task,
    dataset: DatasetTable,
    *,
    now: dt.datetime,
) -> Cohort:
    """Check the hospital's data against the study's contract; return who would take part now.

    Raises:
        DataError: SB-301 to SB-314.
    """
    units = task.read_units(open_source(config, dataset, document.contract), document)
    cohort = join_cohort(config, keys, document, units, now=now)
    needed = max(document.study.cohort.min_patients, config.policy.min_patients)
    found = unit_count(cohort.training, by_family=document.by_family)
    if found < needed:
        has = (
            f"{counted(found, 'family', 'families')} of {counted(len(cohort.training.ids), 'patient')}"
            if document.by_family
            else counted(found, "patient")
        )
        raise DataError("SB-306", f"The training set has {has}; {needed} are needed")
    if document.by_family:
        _check_families(config, keys, document, cohort)
    if has_one_label(cohort.training):
        raise DataError("SB-305", "All patients of the training set have the same label")
    error = isolation_error(task, task.build(document), cohort.training)
    if error > ISOLATION_TOLERANCE:
        raise DataError("SB-309", f"Other patients change one patient's gradient by {error:.1%}")
    return cohort


def _check_families(
    config: NodeConfig, keys: NodeKeys, document: StudyDocument, cohort: Cohort
) -> None:
    """Refuse to approve a study again whose families have changed since it began.

    Raises:
        DataError: SB-314.
    """
    state = VaultState(config.state / STATE_FILE)
    try:
        check_same_families(state, keys.split, document.digest, cohort.everybody)
    finally:
        state.close()


@lru_cache(maxsize=8)  # before every order: the same bytes under the same keys are checked once
def _opened_study(envelope: bytes, signers: tuple[bytes, ...]) -> StudyDocument:
    keys = [Ed25519PublicKey.from_public_bytes(raw) for raw in signers]
    return open_study(envelope, {key_id(key): key for key in keys})


def read_approval(config: NodeConfig, keys: NodeKeys, study: str) -> Approval:
    """Return the approval of a study.

    Raises:
        RefusedError: SB-203 not approved here, or in a simulation; SB-211 the code has changed since.
        IntegrityError: SB-405 the approval was altered.
    """
    folder = approval_folder(config, study)
    if not (folder / "approval.dsse.json").is_file():
        if (folder / PERMIT_FILE).is_file():
            raise RefusedError("SB-217", "The study's permit has ended, and its noise root is gone")
        raise RefusedError("SB-203", "The study is not approved at this hospital")
    record = read_record(folder / "approval.dsse.json", keys)
    _check_simulation(record, config)
    known = tuple(who.signing.public_bytes_raw() for who in study_signers(config).values())
    document = _opened_study((folder / "study.dsse.json").read_bytes(), known)
    if record.study != study or document.digest != study:
        raise IntegrityError("SB-405", "The stored approval is for another study")
    task = find_task(document.study.task.name)
    if node_code_digest(task) != record.code:
        raise RefusedError("SB-211", "The installed code is not the code that was approved")
    permit = stored_permit(config, folder, record.permit)
    root = read_secret(folder / "noise.root", length=SECRET_BYTES)
    if _root_commitment(root) != record.root_commitment:
        raise IntegrityError("SB-405", "The study's noise root is not the one that was approved")
    datasets = {dataset.name: dataset for dataset in config.dataset}
    if record.dataset not in datasets:
        raise RefusedError("SB-205", f"The data set {record.dataset} is no longer in node.toml")
    return Approval(record, document, task, datasets[record.dataset], root, permit)


def check_permit(
    config: NodeConfig,
    state: VaultState,
    header: OrderHeader,
    approval: Approval,
    *,
    now: dt.datetime,
) -> None:
    """Refuse an order that the permit of its approval does not allow today.

    Raises:
        RefusedError: SB-217 or SB-218.
    """
    document, code = approval.document, approval.record.code
    check_order(config, state, header, document, approval.permit, code=code, now=now)


def revoke(config: NodeConfig, study: str) -> None:
    """Withdraw an approval and wipe the study's noise root.

    Raises:
        RefusedError: SB-203, there is none.
    """
    folder = approval_folder(config, study)
    if not folder.is_dir():
        raise RefusedError("SB-203", "The study is not approved at this hospital")
    # The approval goes first: without it no root is ever adopted, whatever happens next.
    set_aside(folder)
    (folder / PERMIT_FILE).unlink(missing_ok=True)
    state = VaultState(config.state / STATE_FILE)
    try:
        MaskRecord(state).close_study(study)
    finally:
        state.close()
    wipe_secrets(folder)


def _write(
    config: NodeConfig,
    keys: NodeKeys,
    document: StudyDocument,
    envelope: bytes,
    task: Task,
    dataset: DatasetTable,
    root: bytes,
    now: dt.datetime,
    permit: SignedPermit | None,
) -> None:
    folder = approval_folder(config, document.digest)
    if (folder / "approval.dsse.json").is_file():
        # The same study approved again keeps its root: same work, same bytes, one charge.
        before = read_record(folder / "approval.dsse.json", keys)
        _check_simulation(before, config)
        root = read_secret(folder / "noise.root", length=SECRET_BYTES)
        if _root_commitment(root) != before.root_commitment:
            raise IntegrityError(
                "SB-405", "The study's noise root is not the one that was approved"
            )
    else:
        # What a revocation that died half-way left behind may be known: never adopted.
        (folder / "noise.root").unlink(missing_ok=True)
        write_new(folder / "noise.root", root)
    record = ApprovalRecord(
        schema="solblom.approval/3",
        site=config.node.site,
        node=key_id(keys.signing.public_key()),
        study=document.digest,
        dataset=dataset.name,
        code=node_code_digest(task),
        root_commitment=_root_commitment(root),
        simulation=config.node.simulation,
        approved=timestamp(now),
        permit=None if permit is None else permit.digest,
        root_until=None if permit is None else moment(permit.permit.ends),
    )
    if permit is None:
        (folder / PERMIT_FILE).unlink(missing_ok=True)
    else:
        (folder / PERMIT_FILE).write_bytes(permit.token)
    (folder / "study.dsse.json").write_bytes(envelope)
    signed = sign_envelope(record.payload(), APPROVAL_PAYLOAD_TYPE, [keys.signing])
    (folder / "approval.dsse.json").write_bytes(signed)


def _check_simulation(record: ApprovalRecord, config: NodeConfig) -> None:
    """Refuse an approval that was given before node.toml changed what the node is.

    Raises:
        RefusedError: SB-203.
    """
    if record.simulation != config.node.simulation:
        was, now = ("a simulation", "real") if record.simulation else ("real", "a simulation")
        raise RefusedError(
            "SB-203",
            f"The study was approved when this node was {was}; node.toml now says {now}",
            "Set up a new node: the keys of a simulation follow from a public seed",
        )


def _root_commitment(root: bytes) -> str:
    return "sha256:" + hashlib.sha256(b"solblom/root-commitment/v1\x00" + root).hexdigest()
