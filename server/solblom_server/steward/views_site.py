"""Incidents of all runs, and the coordinator's log as this folder holds it."""

from solblom_server.steward.artefact_files import ArtefactFiles, folders_newest_first
from solblom_server.steward.blocks import (
    Block,
    Cell,
    Code,
    English,
    Facts,
    Link,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
)
from solblom_server.steward.checkpoint_view import log_view
from solblom_server.steward.findings import coded, meaning, why_bad
from solblom_server.steward.log_reading import LogState, read_log
from solblom_server.steward.records import Records
from solblom_server.steward.scene import Scene, model_link, run_link, verdict_badge, when
from solblom_server.steward.views_run import incident_table

MOST_FOLDERS = 100
SECONDS = 0.4


def incidents_page(scene: Scene, records: Records) -> Page:
    """Return what went wrong anywhere: models that do not verify, runs that stopped, answers that were no update."""
    texts = scene.texts
    return Page(
        title=texts("incidents.title"),
        lead=(texts("incidents.lead"),),
        crumbs=(Link(texts("nav.home"), "/"),),
        sections=(
            Section("models", texts("incidents.models"), _models(scene)),
            Section("log", texts("incidents.log"), _log_trouble(scene)),
            Section("runs", texts("incidents.runs"), _runs(scene, records)),
            Section("hospitals", texts("incidents.hospitals"), _hospitals(scene, records)),
            Section("answers", texts("incidents.answers"), _answers(scene, records)),
        ),
    )


def _models(scene: Scene) -> tuple[Block, ...]:
    texts = scene.texts
    folders = folders_newest_first(scene.models)[:MOST_FOLDERS]
    found = scene.verifier.judge_within([folder for _, _, folder in folders], SECONDS)
    rows: list[tuple[Cell, ...]] = []
    unknown = 0
    for name, version, folder in folders:
        judgement = found[folder]
        if judgement is None:
            unknown += 1
        elif not judgement.is_good:
            badge = verdict_badge(texts, judgement)
            rows.append((model_link(name, version), badge, why_bad(texts, judgement)))
    blocks: list[Block] = []
    if rows:
        head = tuple(texts(f"column.{n}") for n in ("model", "verified", "reason"))
        blocks.append(Table(texts("incidents.models_caption"), head, tuple(rows)))
    else:
        blocks.append(Notice("good", texts("incidents.no_models"), ()))
    if unknown:
        blocks.append(Paragraph((texts.count("incidents.unknown", unknown),)))
    return tuple(blocks)


def _runs(scene: Scene, records: Records) -> tuple[Block, ...]:
    texts = scene.texts
    stopped = [run for run in records.runs(most=500) if run.reason]
    if not stopped:
        return (Notice("good", texts("incidents.no_runs"), ()),)
    rows = tuple((run_link(r.id), when(r.ended), coded(texts, r.reason or "")) for r in stopped)
    head = tuple(texts(f"column.{n}") for n in ("run", "ended", "reason"))
    return (Table(texts("incidents.runs_caption"), head, rows),)


def _hospitals(scene: Scene, records: Records) -> tuple[Block, ...]:
    """Return what was last heard of hospitals that have a link."""
    texts, found = scene.texts, records.states()
    if not found:
        return (Notice("quiet", texts("incidents.no_links"), (texts("incidents.no_links_more"),)),)
    rows = tuple(
        (site, state or "–", Code(code) if code else "–", meaning(texts, code), when(heard))
        for site, (state, code, heard) in found.items()
    )
    head = tuple(texts(f"column.{n}") for n in ("hospital", "state", "code", "meaning", "heard"))
    return (Table(texts("incidents.links_caption"), head, rows),)


def _answers(scene: Scene, records: Records) -> tuple[Block, ...]:
    found = records.incidents()
    if not found:
        return (Notice("good", scene.texts("incidents.no_answers"), ()),)
    return (incident_table(scene, found, with_run=True),)


def _log_trouble(scene: Scene) -> tuple[Block, ...]:
    texts, state = scene.texts, read_log(scene.home)
    if state is None:
        return (Notice("quiet", texts("log.none"), (texts("log.none_more"),)),)
    if state.problem:
        return (Notice("bad", texts("log.broken"), (English(state.problem),)),)
    return (
        Notice(
            "good",
            texts("log.whole"),
            (texts("log.whole_more", size=state.size, signed=state.signed),),
        ),
    )


def log_page(scene: Scene, records: Records) -> Page:
    """Return the coordinator's log: its head, who cosigned it, and its newest entries."""
    texts, state = scene.texts, read_log(scene.home)
    sections: list[Section] = []
    if state is None:
        block = Notice("quiet", texts("log.none"), (texts("log.none_more"),))
        sections.append(Section("head", texts("log.head"), (block,)))
    else:
        sections += [
            Section("head", texts("log.head"), _head(scene, state)),
            Section("entries", texts("log.entries"), _entries(scene, state)),
        ]
    sections.append(Section("artefacts", texts("log.artefacts"), _artefacts(scene, records)))
    return Page(
        title=texts("log.title"),
        lead=(texts("log.lead"),),
        crumbs=(Link(texts("nav.home"), "/"),),
        sections=tuple(sections),
    )


def _head(scene: Scene, state: LogState) -> tuple[Block, ...]:
    texts = scene.texts
    told = (
        Notice("bad", texts("log.broken"), (English(state.problem),))
        if state.problem
        else Notice(
            "good",
            texts("log.whole"),
            (texts("log.whole_more", size=state.size, signed=state.signed),),
        )
    )
    facts = Facts((
        (texts("sign.origin"), Code(state.origin or "–")),
        (texts("sign.size"), str(state.size)),
        (texts("sign.root"), Code(state.root)),
        (texts("sign.witnesses"), ", ".join(state.witnesses) or texts("sign.no_witness")),
    ))  # fmt: skip
    return (told, facts, Paragraph((texts("log.more"),)))


def _entries(scene: Scene, state: LogState) -> tuple[Block, ...]:
    texts = scene.texts
    rows = tuple(
        (str(e.index), texts(f"entry.{e.kind}") if texts.has(f"entry.{e.kind}") else e.kind,
         e.about, when(e.time))
        for e in state.newest
    )  # fmt: skip
    head = tuple(texts(f"column.{n}") for n in ("entry", "kind", "about", "time"))
    caption = texts("log.entries_caption", shown=len(rows), all=state.size)
    return (Table(caption, head, rows, frozenset({0})),)


def _artefacts(scene: Scene, records: Records) -> tuple[Block, ...]:
    """Return which checkpoint each of the newest versions carries, and who witnessed it."""
    texts, rows = scene.texts, list[tuple[Cell, ...]]()
    models = records.models(most=25)
    found = scene.verifier.judge_within([scene.models / m.folder for m in models], SECONDS)
    for model in models:
        judgement = found[scene.models / model.folder]
        if judgement is None or not judgement.is_whole:
            continue
        view = log_view(ArtefactFiles(scene.models / model.folder))
        names = "" if judgement.verdict is None else ", ".join(judgement.verdict.witnesses)
        size = "–" if view is None else str(view.size)
        rows.append((model_link(model.name, model.version), size, names or "–"))
    if not rows:
        return (Notice("quiet", texts("log.no_artefacts"), ()),)
    head = tuple(texts(f"column.{n}") for n in ("model", "log_size", "witnesses"))
    return (Table(texts("log.artefacts_caption"), head, tuple(rows), frozenset({1})),)
