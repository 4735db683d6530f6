"""A version: does it verify, where does it stand, who signed it, and its card."""

from typing import Any

from solblom_models.references import newest_usable, registered
from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import (
    Badge,
    Block,
    Bullets,
    Button,
    Cell,
    Code,
    English,
    Facts,
    Link,
    Markdown,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
    Tone,
)
from solblom_server.steward.checkpoint_view import log_view
from solblom_server.steward.findings import check_words, limit
from solblom_server.steward.log_reading import later_decisions
from solblom_server.steward.records import Records
from solblom_server.steward.scene import (
    Scene,
    Subject,
    bad_notice,
    day_and_time,
    digest_cell,
    meaning_of_replay,
    model_link,
    run_link,
    status_badge,
    study_link,
    when,
)
from solblom_server.steward.verification import WITHDRAWN
from solblom_server.steward.views_materials import materials_sections
from solblom_verify.artefact import Check, Verdict

AFFECTED = "affected"
MOST_VERSIONS = 50  # the newest, among which another is looked for
TABS = ("", "evaluation", "lineage", "updates", "signatures", "card", "verify")


def model_frame(scene: Scene, subject: Subject, tab: str, sections: tuple[Section, ...]) -> Page:
    """Return a view of a version: what the verifier says stands first in every one of them."""
    texts, base = scene.texts, f"/models/{subject.name}/v{subject.version}"
    tabs = tuple(
        (texts(f"tab.{name or 'overview'}"), f"{base}/{name}".rstrip("/"), name == tab)
        for name in TABS
    )
    files = subject.files
    title = subject.ref if files is None else str(files.manifest.get("title", subject.ref))
    return Page(
        title=title if tab == "" else f"{title}: {texts(f'tab.{tab}').lower()}",
        eyebrow=texts("model.eyebrow", ref=subject.ref),
        top=top_of_model(scene, subject),
        crumbs=(Link(texts("nav.home"), "/"),),
        tabs=tabs,
        sections=sections if files is not None or tab == "verify" else (),
    )


def top_of_model(scene: Scene, subject: Subject) -> tuple[Block, ...]:
    """Return the verdict, and that a simulation is one."""
    texts, judgement = scene.texts, subject.judgement
    if not judgement.is_whole or judgement.verdict is None:
        return (bad_notice(scene, judgement),)
    count = len(judgement.verdict.not_checked)
    lines: tuple[Cell, ...] = (
        texts("verdict.good_more", checks=len(judgement.verdict.checks),
              time=day_and_time(judgement.time.isoformat()), seconds=f"{judgement.seconds:.2f}"),
        Link(texts.count("verdict.not_checked_link", count),
             f"/models/{subject.name}/v{subject.version}/verify#not-checked"),
    )  # fmt: skip
    told = Notice("good", texts("verdict.good_title"), lines)
    blocks: list[Block] = [told if judgement.is_good else bad_notice(scene, judgement)]
    if judgement.is_withdrawn:
        blocks += _instead(scene, subject)
    blocks += _remarks(scene, judgement.verdict)
    files = ArtefactFiles(subject.folder)
    if files.manifest["simulation"]:
        blocks.append(Notice("warn", texts("run.simulation"), (texts("run.simulation_more"),)))
    return tuple(blocks)


def _instead(scene: Scene, subject: Subject) -> list[Block]:
    """Name the version to use instead of one that was withdrawn: the one that its name alone leads to."""
    texts = scene.texts
    versions = [path for name, _, path in registered(scene.models) if name == subject.name]
    usable = newest_usable(versions[-MOST_VERSIONS:])
    if usable is None:
        return [Notice("warn", texts("verdict.no_instead"), (texts("verdict.no_instead_more"),))]
    found = model_link(subject.name, usable.name.rpartition("-")[2])
    return [Notice("quiet", texts("verdict.instead"), (found, texts("verdict.instead_more")))]


def _remarks(scene: Scene, verdict: Verdict) -> list[Block]:
    """Return what was decided or noticed about a model since its copy of the log, and that it is affected."""
    texts, blocks = scene.texts, list[Block]()
    later = later_decisions(scene.home, verdict, scene.verifier.trust())
    for one in (*verdict.statuses, *later):
        time = day_and_time(one.time.isoformat())
        if one.status == AFFECTED:
            since = texts("verdict.affected_more", time=time)
            blocks.append(Notice("warn", texts("verdict.affected_title"), (since,)))
        elif one in later:
            words = (
                texts(f"status.{one.status}") if texts.has(f"status.{one.status}") else one.status
            )
            told = texts("verdict.later_more", time=time, by=one.signer)
            tone: Tone = "bad" if one.status == WITHDRAWN else "warn"
            title = texts("verdict.later_title", status=words)
            blocks.append(Notice(tone, title, (told, one.reason)))
    return blocks


def model_page(scene: Scene, records: Records, subject: Subject) -> Page:
    """Return the first view of a version."""
    files = subject.files
    sections = () if files is None else overview(scene, records, subject, files)
    return model_frame(scene, subject, "", sections)


