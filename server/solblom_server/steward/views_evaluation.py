"""How good a version is, where, and for whom: exact in a simulation, elsewhere released with noise (rule 9)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from solblom_models.metrics import Estimate
from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import (
    Block,
    Cell,
    English,
    Figure,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
)
from solblom_server.steward.figures import KINDS, Row, forest, reliability
from solblom_server.steward.scene import Scene, Subject, interval, number
from solblom_server.steward.views_model import model_frame

Metrics = Mapping[str, Any]
RANKING = ("top_1", "top_5", "top_10", "mrr", "macro_top_1", "rare_top_1")
DECISIONS = ("sensitivity_at_95_specificity", "balanced_accuracy", "f1", "kappa")
RELEASED = ("auroc", "sensitivity", "specificity", "prevalence", "top_1", "top_5", "top_10")


def evaluation_page(scene: Scene, subject: Subject) -> Page:
    """Return how good a version is."""
    files = subject.files
    sections = () if files is None else evaluation_sections(scene, files)
    return model_frame(scene, subject, "evaluation", sections)


def evaluation_sections(scene: Scene, files: ArtefactFiles) -> tuple[Section, ...]:
    """Return what the report has figures for, and say what it has none for."""
    report, texts = files.evaluation, scene.texts
    sections: list[Section] = []
    if report.get("simulation") and report.get("sites"):
        sections += _exact(scene, report)
    elif report.get("simulation"):
        reason = English(str(report.get("reason", "")))
        block = Notice("quiet", texts("eval.not_done"), (reason,))
        sections.append(Section("sites", texts("eval.sites"), (block,)))
    else:
        block = Notice("quiet", texts("eval.rule_9"), (texts("eval.rule_9_more"),))
        sections.append(Section("sites", texts("eval.sites"), (block,)))
    sections.append(Section("released", texts("eval.released"), _released(scene, report)))
    return tuple(sections)


def _exact(scene: Scene, report: Metrics) -> list[Section]:
    texts, ranked = scene.texts, report.get("measure") == "ranking"
    found = [
        Section("sites", texts("eval.sites"), _by_site(scene, report)),
        Section("all", texts("eval.all"), (_over_all(scene, report), *_notes(report))),
        Section("without", texts("eval.without"), _without(scene, report)),
    ]
    if not ranked:
        found.append(Section("calibration", texts("eval.calibration"), _calibration(scene, report)))
    found.append(Section("subgroups", texts("eval.subgroups"), _subgroups(scene, report)))
    if any("apart_from_others" in site for site in report["sites"]):
        found.append(Section("apart", texts("eval.apart"), _apart(scene, report)))
    return found


def measure_of(report: Metrics) -> str:
    """Return the report's headline figure: how often the right disease stood first, or the AUROC."""
    return "top_1" if report.get("measure") == "ranking" else "auroc"


def estimate(metrics: Metrics | None, measure: str) -> Estimate | None:
    """Return a figure with its interval; None where it is not shown."""
    value = None if metrics is None else metrics.get(measure)
    if value is None:
        return None
    if isinstance(value, list):
        return Estimate(*value)
    low, high = metrics[f"{measure}_interval"] if metrics else (value, value)
    return Estimate(value, low, high)


def _kinds(report: Metrics) -> list[str]:
    # An intercept changes no order of patients: its area is that of the federated model.
    return [kind for kind in KINDS if kind in report["all"] and kind != "own_intercept"]


def _words(scene: Scene) -> dict[str, str]:
    return {kind: scene.texts(f"kind.{kind}") for kind in KINDS}


