"""The first page: studies, runs and models, and whether they verify."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from solblom_protocol.errors import SolblomError
from solblom_server.database import RunRow
from solblom_server.steward.blocks import (
    Block,
    Cell,
    Link,
    Notice,
    Page,
    Section,
    Table,
)
from solblom_server.steward.findings import why_bad
from solblom_server.steward.records import ModelRow, Records, StudyRow, read_document
from solblom_server.steward.scene import (
    Scene,
    model_link,
    run_badge,
    run_link,
    status_badge,
    study_link,
    verdict_badge,
    when,
)
from solblom_server.steward.verification import Judgement

PER_PAGE = 25
SECONDS = 0.2  # for verdicts that are not known yet; the rest are made in the background


def home_page(scene: Scene, records: Records, *, page: int = 1) -> Page:
    """Return the newest studies, runs and models; `page` 2 and on show older ones."""
    texts, start = scene.texts, (page - 1) * PER_PAGE
    models = records.models(most=PER_PAGE, start=start)
    runs = records.runs(most=PER_PAGE, start=start)
    studies = records.studies(most=PER_PAGE, start=start)
    judgements = scene.verifier.judge_within([scene.models / m.folder for m in models], SECONDS)
    most = max(records.count(table) for table in ("models", "runs", "studies"))
    sections = (
        Section("models", texts("home.models"), _models(scene, models, judgements)),
        Section("studies", texts("home.studies"), _studies(scene, studies)),
        Section("runs", texts("home.runs"), _runs(scene, runs)),
    )
    older = _older(scene, page, most)
    return Page(
        title=texts("home.title"),
        lead=(texts("home.lead"),),
        top=_bad_ones(scene, models, judgements),
        sections=(*sections, *older),
    )


def model_rows(
    scene: Scene, models: Sequence[ModelRow], judgements: Mapping[Path, Judgement | None]
) -> tuple[tuple[Cell, ...], ...]:
    """Return a row for each version. Of one that does not verify, nothing but its name is shown."""
    texts, rows = scene.texts, []
    for model in models:
        folder = scene.models / model.folder
        found = judgements.get(folder)
        status = status_badge(texts, None if found is None or not found.is_whole else found.status)
        rows.append((
            model_link(model.name, model.version), verdict_badge(texts, found), status,
            run_link(model.run), when(model.registered),
        ))  # fmt: skip
    return tuple(rows)


def _models(
    scene: Scene, models: Sequence[ModelRow], judgements: Mapping[Path, Judgement | None]
) -> tuple[Block, ...]:
    texts = scene.texts
    if not models:
        return (Notice("quiet", texts("home.no_models"), (texts("home.no_models_more"),)),)
    head = ("model", "verified", "status", "run", "registered")
    return (
        Table(
            texts("home.models_caption"),
            tuple(texts(f"column.{name}") for name in head),
            model_rows(scene, models, judgements),
        ),
    )


def _bad_ones(
    scene: Scene, models: Sequence[ModelRow], judgements: Mapping[Path, Judgement | None]
) -> tuple[Block, ...]:
    lines: list[Cell] = []
    for model in models:
        found = judgements.get(scene.models / model.folder)
        if found is not None and not found.is_whole:
            lines += [model_link(model.name, model.version), why_bad(scene.texts, found)]
    if not lines:
        return ()
    return (Notice("bad", scene.texts("home.bad_models"), tuple(lines)),)


def _studies(scene: Scene, studies: Sequence[StudyRow]) -> tuple[Block, ...]:
    texts = scene.texts
    if not studies:
        return (Notice("quiet", texts("home.no_studies"), (texts("home.no_studies_more"),)),)
    rows = tuple(
        (study_link(s.digest, s.name), _title(s), str(s.runs), when(s.newest)) for s in studies
    )
    head = ("study", "title", "runs", "newest_run")
    return (
        Table(
            texts("home.studies_caption"),
            tuple(texts(f"column.{name}") for name in head),
            rows,
            frozenset({2}),
        ),
    )


def _title(study: StudyRow) -> str:
    try:
        return read_document(study.envelope).study.study.title
    except SolblomError:
        return "–"


def _runs(scene: Scene, runs: Sequence[RunRow]) -> tuple[Block, ...]:
    texts = scene.texts
    if not runs:
        return (Notice("quiet", texts("home.no_runs"), (texts("home.no_runs_more"),)),)
    head = ("run", "status", "hospitals", "started", "ended")
    return (
        Table(
            texts("home.runs_caption"),
            tuple(texts(f"column.{name}") for name in head),
            run_rows(scene, runs),
            frozenset({2}),
        ),
    )


def run_rows(scene: Scene, runs: Sequence[RunRow]) -> tuple[tuple[Cell, ...], ...]:
    """Return a row for each run."""
    return tuple(
        (
            run_link(run.id),
            run_badge(scene.texts, run.status),
            str(len(run.roster.split(","))),
            when(run.started),
            when(run.ended),
        )
        for run in runs
    )


def _older(scene: Scene, page: int, most: int) -> tuple[Section, ...]:
    texts, links = scene.texts, []
    if page > 1:
        links.append(Link(texts("home.newer"), f"/?page={page - 1}"))
    if page * PER_PAGE < most:
        links.append(Link(texts("home.older"), f"/?page={page + 1}"))
    if not links:
        return ()
    table = Table(texts("home.pages"), (texts("home.pages"),), tuple((link,) for link in links))
    return (Section("pages", texts("home.pages"), (table,)),)
