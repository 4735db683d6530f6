"""A stored comparison of two versions on the same patients, as `solblom model compare --out` wrote it at a hospital."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solblom_protocol.console import read_given
from solblom_protocol.errors import ConfigurationError, RunError
from solblom_server.steward.blocks import (
    Block,
    Cell,
    Code,
    English,
    Facts,
    Link,
    Notice,
    Page,
    Section,
    Table,
)
from solblom_server.steward.scene import Scene

SCHEMA = "solblom.model.compare/1"
MAX_BYTES = 16 * 1024**2
MOST_DEPTH = 6


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
        rows.append(
            (Link(path.name, f"/comparisons/{place}"), _ref(record, "old"), _ref(record, "new"))
        )
    head = tuple(texts(f"column.{n}") for n in ("record", "older", "newer"))
    block: Block = (
        Table(texts("compare.caption"), head, tuple(rows))
        if rows
        else Notice("quiet", texts("compare.none"),
                    (texts("compare.none_more"), Code("solblom steward serve --comparison FILE")))
    )  # fmt: skip
    return Page(
        title=texts("compare.title"),
        lead=(texts("compare.lead"),),
        crumbs=(Link(texts("nav.home"), "/"),),
        sections=(Section("records", texts("compare.records"), (block,)),),
    )


def _ref(record: Mapping[str, Any], side: str) -> str:
    found = record.get(side)
    if isinstance(found, dict):
        return str(found.get("ref") or found.get("name") or found.get("artefact") or "–")
    return str(found or "–")


def comparison_page(scene: Scene, number: int) -> Page:
    """Return one comparison.

    Raises:
        RunError: SB-503, no such record was given.
    """
    if not 1 <= number <= len(scene.comparisons):
        raise RunError("SB-503", f"There is no comparison {number}")
    texts, record = scene.texts, read_comparison(scene.comparisons[number - 1])
    return Page(
        title=texts("compare.one_title", old=_ref(record, "old"), new=_ref(record, "new")),
        eyebrow=texts("compare.eyebrow"),
        top=(Notice("quiet", texts("compare.claim"), (texts("compare.claim_more"),)),),
        crumbs=(Link(texts("nav.home"), "/"), Link(texts("compare.title"), "/comparisons")),
        sections=comparison_sections(scene, record),
    )


def comparison_sections(scene: Scene, record: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return what stands in a record, a section for each of its parts."""
    texts = scene.texts
    plain = {k: v for k, v in record.items() if not isinstance(v, dict | list) and k != "schema"}
    sections = (
        [Section("summary", texts("compare.summary"), (_facts(scene, plain),))] if plain else []
    )
    for name, value in record.items():
        if isinstance(value, dict | list) and value:
            sections.append(Section(f"part-{name}", _word(scene, name), _part(scene, name, value)))
    return tuple(sections)


def _word(scene: Scene, name: str) -> str:
    key = f"compare_word.{name}"
    return scene.texts(key) if scene.texts.has(key) else name.replace("_", " ")


def _part(scene: Scene, name: str, value: Any) -> tuple[Block, ...]:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        keys = list(dict.fromkeys(key for item in value for key in item))
        rows = tuple(tuple(_cell(item.get(key)) for key in keys) for item in value)
        head = tuple(_word(scene, key) for key in keys)
        return (Table(_word(scene, name), head, rows),)
    if isinstance(value, list):
        return (
            Table(_word(scene, name), (_word(scene, name),), tuple((_cell(v),) for v in value)),
        )
    return (_facts(scene, _flat(value)),)


def _flat(value: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    """Return nested objects as one, names joined: what COMPARE adds later is shown too."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict) and item and depth < MOST_DEPTH:
            found |= _flat(item, f"{before}{name} · ", depth + 1)
        else:
            found[f"{before}{name}"] = item
    return found


def _facts(scene: Scene, values: Mapping[str, Any]) -> Facts:
    return Facts(tuple(
        (" · ".join(_word(scene, part) for part in name.split(" · ")), _cell(value))
        for name, value in values.items()
    ))  # fmt: skip


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(v, int | float) for v in value):
        return "[" + ", ".join(f"{v:.4g}" for v in value) + "]"
    if isinstance(value, list | dict):
        return Code(json.dumps(value, ensure_ascii=False))
    text = "–" if value is None else str(value)
    return Code(text) if text.startswith("sha256:") else English(text)
