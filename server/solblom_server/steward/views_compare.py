"""A stored comparison of two versions on the same patients, as `solblom model compare --out` wrote it at a hospital.

It has exact figures of that hospital's patients, so this view belongs on a machine where they may be. A record is
outside input: what has another form than this version writes is said not to be shown, never guessed at.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from solblom_models.metrics import Estimate
from solblom_protocol.console import read_given
from solblom_protocol.errors import ConfigurationError, RunError
from solblom_server.steward.blocks import (
    Block,
    Cell,
    Code,
    English,
    Facts,
    Figure,
    Link,
    Notice,
    Page,
    Paragraph,
    Section,
    Table,
)
from solblom_server.steward.figures import Row, forest
from solblom_server.steward.scene import Scene, interval, number

SCHEMA = "solblom.model.compare/1"
MAX_BYTES = 16 * 1024**2
MAX_PICTURE = 4 * 1024**2
OVERLAY = "calibration.svg"  # beside the record
SHARES = ("same_class", "same_tenth", "same_first", "same_first_ten", "within_tolerance")
NUMBERS = ("shared_of_first_ten", "largest_delta", "mean_delta")
MEASURES = ("auroc", "auprc", "brier", "top_1", "top_10", "mrr")
_WORDS = frozenset({"cohort from", "cohort until", "noise multiplier"})
KINDS = ("data", "code", "settings", "privacy")


def read_comparison(path: Path) -> dict[str, Any]:
    """Return a comparison record.

    Raises:
        ConfigurationError: SB-101, it cannot be read; SB-462, it is none.
    """
    data = read_given(path)
    try:
        value = json.loads(data) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ConfigurationError("SB-462", f"{path} is no record of a comparison ({SCHEMA})")
    return value


def comparisons_page(scene: Scene) -> Page:
    """Return which comparisons were given to the page."""
    texts, rows = scene.texts, list[tuple[Cell, ...]]()
    for place, path in enumerate(scene.comparisons, start=1):
        record = read_comparison(path)
        name = f"{path.parent.name}/{path.name}"
        rows.append((Link(name, f"/comparisons/{place}"), _ref(record, "old"), _ref(record, "new")))
    head = tuple(texts(f"column.{n}") for n in ("record", "older", "newer"))
    lines = (texts("compare.none_more"), Code("solblom steward serve --comparison FILE"))
    block: Block = (
        Table(texts("compare.caption"), head, tuple(rows))
        if rows
        else Notice("quiet", texts("compare.none"), lines)
    )
    return Page(
        title=texts("compare.title"),
        lead=(texts("compare.lead"),),
        crumbs=(Link(texts("nav.home"), "/"),),
        sections=(Section("records", texts("compare.records"), (block,)),),
    )


def _ref(record: Mapping[str, Any], side: str) -> str:
    found = record.get(side)
    return str(found.get("ref", "–")) if isinstance(found, dict) else "–"


def comparison_page(scene: Scene, place: int) -> Page:
    """Return one comparison.

    Raises:
        RunError: SB-503, no such record was given.
        ConfigurationError: SB-101, SB-462.
    """
    if not 1 <= place <= len(scene.comparisons):
        raise RunError("SB-503", f"There is no comparison {place}")
    path, texts = scene.comparisons[place - 1], scene.texts
    record = read_comparison(path)
    return Page(
        title=texts("compare.one_title", old=_ref(record, "old"), new=_ref(record, "new")),
        eyebrow=texts("compare.eyebrow"),
        top=(Notice("warn", texts("compare.claim"), (texts("compare.claim_more"),)),),
        crumbs=(Link(texts("nav.home"), "/"), Link(texts("compare.title"), "/comparisons")),
        sections=comparison_sections(scene, record, path.with_name(OVERLAY)),
    )


def comparison_sections(
    scene: Scene, record: Mapping[str, Any], overlay: Path
) -> tuple[Section, ...]:
    """Return agreement, gain, calibration and differences; a part of another form is said not to be shown."""
    texts = scene.texts
    parts: tuple[tuple[str, Callable[[], tuple[Block, ...]]], ...] = (
        ("summary", lambda: (_summary(scene, record),)),
        ("agreement", lambda: _agreement(scene, record)),
        ("gain", lambda: _gain(scene, record["performance"])),
        ("calibration", lambda: _overlay(scene, overlay)),
        ("differences", lambda: _differences(scene, record)),
        ("notes", lambda: tuple(Paragraph((English(str(n)),)) for n in record["notes"])),
    )
    sections = []
    for name, make in parts:
        try:
            blocks = make()
        except (KeyError, TypeError, ValueError, AttributeError):
            blocks = (Notice("warn", texts("compare.other_form"), ()),)
        if blocks:
            sections.append(Section(name, texts(f"compare.{name}"), blocks))
    return tuple(sections)


def _summary(scene: Scene, record: Mapping[str, Any]) -> Facts:
    texts = scene.texts
    return Facts((
        (texts("column.older"), (str(record["old"]["ref"]), Code(str(record["old"]["model"])))),
        (texts("column.newer"), (str(record["new"]["ref"]), Code(str(record["new"]["model"])))),
        (texts("column.patients"), str(record["patients"])),
        (texts("compare.flips"), _flips(scene, record["flips"])),
        (texts("compare.input"), Code(str(record["input"]))),
    ))  # fmt: skip


def _flips(scene: Scene, found: Mapping[str, Any]) -> Cell:
    if found["patients"] is None:
        return English(str(found["reason"]))
    if found.get("to_yes") is None:
        return str(found["patients"])
    return scene.texts(
        "compare.flips_value", all=found["patients"], yes=found["to_yes"], no=found["to_no"]
    )


def _agreement(scene: Scene, record: Mapping[str, Any]) -> tuple[Block, ...]:
    texts, found = scene.texts, record["agreement"]
    if found["reason"] is not None:
        return (Notice("quiet", texts("eval.too_few"), (English(str(found["reason"])),)),)
    rows: list[tuple[Cell, ...]] = [
        (texts(f"compare.{name}"), texts("compare.hidden") if found[name] is None else f"{100 * found[name]:.1f} %")
        for name in SHARES
        if name in found
    ]  # fmt: skip
    rows += [
        (texts(f"compare.{name}"), number(found[name], ".4f")) for name in NUMBERS if name in found
    ]
    head = (texts("column.measure"), texts("column.value"))
    return (Table(texts("compare.agreement_caption"), head, tuple(rows), frozenset({1})),)


def _gain(scene: Scene, found: Mapping[str, Any] | None) -> tuple[Block, ...]:
    texts = scene.texts
    if found is None or found["reason"] is not None:
        line = English("" if found is None else str(found["reason"]))
        return (Notice("quiet", texts("compare.no_gain"), (line,)),)
    names = [name for name in MEASURES if found.get(name)]
    cells: tuple[tuple[Cell, ...], ...] = tuple(
        (
            texts(f"measure.{n}"),
            *(interval(found[n][part]) for part in ("old", "new", "difference")),
        )
        for n in names
    )
    head = tuple(texts(f"column.{n}") for n in ("measure", "older", "newer", "difference"))
    table = Table(texts("compare.gain_caption"), head, cells, frozenset({1, 2, 3}))
    rows = [
        Row(texts(f"measure.{n}"), {"federated": Estimate(*found[n]["difference"])})
        for n in names
        if found[n]["difference"] is not None
    ]
    tests = [
        (texts(f"compare.{name}"), number(value, ".4f"))
        for name, value in (("delong", found.get("delong_p")), ("mcnemar", (found.get("mcnemar") or {}).get("p")))
        if value is not None
    ]  # fmt: skip
    blocks: list[Block] = [table]
    if rows:
        caption = texts("compare.gain_picture")
        picture = forest(
            rows, {"federated": ""}, axis=texts("compare.gain_axis"), hidden=texts("eval.too_few"), title=caption
        )  # fmt: skip
        blocks = [Figure(picture, texts("compare.gain_alt"), caption, table)]
    return (*blocks, Facts(tuple(tests))) if tests else tuple(blocks)


def _overlay(scene: Scene, path: Path) -> tuple[Block, ...]:
    """Return the picture beside the record; as an image it runs nothing and loads nothing."""
    texts = scene.texts
    if not path.is_file() or path.stat().st_size > MAX_PICTURE:
        return ()
    return (
        Figure(path.read_bytes(), texts("compare.overlay_alt"), texts("compare.overlay_caption")),
    )


def _differences(scene: Scene, record: Mapping[str, Any]) -> tuple[Block, ...]:
    texts, blocks = scene.texts, list[Block]()
    head = tuple(texts(f"column.{n}") for n in ("what", "older", "newer"))
    for kind in KINDS:
        found = record[f"differences_in_{kind}"]
        rows = tuple(
            (_what(scene, str(d["what"])), _value(d["old"]), _value(d["new"])) for d in found
        )
        name = texts(f"compare.kind_{kind}")
        blocks.append(
            Table(name, head, rows) if rows else Paragraph((texts("compare.same", kind=name),))
        )
    return tuple(blocks)


def _what(scene: Scene, name: str) -> str:
    """Return what differs in words of the page; settings and files keep the name that they have everywhere."""
    if name in _WORDS:
        return scene.texts(f"compare.{name.replace(' ', '_')}")
    _, at, site = name.partition("epsilon at ")
    return scene.texts("compare.epsilon_at", site=site) if at and name.startswith(at) else name


def _value(value: Any) -> Cell:
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Code(text) if text.startswith("sha256:") else text
