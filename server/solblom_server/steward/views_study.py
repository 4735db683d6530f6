"""A study: who asked for what, on which basis, until when, who signed it; and what its runs cost so far."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from solblom_models.accountant import pld_epsilon
from solblom_protocol.errors import SolblomError
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import (
    StudyDocument,
    open_study,
    study_payload,
    study_signatures,
)
from solblom_protocol.studies.tables import TrainingTable
from solblom_server.steward.blocks import (
    Badge,
    Block,
    Button,
    Cell,
    Code,
    Facts,
    Figure,
    Link,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
)
from solblom_server.steward.figures import bars
from solblom_server.steward.records import Records, StudyRow, read_document
from solblom_server.steward.scene import Scene, epsilon_text
from solblom_server.steward.views_home import model_rows, run_rows
from solblom_verify.canonical import digest
from solblom_verify.wording import format_delta

MOST = 200


@dataclass(frozen=True)
class Signature:
    """Who signed a study; `name` and `holds` are known only where the researcher's public key lies in the folder."""

    keyid: str
    name: str | None
    holds: bool


def signatures(scene: Scene, envelope: bytes) -> list[Signature]:
    """Return the signatures of a study, checked where the key is at hand."""
    known = {}
    for path in sorted((scene.home / "researcher").glob("*.pub")):
        try:
            keys = PublicKeys.read(path)
        except SolblomError:
            continue
        known[keys.key_id] = keys
    try:
        open_study(envelope, {keyid: keys.signing for keyid, keys in known.items()})
        holds = True
    except SolblomError:
        holds = False
    return [
        Signature(keyid, known[keyid].name if keyid in known else None, holds and keyid in known)
        for keyid in study_signatures(envelope)
    ]


def study_page(scene: Scene, records: Records, row: StudyRow) -> Page:
    """Return the page of a study."""
    document, texts = read_document(row.envelope), scene.texts
    table = document.study.study
    is_same = digest(study_payload(row.envelope)) == row.digest
    top: tuple[Block, ...] = ()
    if not is_same:
        top = (Notice("bad", texts("study.other_digest"), (Code(row.digest),)),)
    key = row.digest.removeprefix("sha256:")
    return Page(
        title=table.title,
        eyebrow=texts("study.eyebrow"),
        lead=(table.purpose,),
        top=(*top, Button(texts("study.dpo_link"), f"/studies/{key}/dpo")),
        crumbs=(Link(texts("nav.home"), "/"),),
        sections=(
            Section("charter", texts("study.charter"), (_charter(scene, row, document),)),
            Section("signatures", texts("study.signatures"), _signed(scene, row.envelope)),
            Section("privacy", texts("study.privacy"), study_epsilon(scene, records, row)),
            Section("settings", texts("study.settings"), (_settings(scene, document),)),
            Section("runs", texts("study.runs"), _runs(scene, records, row)),
        ),
    )


def _charter(scene: Scene, row: StudyRow, document: StudyDocument) -> Facts:
    texts, table = scene.texts, document.study.study
    return Facts((
        (texts("study.name"), table.name),
        (texts("study.purpose"), table.purpose),
        (texts("study.legal_basis"), " · ".join(table.legal_basis)),
        (texts("study.duo"), ", ".join(table.duo) or texts("study.no_duo")),
        (texts("study.ends"), table.ends.isoformat()),
        (texts("study.unit"), texts(f"unit.{document.study.privacy.unit}")),
        (texts("study.digest"), Code(row.digest)),
    ))  # fmt: skip


def _signed(scene: Scene, envelope: bytes) -> tuple[Block, ...]:
    texts = scene.texts
    rows: list[tuple[Cell, ...]] = []
    for found in signatures(scene, envelope):
        state = (
            Badge(texts("study.signature_holds"), "good")
            if found.holds
            else Badge(texts("study.signature_unknown"), "warn")
        )
        rows.append((found.name or texts("study.unknown_person"), state, Code(found.keyid)))
    head = tuple(texts(f"column.{name}") for name in ("signed_by", "signature", "key"))
    return (
        Table(texts("study.signatures_caption"), head, tuple(rows)),
        Paragraph((texts("study.signatures_more"),)),
    )


def _settings(scene: Scene, document: StudyDocument) -> Facts:
    texts, study = scene.texts, document.study
    training, privacy = study.training, study.privacy
    return Facts((
        (texts("study.task"), Code(study.task.name)),
        (texts("study.model"), Code(", ".join(f"{k} = {v}" for k, v in study.task.model.items()))),
        (texts("study.rounds"), str(training.rounds)),
        (texts("study.strategy"), Code(_strategy(training))),
        (texts("study.target"), target_text(scene, document)),
        (texts("study.clipping"), str(privacy.clipping_norm)),
        (texts("study.noise"), texts(f"study.noise_{privacy.noise}",
                                     multiplier=document.noise_multiplier or "–")),
        (texts("study.quorum"), texts("study.quorum_value", nodes=study.cohort.min_nodes,
                                      quorum=study.cohort.quorum)),
        (texts("study.min_patients"), str(study.cohort.min_patients)),
        (texts("study.releases"), str(study.evaluation.releases)),
    ))  # fmt: skip