def overview(
    scene: Scene, records: Records, subject: Subject, files: ArtefactFiles
) -> tuple[Section, ...]:
    """Return what the model is, its life so far, its privacy, and its limits."""
    texts = scene.texts
    limits = tuple(English(line) for line in files.manifest.get("limitations", []))
    return (
        Section("facts", texts("model.facts"), (_facts(scene, records, subject, files),)),
        Section("life", texts("model.life"), life(scene, subject)),
        Section("privacy", texts("model.privacy"), _privacy(scene, files)),
        Section("limits", texts("model.limits"), (Bullets(limits),)),
    )


def _facts(scene: Scene, records: Records, subject: Subject, files: ArtefactFiles) -> Facts:
    texts, manifest = scene.texts, files.manifest
    training: dict[str, Any] = manifest["training"]
    row = records.model(subject.name, subject.version)
    return Facts((
        (texts("model.status"), status_badge(texts, subject.judgement.status)),
        (texts("study.purpose"), str(manifest.get("purpose", "–"))),
        (texts("model.use"), English(str(manifest.get("intended_use", "–")))),
        (texts("model.not_for"), English(str(manifest.get("not_for", "–")))),
        (texts("study.legal_basis"), " · ".join(manifest.get("legal_basis", []))),
        (texts("study.task"), Code(str(manifest["task"]))),
        (texts("column.run"), run_link(str(training["run"])) if row else Code(str(training["run"]))),
        (texts("column.study"), study_link(str(training["study"]), str(manifest.get("title", "–")))
            if row else digest_cell(training["study"])),
        (texts("column.hospitals"), ", ".join(sorted(manifest["sites"]))),
        (texts("model.rounds"), str(len(training["rounds"]))),
        (texts("model.aggregation"), English(str(training["aggregation"]["rule"]))),
        (texts("model.replay"), meaning_of_replay(texts, training.get("replay_grade"))),
        (texts("model.digest"), digest_cell(subject.artefact)),
        (texts("model.weights"), digest_cell(manifest["model"]["weights"])),
    ))  # fmt: skip


def life(scene: Scene, subject: Subject) -> tuple[Block, ...]:
    """Return the decisions about a version that its log holds, as the verifier read them."""
    texts, verdict = scene.texts, subject.judgement.verdict
    if verdict is None or not verdict.statuses:
        return (Notice("quiet", texts("model.no_life"), (texts("model.no_life_more"),)),)
    rows = tuple(
        (when(e.time.isoformat()), status_badge(texts, e.status), e.reason, e.signer)
        for e in verdict.statuses
    )
    head = tuple(texts(f"column.{n}") for n in ("time", "status", "reason", "signed_by"))
    return (Table(texts("model.life_caption"), head, rows),)


