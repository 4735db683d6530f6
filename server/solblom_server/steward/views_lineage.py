"""Where a version comes from, down to digests: study, receipts, rounds, artefact, evaluation, status."""

from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import (
    Badge,
    Block,
    Cell,
    Code,
    Figure,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
)
from solblom_server.steward.checkpoint_view import log_view
from solblom_server.steward.figures import Box, lineage, scatter
from solblom_server.steward.scene import Scene, Subject, number, short_digest
from solblom_server.steward.screening import Screened, Screening, screen
from solblom_server.steward.views_model import model_frame

MOST_SITES = 6  # boxes of hospitals in the picture; the table has them all
MOST_ROWS = 400


def lineage_page(scene: Scene, subject: Subject) -> Page:
    """Return where a version comes from."""
    files = subject.files
    sections = () if files is None else lineage_sections(scene, subject, files)
    return model_frame(scene, subject, "lineage", sections)


def lineage_sections(scene: Scene, subject: Subject, files: ArtefactFiles) -> tuple[Section, ...]:
    """Return the graph with its table, and every round's digests."""
    texts = scene.texts
    table = Table(
        texts("lineage.table"),
        tuple(texts(f"column.{n}") for n in ("step", "what", "digest")),
        _steps(scene, subject, files),
    )
    figure = Figure(
        _graph(scene, subject, files), texts("lineage.alt"), texts("lineage.caption"), table
    )
    return (
        Section("graph", texts("lineage.graph"), (figure,)),
        Section("rounds", texts("lineage.rounds"), _rounds(scene, files)),
    )


def _steps(scene: Scene, subject: Subject, files: ArtefactFiles) -> tuple[tuple[Cell, ...], ...]:
    texts, manifest = scene.texts, files.manifest
    training, rounds = manifest["training"], manifest["training"]["rounds"]
    rows: list[tuple[Cell, ...]] = [
        (texts("lineage.study"), str(manifest.get("title", "")), Code(str(training["study"])))
    ]
    for site in sorted(manifest["sites"]):
        count = sum(site in r["results"] for r in files.rounds)
        what = texts("lineage.receipts_of", site=site, count=count)
        rows.append((texts("lineage.receipts"), what, Code(_receipts_digest(files, site))))
    if rounds:
        rows += [
            (texts("lineage.start"), texts("lineage.before_round"), Code(str(rounds[0]["base"]))),
            (texts("lineage.rounds_step"), texts("lineage.after_round", round=rounds[-1]["round"]),
             Code(str(rounds[-1]["result"]))),
        ]  # fmt: skip
    log = log_view(files)
    rows += [
        (texts("lineage.weights"), "model/weights.safetensors", Code(str(manifest["model"]["weights"]))),
        (texts("lineage.artefact"), subject.ref, Code(subject.artefact or "")),
        (texts("lineage.evaluation"), "evaluation/report.json", Code(_file(files, "evaluation/report.json"))),
        (texts("lineage.attestation"), "attestations/model.dsse.json", Code(files.envelope_digest)),
        (texts("lineage.log"), texts("lineage.no_log") if log is None
            else texts("lineage.log_size", size=log.size), "–" if log is None else Code(log.root)),
        (texts("lineage.status"), texts(f"status.{subject.judgement.status or 'unknown'}"), "–"),
    ]  # fmt: skip
    return tuple(rows)


def _file(files: ArtefactFiles, path: str) -> str:
    return "sha256:" + str(files.manifest["files"].get(path, {}).get("sha256", ""))


def _receipts_digest(files: ArtefactFiles, site: str) -> str:
    """Return the digest of a hospital's last receipt; its others stand in the table of rounds."""
    given = [r["results"][site]["receipt"] for r in files.rounds if site in r["results"]]
    return str(given[-1]) if given else "–"


