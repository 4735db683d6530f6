"""Two pages for a data protection officer: their questions, answered from this coordinator's records.

Every answer is a figure from the records, or a fixed sentence about how Solblom works; what a coordinator cannot know
stands in a section of its own.
"""

from solblom_models.accountant import patient_epsilon
from solblom_protocol.contracts.table import Contract
from solblom_protocol.studies.study import StudyDocument
from solblom_server.steward.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Facts,
    Link,
    Notice,
    Page,
    Section,
    Table,
)
from solblom_server.steward.records import Records, StudyRow, read_document
from solblom_server.steward.scene import (
    Scene,
    epsilon_text,
    short_digest,
    verdict_badge,
    when,
)
from solblom_server.steward.views_run import read_audit
from solblom_server.steward.views_study import MOST, epsilon_by_site, signatures, target_text
from solblom_verify.wording import format_delta

UNKNOWN = ("patients", "consent", "lifetime", "identity", "later", "law")


def dpo_page(scene: Scene, records: Records, row: StudyRow) -> Page:
    """Return the sheet of a study."""
    texts, document = scene.texts, read_document(row.envelope)
    key = row.digest.removeprefix("sha256:")
    return Page(
        title=texts("dpo.title", title=document.study.study.title),
        eyebrow=texts("dpo.eyebrow"),
        lead=(texts("dpo.lead"),),
        top=(*_simulation(scene, records, row), *_namesakes(scene, records, row)),
        crumbs=(
            Link(texts("nav.home"), "/"),
            Link(document.study.study.title, f"/studies/{key}"),
        ),
        sections=(
            Section("who", texts("dpo.who"), (_who(scene, row, document),)),
            Section("data", texts("dpo.data"), (_data(scene, document),)),
            Section("leaves", texts("dpo.leaves"), _leaves(scene, records, row, document)),
            Section("privacy", texts("dpo.privacy"), _privacy(scene, records, row, document)),
            Section("rights", texts("dpo.rights"), (_rights(scene, document),)),
            Section("evidence", texts("dpo.evidence"), _evidence(scene, records, row)),
            Section("unknown", texts("dpo.unknown"), _unknown(scene)),
        ),
    )


def _simulation(scene: Scene, records: Records, row: StudyRow) -> tuple[Block, ...]:
    if not any(run.simulation for run in records.runs(most=MOST, study=row.digest)):
        return ()
    texts = scene.texts
    return (Notice("warn", texts("run.simulation"), (texts("run.simulation_more"),)),)


def _namesakes(scene: Scene, records: Records, row: StudyRow) -> tuple[Block, ...]:
    """Name other studies of this name: their runs cost the same patients, and are not on this sheet."""
    others = records.namesakes(row)
    if not others:
        return ()
    digests = ", ".join(short_digest(other) for other in others[:MOST])
    return (Notice("warn", scene.texts("dpo.namesakes"), (digests,)),)


def _who(scene: Scene, row: StudyRow, document: StudyDocument) -> Facts:
    texts, table = scene.texts, document.study.study
    signed = ", ".join(
        f"{s.name or texts('study.unknown_person')} ({s.keyid[:12]}…)"
        for s in signatures(scene, row.envelope)
    )
    return Facts((
        (texts("dpo.q_purpose"), table.purpose),
        (texts("dpo.q_basis"), " · ".join(table.legal_basis)),
        (texts("dpo.q_duo"), ", ".join(table.duo) or texts("study.no_duo")),
        (texts("dpo.q_until"), table.ends.isoformat()),
        (texts("dpo.q_signed"), signed),
        (texts("dpo.q_digest"), Code(short_digest(row.digest))),
    ))  # fmt: skip


def _data(scene: Scene, document: StudyDocument) -> Facts:
    texts, study = scene.texts, document.study
    contract = document.contract
    names = [v.name for v in contract.variable] if isinstance(contract, Contract) else []
    return Facts((
        (texts("dpo.q_where"), texts("dpo.a_where")),
        (texts("dpo.q_variables"), ", ".join(names) or texts("dpo.a_no_variables")),
        (texts("dpo.q_unit"), texts(f"unit.{study.privacy.unit}")),
        (texts("dpo.q_minimum"), texts("dpo.a_minimum", patients=study.cohort.min_patients)),
        (texts("dpo.q_code"), texts("dpo.a_code")),
    ))  # fmt: skip