def _by_site(scene: Scene, report: Metrics) -> tuple[Block, ...]:
    """Return the forest plot: each hospital, and all of them, under each kind of model."""
    texts, measure, kinds = scene.texts, measure_of(report), _kinds(report)
    lines = [(site["site"], site["metrics"]) for site in report["sites"]]
    lines.append((texts("eval.all_row"), report["all"]))
    rows = [Row(name, {k: estimate(of.get(k), measure) for k in kinds}) for name, of in lines]
    picture = forest(
        rows,
        _words(scene),
        axis=texts(f"measure.{measure}_axis"),
        hidden=texts("eval.too_few"),
        title=texts("eval.sites_caption"),
    )
    patients = {site["site"]: str(site.get("test_patients", "–")) for site in report["sites"]}
    cells = tuple(
        (name, patients.get(name, str(_sum(report))),
         *(_shown(scene, of.get(kind), measure) for kind in kinds))
        for name, of in lines
    )  # fmt: skip
    head = (
        texts("column.hospital"),
        texts("column.test_patients"),
        *(texts(f"kind.{k}") for k in kinds),
    )
    table = Table(texts("eval.sites_table", measure=texts(f"measure.{measure}")), head, cells,
                  frozenset(range(1, len(kinds) + 2)))  # fmt: skip
    alt = texts("eval.sites_alt", measure=texts(f"measure.{measure}"),
                federated=interval(_list(estimate(report["all"].get("federated"), measure))))  # fmt: skip
    return (_worst(scene, report), Figure(picture, alt, texts("eval.sites_caption"), table))


def _sum(report: Metrics) -> int:
    return sum(int(site.get("test_patients", 0)) for site in report["sites"])


def _list(found: Estimate | None) -> list[float] | None:
    return None if found is None else [found.value, found.low, found.high]


def _shown(scene: Scene, metrics: Metrics | None, measure: str) -> Cell:
    found = estimate(metrics, measure)
    if found is None:
        reason = "" if metrics is None else str(metrics.get("reason") or "")
        return English(reason) if reason else scene.texts("eval.too_few")
    return interval(_list(found))


def _worst(scene: Scene, report: Metrics) -> Block:
    texts, worst = scene.texts, report.get("worst_site")
    name = worst.get("site") if isinstance(worst, dict) else worst
    if not name:
        return Paragraph((texts("eval.no_worst"),))
    site = next((s for s in report["sites"] if s["site"] == name), None)
    found = None if site is None else estimate(site["metrics"]["federated"], measure_of(report))
    value = "" if found is None else f" {interval(_list(found))}"
    return Notice("quiet", texts("eval.worst", site=name), (texts("eval.worst_more") + value,))


def _over_all(scene: Scene, report: Metrics) -> Table:
    """Return every figure over all hospitals, for each kind of model."""
    texts, whole = scene.texts, report["all"]
    kinds = [kind for kind in KINDS if kind in whole]
    names = [n for n in (*RANKING, "auroc", "auprc", *DECISIONS, "accuracy", "brier", "calibration_error")
             if any(n in whole[kind] for kind in kinds)]  # fmt: skip
    rows = tuple(
        (texts(f"measure.{name}"), *(_value(whole[kind], name) for kind in kinds)) for name in names
    )
    head = (texts("column.measure"), *(texts(f"kind.{kind}") for kind in kinds))
    return Table(texts("eval.all_caption"), head, rows, frozenset(range(1, len(kinds) + 1)))


def _value(metrics: Metrics, name: str) -> str:
    if metrics.get(name) is None:
        return "–"
    if isinstance(metrics[name], list) or f"{name}_interval" in metrics:
        return interval(_list(estimate(metrics, name)))
    return number(float(metrics[name]))


def _notes(report: Metrics) -> tuple[Block, ...]:
    lines = [
        English(str(report[name])) for name in ("kind", "baselines", "note") if report.get(name)
    ]
    return tuple(Paragraph((line,)) for line in lines)