def _graph(scene: Scene, subject: Subject, files: ArtefactFiles) -> bytes:
    texts, manifest = scene.texts, files.manifest
    training = manifest["training"]
    rounds, sites = training["rounds"], sorted(manifest["sites"])
    shown = sites if len(sites) <= MOST_SITES else sites[: MOST_SITES - 1]
    boxes = [Box(texts("lineage.study"), (short_digest(training["study"]),), 0, 0.0)]
    for place, site in enumerate(shown):
        count = sum(site in r["results"] for r in files.rounds)
        boxes.append(Box(site, (texts("lineage.receipts_count", count=count),), 1, float(place)))
    if len(shown) < len(sites):
        more = texts("lineage.more_sites", count=len(sites) - len(shown))
        boxes.append(Box(more, (), 1, float(len(shown))))
    count, middle = len(boxes) - 1, (len(boxes) - 2) / 2
    boxes[0] = Box(boxes[0].title, boxes[0].lines, 0, middle)
    last = str(rounds[-1]["result"]) if rounds else ""
    boxes += [
        Box(texts("lineage.rounds_box", count=len(rounds)), (short_digest(last),), 2, middle),
        Box(texts("lineage.artefact"), (short_digest(subject.artefact or ""),), 3, middle),
        Box(texts("lineage.evaluation"), (short_digest(_file(files, "evaluation/report.json")),), 4, middle - 1),
        Box(texts("lineage.attestation"), (short_digest(files.envelope_digest),), 4, middle),
        Box(texts("lineage.status"), (texts(f"status.{subject.judgement.status or 'unknown'}"),), 4, middle + 1),
    ]  # fmt: skip
    low = min(box.row for box in boxes)
    boxes = [Box(b.title, b.lines, b.column, b.row - min(low, 0.0)) for b in boxes]
    hospitals, after = range(1, count + 1), count + 1
    arrows = [(0, i) for i in hospitals] + [(i, after) for i in hospitals] + [(after, after + 1)]
    arrows += [(after + 1, after + i) for i in (2, 3, 4)]
    rows = max(box.row for box in boxes) + 1
    return lineage(boxes, arrows, rows=rows, title=texts("lineage.caption"))


def _rounds(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    """Return every receipt and update by round and hospital."""
    texts = scene.texts
    rows: list[tuple[Cell, ...]] = []
    for entry in files.rounds:
        for site, found in sorted(entry["results"].items()):
            rows.append((str(entry["round"]), site, Code(found["update"]), Code(found["receipt"])))
    head = tuple(texts(f"column.{n}") for n in ("round", "hospital", "update", "receipt"))
    caption = texts("lineage.rounds_caption", shown=min(len(rows), MOST_ROWS), all=len(rows))
    return (Table(caption, head, tuple(rows[:MOST_ROWS]), frozenset({0})),)


def updates_page(scene: Scene, subject: Subject) -> Page:
    """Return how the hospitals' updates compare."""
    files = subject.files
    sections = () if files is None else updates_sections(scene, files)
    return model_frame(scene, subject, "updates", sections)


def updates_sections(scene: Scene, files: ArtefactFiles) -> tuple[Section, ...]:
    """Return norms and directions of the stored updates; where none are stored, that and why."""
    texts, found = scene.texts, screen(files)
    if found is None:
        notice = Notice("quiet", texts("updates.none"), (texts("updates.none_more"),))
        return (Section("updates", texts("updates.heading"), (notice,)),)
    flagged = [u for u in found.updates if u.is_flagged]
    summary = (
        Notice(
            "warn", texts.count("updates.flagged", len(flagged)), (texts("updates.flagged_more"),)
        )
        if flagged
        else Notice("good", texts("updates.no_flag"), (texts("updates.no_flag_more"),))
    )
    sizes = _picture(scene, found, "norm")
    directions = _picture(scene, found, "cosine")
    return (
        Section("norms", texts("updates.norms"), (summary, sizes)),
        Section("directions", texts("updates.directions"),
                (directions, Paragraph((texts("updates.directions_more"),)))),
        Section("table", texts("updates.table"), (_table(scene, found),)),
    )  # fmt: skip


def _picture(scene: Scene, found: Screening, what: str) -> Figure:
    texts, values = scene.texts, dict[str, list[tuple[int, float, bool]]]()
    for update in found.updates:
        value = update.norm if what == "norm" else update.cosine
        if value is not None:
            values.setdefault(update.site, []).append((update.round, value, update.is_flagged))
    caption = texts(f"updates.{what}_caption")
    picture = scatter(
        sorted(values),
        values,
        axis=texts(f"updates.{what}_axis"),
        rounds_axis=texts("run.round_axis"),
        flagged=texts("updates.ringed"),
        title=caption,
    )
    return Figure(picture, texts(f"updates.{what}_alt", hospitals=len(values)), caption)


def _table(scene: Scene, found: Screening) -> Table:
    texts = scene.texts
    rows = tuple(_row(scene, update) for update in found.updates[:MOST_ROWS])
    head = tuple(texts(f"column.{n}") for n in ("round", "hospital", "norm", "cosine", "state"))
    caption = texts("updates.table_caption", shown=len(rows), all=len(found.updates))
    return Table(caption, head, rows, frozenset({0, 2, 3}))


def _row(scene: Scene, update: Screened) -> tuple[Cell, ...]:
    state = (
        Badge(scene.texts("updates.apart"), "warn")
        if update.is_flagged
        else Badge(scene.texts("updates.among"), "quiet")
    )
    return (
        str(update.round),
        update.site,
        number(update.norm, ".4f"),
        number(update.cosine, "+.3f"),
        state,
    )
