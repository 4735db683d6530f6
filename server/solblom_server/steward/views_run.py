"""A run: its rounds, who took part and who did not and why, what it cost, and what went wrong."""

from collections.abc import Sequence
from typing import Any

from solblom_server.database import ReplyRow, RoundRow, RunRow
from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import (
    Badge,
    Block,
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
from solblom_server.steward.curves import round_curve
from solblom_server.steward.figures import participation
from solblom_server.steward.findings import coded, meaning
from solblom_server.steward.records import Incident, Records, read_document
from solblom_server.steward.scene import (
    Scene,
    bad_notice,
    day_and_time,
    digest_cell,
    model_link,
    run_badge,
    run_link,
    study_link,
    when,
)
from solblom_server.steward.views_study import study_epsilon
from solblom_verify.wording import format_delta

WAITING = "SB-219"
TONES: dict[str, Any] = {
    "trained": "good",
    "late": "warn",
    "refused": "bad",
    "waiting": "quiet",
    "invalid": "bad",
    "missing": "warn",
}
KIND_STATES = {"result": "trained", "late": "late", "invalid": "invalid"}
RANK = ("trained", "refused", "waiting", "late", "invalid", "missing")
MOST_ROUNDS = 60  # in a table for people; the picture has them all


def run_page(scene: Scene, records: Records, run: RunRow) -> Page:
    """Return the page of a run."""
    texts = scene.texts
    rounds, replies = records.rounds(run.id), records.replies(run.id)
    top: list[Block] = []
    if run.simulation:
        top.append(Notice("warn", texts("run.simulation"), (texts("run.simulation_more"),)))
    if run.reason:
        top.append(Notice("bad", texts("run.stopped"), (coded(texts, run.reason),)))
    return Page(
        title=run.id,
        eyebrow=texts("run.eyebrow"),
        top=tuple(top),
        crumbs=(Link(texts("nav.home"), "/"), study_link(run.study, run.name)),
        sections=(
            Section("facts", texts("run.facts"), (_facts(scene, records, run, rounds),)),
            Section("curve", texts("run.curve"), _curve(scene, records, run)),
            Section("timeline", texts("run.timeline"), timeline(scene, run, rounds, replies)),
            Section("privacy", texts("run.privacy"), _privacy(scene, records, run)),
            Section("audit", texts("run.audit"), audit(scene, run.id)),
            Section("rounds", texts("run.rounds"), _rounds(scene, rounds)),
            Section("incidents", texts("run.incidents"), run_incidents(scene, records, run)),
        ),
    )


def _facts(scene: Scene, records: Records, run: RunRow, rounds: Sequence[RoundRow]) -> Facts:
    texts, document = scene.texts, read_document(run.envelope)
    model = records.model_of_run(run.id)
    closed = sum(row.status == "closed" for row in rounds)
    return Facts((
        (texts("column.status"), run_badge(texts, run.status)),
        (texts("column.study"), study_link(run.study, document.study.study.title)),
        (texts("run.model"), "–" if model is None else model_link(model.name, model.version)),
        (texts("run.progress"), texts("run.progress_value", closed=closed,
                                      rounds=document.study.training.rounds)),
        (texts("column.hospitals"), ", ".join(run.roster.split(","))),
        (texts("run.transport"), Code(run.transport)),
        (texts("column.started"), day_and_time(run.started)),
        (texts("column.ended"), when(run.ended)),
    ))  # fmt: skip


def _curve(scene: Scene, records: Records, run: RunRow) -> tuple[Block, ...]:
    model, texts = records.model_of_run(run.id), scene.texts
    if model is None:
        return (Notice("quiet", texts("curve.no_model"), (texts("curve.no_model_more"),)),)
    folder = scene.models / model.folder
    judgement = scene.verifier.judge(folder)
    if not judgement.is_whole:
        return (bad_notice(scene, judgement),)
    return round_curve(scene, ArtefactFiles(folder))


def states(
    sites: Sequence[str], rounds: Sequence[RoundRow], replies: Sequence[ReplyRow]
) -> dict[tuple[str, int], tuple[str, str]]:
    """Return (state, code) of each hospital in each round; an update that arrived counts before all else."""
    found = {(site, row.round): ("missing", "") for row in rounds for site in sites}
    for reply in replies:
        place, state = (reply.site, reply.round), KIND_STATES.get(reply.kind, "refused")
        if reply.kind == "refusal" and reply.code == WAITING:
            state = "waiting"
        if place in found and RANK.index(state) < RANK.index(found[place][0]):
            found[place] = (state, reply.code or "" if state != "trained" else "")
    return found


def timeline(
    scene: Scene, run: RunRow, rounds: Sequence[RoundRow], replies: Sequence[ReplyRow]
) -> tuple[Block, ...]:
    """Return who did what in which round, as a picture and as a table, and what each code means."""
    texts, sites = scene.texts, run.roster.split(",")
    if not rounds:
        return (Notice("quiet", texts("run.no_rounds"), ()),)
    cells = states(sites, rounds, replies)
    words = {state: texts(f"state.{state}") for state in RANK}
    picture = participation(
        sites,
        [row.round for row in rounds],
        cells,
        words,
        axis=texts("run.round_axis"),
        title=texts("run.timeline"),
    )
    trained = sum(state == "trained" for state, _ in cells.values())
    alt = texts("run.timeline_alt", trained=trained, all=len(cells), hospitals=len(sites))
    blocks: list[Block] = [
        Figure(picture, alt, texts("run.timeline_caption"), _by_site(scene, sites, rounds, cells))
    ]
    codes = sorted({code for _, code in cells.values() if code})
    if codes:
        rows = tuple((Code(code), meaning(texts, code)) for code in codes)
        head = (texts("column.code"), texts("column.meaning"))
        blocks.append(Table(texts("run.codes"), head, rows))
    return tuple(blocks)


def _by_site(
    scene: Scene,
    sites: Sequence[str],
    rounds: Sequence[RoundRow],
    cells: dict[tuple[str, int], tuple[str, str]],
) -> Table:
    """Return how often each hospital did what, and in which rounds it gave no update."""
    texts, rows = scene.texts, []
    shown = [s for s in RANK if any(cell[0] == s for cell in cells.values())]
    for site in sites:
        counts = [str(sum(cells[site, r.round][0] == state for r in rounds)) for state in shown]
        apart = [
            f"{r.round}{' (' + cells[site, r.round][1] + ')' if cells[site, r.round][1] else ''}"
            for r in rounds
            if cells[site, r.round][0] != "trained"
        ]
        more = "" if len(apart) <= 12 else f", … ({len(apart)})"
        rows.append((site, *counts, ", ".join(apart[:12]) + more or "–"))
    head = (
        texts("column.hospital"),
        *(texts(f"state.{state}") for state in shown),
        texts("run.without_update"),
    )
    return Table(
        texts("run.timeline_table"), head, tuple(rows), frozenset(range(1, len(shown) + 1))
    )


def _rounds(scene: Scene, rounds: Sequence[RoundRow]) -> tuple[Block, ...]:
    texts = scene.texts
    if not rounds:
        return (Notice("quiet", texts("run.no_rounds"), ()),)
    shown = rounds if len(rounds) <= MOST_ROUNDS else [*rounds[:3], *rounds[3 - MOST_ROUNDS :]]
    rows = tuple(
        (
            str(row.round),
            when(row.opened),
            when(row.closed) if row.closed else texts("run.open"),
            digest_cell(row.result),
        )
        for row in shown
    )
    head = tuple(texts(f"column.{name}") for name in ("round", "opened", "closed", "model_after"))
    caption = texts("run.rounds_caption", shown=len(shown), all=len(rounds))
    return (Table(caption, head, rows, frozenset({0})),)


def _privacy(scene: Scene, records: Records, run: RunRow) -> tuple[Block, ...]:
    texts = scene.texts
    return (
        *study_epsilon(scene, records, records.study(run.study)),
        Paragraph((texts("run.privacy_more"),)),
    )


def audit(scene: Scene, run: str) -> tuple[Block, ...]:
    """Return what an attack on the run's settings found, where somebody ran one and its result was kept."""
    texts = scene.texts
    result = read_audit(scene, run)
    if result is None:
        command = Code(f"solblom audit privacy {run}")
        return (Notice("quiet", texts("audit.none"), (texts("audit.none_more"), command)),)
    passed = result.get("passed") is True
    auroc, tpr = result["membership_auroc"], result["tpr_at_1_percent_fpr"]
    badge = Badge(texts("audit.passed"), "good") if passed else Badge(texts("audit.failed"), "bad")
    facts = Facts((
        (texts("audit.verdict"), badge),
        (texts("audit.claimed"), f"{result['claimed']:.3f} (δ = {format_delta(result['delta'])})"),
        (texts("audit.bound"), f"{result['lower_bound']:.3f}"),
        (texts("audit.guesses"), texts("audit.guesses_value", correct=result["correct"],
                                       canaries=result["canaries"])),
        (texts("audit.membership"), f"{auroc[0]:.3f} [{auroc[1]:.3f}, {auroc[2]:.3f}]"),
        (texts("audit.tpr"), f"{tpr[0]:.3f} [{tpr[1]:.3f}, {tpr[2]:.3f}]"),
        (texts("audit.time"), day_and_time(str(result.get("time", "")))),
    ))  # fmt: skip
    return (facts, Paragraph((texts("audit.more"),)))


def run_incidents(scene: Scene, records: Records, run: RunRow) -> tuple[Block, ...]:
    """Return every answer of a run that was no update, newest first."""
    found = records.incidents(run=run.id)
    if not found:
        return (Notice("good", scene.texts("run.no_incidents"), ()),)
    return (incident_table(scene, found, with_run=False),)


def incident_table(scene: Scene, found: Sequence[Incident], *, with_run: bool) -> Table:
    """Return incidents as a table."""
    texts, rows = scene.texts, []
    for one in found:
        state = "waiting" if one.code == WAITING else _INCIDENT_STATES.get(one.kind, "refused")
        cells: list[Cell] = [
            when(one.time),
            one.site,
            texts(f"asked.{one.asked}") if texts.has(f"asked.{one.asked}") else one.asked,
            str(one.round),
            Badge(texts(f"state.{state}"), TONES[state]),
            Code(one.code) if one.code else "–",
            meaning(texts, one.code),
        ]
        rows.append((run_link(one.run), *cells) if with_run else tuple(cells))
    names = ["time", "hospital", "asked", "round", "state", "code", "meaning"]
    head = tuple(texts(f"column.{name}") for name in (["run"] if with_run else []) + names)
    return Table(texts("incidents.caption"), head, tuple(rows), frozenset({4 if with_run else 3}))


_INCIDENT_STATES = {"refusal": "refused", "late": "late", "invalid": "invalid"}


def read_audit(scene: Scene, run: str) -> dict[str, Any] | None:
    """Return the stored result of `solblom audit privacy` for a run; None where there is none of this form."""
    value = ArtefactFiles(scene.home).json(f"audits/privacy-{run}.json")
    if not isinstance(value, dict) or value.get("schema") != "solblom.audit.privacy/1":
        return None
    return value if value.get("run") == run else None