def _without(scene: Scene, report: Metrics) -> tuple[Block, ...]:
    """Return each hospital under a model that was trained without it: what a hospital outside may expect."""
    texts, measure = scene.texts, measure_of(report)
    sites = [site for site in report["sites"] if site.get("without_this_hospital")]
    if not sites:
        return (Notice("quiet", texts("eval.no_without"), ()),)
    rows = [
        Row(site["site"], {"federated": estimate(site["metrics"]["federated"], measure),
                           "without_this_hospital": estimate(site["without_this_hospital"], measure)})
        for site in sites
    ]  # fmt: skip
    picture = forest(
        rows,
        _words(scene),
        axis=texts(f"measure.{measure}_axis"),
        hidden=texts("eval.too_few"),
        title=texts("eval.without_caption"),
    )
    cells = tuple(
        (site["site"], _shown(scene, site["metrics"]["federated"], measure),
         _shown(scene, site["without_this_hospital"], measure))
        for site in sites
    )  # fmt: skip
    head = (texts("column.hospital"), texts("kind.federated"), texts("kind.without_this_hospital"))
    table = Table(texts("eval.without_caption"), head, cells, frozenset({1, 2}))
    return (Figure(picture, texts("eval.without_alt"), texts("eval.without_caption"), table),)


def _calibration(scene: Scene, report: Metrics) -> tuple[Block, ...]:
    """Return how far probabilities are from what happened, by hospital."""
    texts = scene.texts
    kinds = [kind for kind in KINDS if kind in report["all"]]
    lines = [(site["site"], site["metrics"]) for site in report["sites"]]
    lines.append((texts("eval.all_row"), report["all"]))

    def gap(metrics: Metrics | None) -> Estimate | None:
        value = None if metrics is None else metrics.get("calibration_error")
        return None if value is None else Estimate(value, value, value)

    rows = [Row(name, {kind: gap(of.get(kind)) for kind in kinds}) for name, of in lines]
    picture = forest(
        rows,
        _words(scene),
        axis=texts("measure.calibration_axis"),
        hidden=texts("eval.too_few"),
        title=texts("eval.calibration_caption"),
    )
    head = (texts("column.hospital"), *(texts(f"kind.{kind}") for kind in kinds))
    cells = tuple((name, *(_gap_and_brier(of.get(kind)) for kind in kinds)) for name, of in lines)
    table = Table(texts("eval.calibration_table"), head, cells, frozenset(range(1, len(kinds) + 1)))
    alt = texts("eval.calibration_alt")
    return (Figure(picture, alt, texts("eval.calibration_caption"), table),
            Paragraph((texts("eval.calibration_more"),)))  # fmt: skip


def _gap_and_brier(metrics: Metrics | None) -> str:
    if metrics is None or metrics.get("calibration_error") is None:
        return "–"
    return f"{metrics['calibration_error']:.3f} · {number(metrics.get('brier'))}"


def _begins(band: str) -> tuple[float, str]:
    """Return where a band begins: canonical JSON puts bands by their letters, people by their numbers."""
    found = re.search(r"[0-9]+", band)
    begins = -1.0 if band.startswith("below") or found is None else float(found[0])
    return begins, band


def _subgroups(scene: Scene, report: Metrics) -> tuple[Block, ...]:
    texts, measure = scene.texts, measure_of(report)
    groups = [
        (f"{name.replace('_', ' ')}: {value}", found)
        for name, values in (report.get("subgroups") or {}).items()
        for value, found in sorted(values.items(), key=lambda item: _begins(item[0]))
    ]
    if not groups:
        return (Notice("quiet", texts("eval.no_subgroups"), (texts("eval.no_subgroups_more"),)),)
    rows = [Row(name, {"federated": estimate(found, measure)}) for name, found in groups]
    picture = forest(
        rows,
        _words(scene),
        axis=texts(f"measure.{measure}_axis"),
        hidden=texts("eval.too_few"),
        title=texts("eval.subgroups_caption"),
    )
    cells = tuple(
        (name, str(found.get("patients", "–")), _shown(scene, found, measure))
        for name, found in groups
    )
    head = (texts("column.group"), texts("column.test_patients"), texts(f"measure.{measure}"))
    table = Table(texts("eval.subgroups_caption"), head, cells, frozenset({1, 2}))
    return (Figure(picture, texts("eval.subgroups_alt"), texts("eval.subgroups_caption"), table),
            Paragraph((texts("eval.subgroups_more"),)))  # fmt: skip