def _strategy(training: TrainingTable) -> str:
    tolerated = training.tolerated
    return training.strategy + ("" if tolerated is None else f", tolerated = {tolerated}")


def target_text(scene: Scene, document: StudyDocument) -> str:
    """Return what a patient is promised: epsilon at delta, or that there is no promise."""
    privacy = document.study.privacy
    if privacy.epsilon == "off":
        return scene.texts("study.epsilon_off")
    return scene.texts(
        "study.epsilon_value", epsilon=privacy.epsilon, delta=format_delta(privacy.delta)
    )


Cost = Callable[[Iterable[PrivacyEvent], float], float]
"""From events and delta to epsilon."""


def epsilon_by_site(
    records: Records, row: StudyRow, document: StudyDocument, *, cost: Cost = pld_epsilon
) -> dict[str, float]:
    """Return what all runs of a study cost at each hospital so far, by the receipts that came here.

    `pld_epsilon` is the loss of the study's unit; where that is the family, `patient_epsilon` is that of one patient.
    """
    events: dict[str, list[PrivacyEvent]] = {}
    for run in records.runs(most=MOST, study=row.digest):
        for site in run.roster.split(","):
            events.setdefault(site, [])
    for _, site, event in records.charges(row.digest):
        events.setdefault(site, []).append(event)
    delta = document.study.privacy.delta
    return {site: cost(found, delta) for site, found in sorted(events.items())}


def study_epsilon(scene: Scene, records: Records, row: StudyRow) -> tuple[Block, ...]:
    """Return epsilon by hospital over all runs of a study, beside what the study promised, and what is not known."""
    texts, document = scene.texts, read_document(row.envelope)
    spent = epsilon_by_site(records, row, document)
    epsilon = document.study.privacy.epsilon
    limit = None if isinstance(epsilon, str) else float(epsilon)
    rows = tuple(
        (
            site,
            epsilon_text(value),
            "–" if limit is None else f"{limit:g}",
            _state(scene, value, limit),
        )
        for site, value in spent.items()
    )
    head = tuple(texts(f"column.{name}") for name in ("hospital", "spent", "target", "state"))
    table = Table(texts("study.epsilon_caption"), head, rows, frozenset({1, 2}))
    picture = bars(
        [(site, value, epsilon_text(value)) for site, value in spent.items()],
        limit,
        axis=texts("study.epsilon_axis", delta=format_delta(document.study.privacy.delta)),
        limit_word=texts("study.epsilon_limit", limit="" if limit is None else f"{limit:g}"),
        title=texts("study.epsilon_caption"),
    )
    alt = texts("study.epsilon_alt", worst=epsilon_text(max(spent.values(), default=0.0)))
    notice = Notice("quiet", texts("study.epsilon_known"), (texts("study.epsilon_known_more"),))
    return (Figure(picture, alt, texts("study.epsilon_caption"), table), notice)


def _state(scene: Scene, value: float, limit: float | None) -> Badge:
    if limit is None:
        return Badge(scene.texts("study.epsilon_off_short"), "warn")
    if value == 0.0:
        return Badge(scene.texts("study.epsilon_none"), "quiet")
    is_within = value <= limit + 0.0005  # the figure is rounded up in the third decimal
    return (
        Badge(scene.texts("study.epsilon_within"), "good")
        if is_within
        else Badge(scene.texts("study.epsilon_above"), "warn")
    )


def _runs(scene: Scene, records: Records, row: StudyRow) -> tuple[Block, ...]:
    texts = scene.texts
    runs = records.runs(most=MOST, study=row.digest)
    models = records.models(most=MOST, study=row.digest)
    found = scene.verifier.judge_within([scene.models / m.folder for m in models], 0.5)
    heads = [
        tuple(texts(f"column.{name}") for name in names)
        for names in (
            ("run", "status", "hospitals", "started", "ended"),
            ("model", "verified", "status", "run", "registered"),
        )
    ]
    blocks: list[Block] = [
        Table(texts("home.runs_caption"), heads[0], run_rows(scene, runs), frozenset({2}))
    ]
    if models:
        rows = model_rows(scene, models, found)
        blocks.append(Table(texts("home.models_caption"), heads[1], rows))
    return tuple(blocks)