def _privacy(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, statement = scene.texts, files.statement
    target, privacy = statement.get("target", {}), files.manifest["privacy"]
    by_family = privacy.get("unit") == "family"  # a patient whose family stays has another figure
    rows = tuple(
        (
            *(site, str(spent["epsilon"]), str(target.get("epsilon", "–")), str(spent["delta"])),
            *([str(spent["epsilon_of_one_patient"])] if by_family else []),
        )
        for site, spent in sorted(privacy["sites"].items())
    )
    names = ("hospital", "spent", "target", "delta", *(["one_patient"] if by_family else []))
    lines = [
        (texts(f"statement.{name}"), English(str(statement[name])))
        for name in ("unit", "loss", "mechanism", "trust", "adversary", "withdrawal", "reading")
        if name in statement
    ]
    return (
        Table(texts("model.privacy_caption"), tuple(texts(f"column.{n}") for n in names), rows,
              frozenset({1, 2, 3, 4})),
        Facts(tuple(lines)),
        Paragraph((texts("model.privacy_more"),)),
    )  # fmt: skip


def verify_page(scene: Scene, subject: Subject) -> Page:
    """Return what the verifier says now, check by check, and what it did not check."""
    texts, judgement = scene.texts, subject.judgement
    base = f"/models/{subject.name}/v{subject.version}"
    again = Button(texts("verify.again"), f"{base}/verify?fresh=1")
    verdict = judgement.verdict
    if verdict is None:
        alone = Section("checks", texts("verify.checks"), (again,))
        return model_frame(scene, subject, "verify", (alone,))
    rows = tuple(
        (check.name, _check_badge(scene, check), check_words(texts, check))
        for check in verdict.checks
    )
    head = tuple(texts(f"column.{name}") for name in ("check", "result", "reason"))
    told = texts("verify.told", time=day_and_time(judgement.time.isoformat()),
                 seconds=f"{judgement.seconds:.2f}")  # fmt: skip
    by_hand = Code(f"solblom-verify {subject.folder.name} --trust trust.json")
    sections = (
        Section("checks", texts("verify.checks"),
                (Paragraph((told,)), again, Table(texts("verify.caption"), head, rows))),
        Section("not-checked", texts("verify.not_checked"),
                (Paragraph((texts("verify.not_checked_more"),)),
                 Bullets(tuple(limit(texts, code, line) for code, line in verdict.limits)))),
        Section("by-hand", texts("verify.by_hand"), (Paragraph((texts("verify.by_hand_more"), by_hand)),)),
    )  # fmt: skip
    return model_frame(scene, subject, "verify", sections)


def _check_badge(scene: Scene, check: Check) -> Badge:
    if check.ok:
        return Badge(scene.texts("verify.ok"), "good")
    is_reached = not check.reason.startswith("not reached")
    return (
        Badge(scene.texts("verify.failed"), "bad")
        if is_reached
        else Badge(scene.texts("verify.not_reached"), "warn")
    )


def signatures_page(scene: Scene, subject: Subject) -> Page:
    """Return who signed the artefact, what the log holds of it, and who witnessed that."""
    files = subject.files
    sections = () if files is None else signatures_sections(scene, subject, files)
    return model_frame(scene, subject, "signatures", sections)


def signatures_sections(
    scene: Scene, subject: Subject, files: ArtefactFiles
) -> tuple[Section, ...]:
    """Return signatures, log and witnesses, hospitals' keys, permits, and what else is in the folder."""
    texts = scene.texts
    return (
        Section("signers", texts("sign.signers"), _signers(scene, subject, files)),
        Section("log", texts("sign.log"), _log(scene, subject, files)),
        Section("hospitals", texts("sign.hospitals"), _hospitals(scene, files)),
        *materials_sections(scene, files),
    )


def _signers(scene: Scene, subject: Subject, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, verdict = scene.texts, subject.judgement.verdict
    trust = scene.verifier.trust()
    signers = () if verdict is None else verdict.signers
    rows: list[tuple[Cell, ...]] = []
    for key in trust.keys:
        signed = key.keyid in signers
        state = (
            Badge(texts("sign.signed"), "good")
            if signed
            else Badge(texts("sign.not_signed"), "quiet")
        )
        rows.append((key.name, texts(f"role.{key.role}"), state, Code(key.keyid)))
    head = tuple(texts(f"column.{n}") for n in ("name", "role", "signature", "key"))
    return (
        Table(texts("sign.caption"), head, tuple(rows)),
        Facts((
            (texts("sign.threshold"), str(trust.threshold)),
            (texts("sign.trust"), texts("sign.trust_value", version=trust.version,
                                        expires=trust.expires.date().isoformat())),
            (texts("sign.envelope"), Code(files.envelope_digest)),
        )),
    )  # fmt: skip


def _log(scene: Scene, subject: Subject, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, found = scene.texts, log_view(files)
    verdict = subject.judgement.verdict
    if found is None or verdict is None:
        return (Notice("quiet", texts("sign.no_log"), (texts("sign.no_log_more"),)),)
    witnesses = list(verdict.witnesses)
    silent = sorted(set(files.manifest["sites"]) - set(witnesses))
    facts = Facts((
        (texts("sign.origin"), Code(found.origin)),
        (texts("sign.size"), str(found.size)),
        (texts("sign.root"), Code(found.root)),
        (texts("sign.witnesses"), ", ".join(witnesses) or texts("sign.no_witness")),
        (texts("sign.silent"), ", ".join(silent) or texts("sign.nobody")),
    ))  # fmt: skip
    head = tuple(texts(f"column.{n}") for n in ("entry", "kind", "time"))
    rows = tuple((str(i), texts(f"entry.{kind}") if texts.has(f"entry.{kind}") else kind, when(t))
                 for i, kind, t in found.entries)  # fmt: skip
    return (facts, Table(texts("sign.entries"), head, rows, frozenset({0})),
            Paragraph((texts("sign.log_more"),)))  # fmt: skip


def _hospitals(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    texts, rounds = scene.texts, files.rounds
    rows = tuple(
        (site, str(sum(site in r["results"] for r in rounds)), Code(str(entry["keyid"])))
        for site, entry in sorted(files.manifest["sites"].items())
    )
    head = tuple(texts(f"column.{n}") for n in ("hospital", "receipts", "key"))
    return (
        Table(texts("sign.hospitals_caption"), head, rows, frozenset({1})),
        Paragraph((texts("sign.hospitals_more"),)),
    )


def card_page(scene: Scene, subject: Subject) -> Page:
    """Return the model card as it stands in the artefact."""
    files = subject.files
    sections = () if files is None else card_sections(scene, files)
    return model_frame(scene, subject, "card", sections)


def card_sections(scene: Scene, files: ArtefactFiles) -> tuple[Section, ...]:
    """Return the model card."""
    texts, card = scene.texts, files.text("README.md")
    if card is None:
        return (Section("card", texts("tab.card"), (Notice("quiet", texts("card.none"), ()),)),)
    body = card.split("---\n", 2)[-1] if card.startswith("---\n") else card
    return (
        Section("card", texts("card.heading"), (Paragraph((texts("card.more"),)), Markdown(body))),
    )