def _apart(scene: Scene, report: Metrics) -> tuple[Block, ...]:
    """Return how far each hospital's patients are from the others'."""
    texts = scene.texts
    rows = tuple(
        (site["site"], number(site["apart_from_others"].get("distance")),
         number(site["apart_from_others"].get("by_chance")))
        for site in report["sites"]
        if site.get("apart_from_others")
    )  # fmt: skip
    head = tuple(texts(f"column.{n}") for n in ("hospital", "distance", "by_chance"))
    return (Table(texts("eval.apart_caption"), head, rows, frozenset({1, 2})),
            Paragraph((texts("eval.apart_more"),)))  # fmt: skip


def _released(scene: Scene, report: Metrics) -> tuple[Block, ...]:
    """Return what left hospitals: sums over all of them with noise, charged; and what a policy lets out by name."""
    texts, blocks = scene.texts, list[Block]()
    for record in report.get("released", []):
        if record["status"] != "released":
            line = English(str(record.get("reason", "")))
            blocks.append(Notice("warn", texts("eval.release_missing"), (line,)))
        elif record["kind"] == "evaluate":
            blocks += _release(scene, record)
        elif record["kind"] == "describe":
            blocks.append(_table_one(scene, record))
    if not blocks:
        return (
            Notice("quiet", texts("eval.nothing_released"), (texts("eval.nothing_released_more"),)),
        )
    return tuple(blocks)


def _release(scene: Scene, record: Metrics) -> list[Block]:
    texts, metrics = scene.texts, record["metrics"]
    if metrics.get("reason") is not None:
        return [Notice("quiet", texts("eval.release_hidden"), (English(str(metrics["reason"])),))]
    rows = tuple(
        (texts(f"measure.{name}"), interval([metrics[name], *metrics[f"{name}_interval"]]))
        for name in RELEASED
        if metrics.get(name) is not None
    )
    caption = texts("eval.release_caption", hospitals=len(record["sites"]),
                    deviation=record["noise_deviation"])  # fmt: skip
    blocks: list[Block] = [
        Table(caption, (texts("column.measure"), texts("column.value")), rows, frozenset({1}))
    ]
    points = [p for p in metrics.get("calibration", []) if p["observed"] is not None]
    if points:
        blocks.append(_diagram(scene, points))
    named = tuple(
        (site, f"{v} [{low}, {high}]") for site, (v, low, high) in record["named"].items()
    )
    if named:
        head = (texts("column.hospital"), texts("measure.auroc"))
        blocks.append(Table(texts("eval.outside"), head, named, frozenset({1})))
    return blocks


def _diagram(scene: Scene, points: Sequence[Metrics]) -> Figure:
    texts = scene.texts
    found = [(float(p["score"]), Estimate(p["observed"], *p["observed_interval"])) for p in points]
    picture = reliability(
        found,
        axis=texts("eval.predicted"),
        side=texts("eval.observed"),
        best=texts("eval.best_line"),
        title=texts("eval.diagram_caption"),
    )
    rows = tuple((f"{score:.2f}", interval(_list(e))) for score, e in found)
    head = (texts("eval.predicted"), texts("eval.observed"))
    table = Table(texts("eval.diagram_caption"), head, rows, frozenset({0, 1}))
    return Figure(picture, texts("eval.diagram_alt"), texts("eval.diagram_caption"), table)


def _table_one(scene: Scene, record: Metrics) -> Table:
    texts = scene.texts
    rows = tuple(
        (str(row["variable"]), str(cell), str(count))
        for row in record["table"]
        for cell, count in zip(row["cells"], row["counts"], strict=True)
    )
    head = tuple(texts(f"column.{n}") for n in ("variable", "cell", "patients"))
    caption = texts("eval.table_one", hospitals=len(record["sites"]),
                    deviation=record["noise_deviation"])  # fmt: skip
    return Table(caption, head, rows, frozenset({2}))
