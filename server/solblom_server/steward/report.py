"""A version's views in one file, to be kept beside it, sent, or printed."""

import datetime as dt
from dataclasses import replace

from solblom_server.steward.blocks import Link, Page
from solblom_server.steward.dpo_sheet import dpo_page
from solblom_server.steward.records import Records, StudyRow
from solblom_server.steward.rendering import render_report
from solblom_server.steward.scene import Scene, Subject
from solblom_server.steward.views_compare import comparison_page
from solblom_server.steward.views_evaluation import evaluation_page
from solblom_server.steward.views_lineage import lineage_page, updates_page
from solblom_server.steward.views_model import card_page, model_page, signatures_page, verify_page
from solblom_server.steward.views_run import run_page
from solblom_server.steward.views_study import study_page

SUBJECT_PAGES = (
    evaluation_page,
    lineage_page,
    updates_page,
    signatures_page,
    verify_page,
    card_page,
)


def model_report(scene: Scene, records: Records, subject: Subject, *, now: dt.datetime) -> str:
    """Return the report of a version as HTML. One that does not verify gives its reason and no figure."""
    pages: list[Page] = [model_page(scene, records, subject)]
    row = records.model(subject.name, subject.version)
    if subject.files is None:
        pages.append(verify_page(scene, subject))
    else:
        if row is not None:
            run = records.run(row.run)
            pages += [
                study_page(scene, records, records.study(run.study)),
                run_page(scene, records, run),
            ]
        pages += [replace(view(scene, subject), top=()) for view in SUBJECT_PAGES]
        pages += [comparison_page(scene, n) for n in range(1, len(scene.comparisons) + 1)]
    title = scene.texts("report.title", ref=subject.ref)
    return render_report(scene, tuple(_plain(page) for page in pages), title=title, made=_made(now))


def dpo_report(scene: Scene, records: Records, study: StudyRow, *, now: dt.datetime) -> str:
    """Return the sheet for a data protection officer as HTML."""
    page = _plain(dpo_page(scene, records, study))
    return render_report(scene, (page,), title=page.title, made=_made(now))


def _plain(page: Page) -> Page:
    """Return a page without ways to others: a file has none."""
    return replace(page, crumbs=tuple[Link, ...](), tabs=())


def _made(now: dt.datetime) -> str:
    return f"{now:%Y-%m-%d %H:%M} UTC"