def _leaves(
    scene: Scene, records: Records, row: StudyRow, document: StudyDocument
) -> tuple[Block, ...]:
    texts, counts = scene.texts, dict[str, dict[str, int]]()
    for run in records.runs(most=MOST, study=row.digest):
        for site in run.roster.split(","):
            counts.setdefault(site, {"update": 0, "release": 0, "refusal": 0})
        for reply in records.replies(run.id):
            if reply.site in counts and reply.kind in ("result", "refusal"):
                counts[reply.site]["update" if reply.kind == "result" else "refusal"] += 1
        for asked in ("evaluate", "describe"):
            for reply in records.replies(run.id, asked=asked):
                if reply.site in counts and reply.kind == "result":
                    counts[reply.site]["release"] += 1
    rows = tuple(
        (site, *(str(n) for n in found.values())) for site, found in sorted(counts.items())
    )
    head = tuple(texts(f"column.{n}") for n in ("hospital", "updates", "releases", "refusals"))
    told: tuple[Cell, ...] = (
        texts("dpo.a_update"),
        texts("dpo.a_receipt"),
        texts("dpo.a_releases", releases=document.study.evaluation.releases),
        texts("dpo.a_sealed"),
    )
    return (
        Bullets(told),
        Table(texts("dpo.leaves_caption"), head, rows, frozenset({1, 2, 3})),
    )


def _privacy(
    scene: Scene, records: Records, row: StudyRow, document: StudyDocument
) -> tuple[Block, ...]:
    texts, delta = scene.texts, format_delta(document.study.privacy.delta)
    spent = epsilon_by_site(records, row, document)
    by_family = document.by_family  # then a patient has another figure, which hospitals' caps count
    of_one = epsilon_by_site(records, row, document, cost=patient_epsilon) if by_family else {}
    rows = tuple(
        (site, epsilon_text(value), delta, *([epsilon_text(of_one[site])] if by_family else []))
        for site, value in spent.items()
    )
    names = ("hospital", "spent", "delta", *(["one_patient"] if by_family else []))
    head = tuple(texts(f"column.{n}") for n in names)
    noise = texts(f"dpo.a_noise_{document.study.privacy.noise}")
    return (
        Facts((
            (texts("dpo.q_target"), target_text(scene, document)),
            (texts("dpo.q_meaning"), texts(f"dpo.a_meaning_{document.study.privacy.unit}")),
            (texts("dpo.q_noise"), noise),
        )),
        Table(texts("dpo.privacy_caption"), head, rows, frozenset({1, 2, 3})),
    )  # fmt: skip


def _rights(scene: Scene, document: StudyDocument) -> Facts:
    texts = scene.texts
    return Facts((
        (texts("dpo.q_withdraw"), texts("dpo.a_withdraw")),
        (texts("dpo.q_stop"), texts("dpo.a_stop")),
        (texts("dpo.q_access"), texts("dpo.a_access")),
        (texts("dpo.q_decisions"), texts("dpo.a_decisions")),
    ))  # fmt: skip


def _evidence(scene: Scene, records: Records, row: StudyRow) -> tuple[Block, ...]:
    texts, rows = scene.texts, list[tuple[Cell, ...]]()
    for model in records.models(most=10, study=row.digest):
        judgement = scene.verifier.judge(scene.models / model.folder)
        state = verdict_badge(texts, judgement)
        result = read_audit(scene, model.run)
        told = (
            texts("dpo.no_audit")
            if result is None
            else texts(
                "dpo.audit_value",
                bound=f"{result['lower_bound']:.2f}",
                claimed=f"{result['claimed']:.2f}",
            )
        )
        rows.append((model.ref, state, told, when(model.registered)))  # fmt: skip
    if not rows:
        return (Notice("quiet", texts("dpo.no_model"), ()),)
    head = tuple(texts(f"column.{n}") for n in ("model", "verified", "audit", "registered"))
    return (
        Table(texts("dpo.evidence_caption"), head, tuple(rows)),
        Bullets((texts("dpo.evidence_more"),)),
    )


def _unknown(scene: Scene) -> tuple[Block, ...]:
    texts = scene.texts
    return (Bullets(tuple(texts(f"dpo.unknown_{name}") for name in UNKNOWN)),)
