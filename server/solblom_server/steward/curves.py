"""The round curve: what is known of a model between its first and its last round, and what is not."""

from collections.abc import Sequence
from typing import Any

from solblom_server.steward.artefact_files import ArtefactFiles
from solblom_server.steward.blocks import Block, Figure, Notice, Table
from solblom_server.steward.figures import Band, band
from solblom_server.steward.scene import Scene, number
from solblom_server.steward.screening import Screening, screen

MOST_ROWS = 60


def round_curve(scene: Scene, files: ArtefactFiles) -> tuple[Block, ...]:
    """Return the curves that the artefact has the figures for, and say which it has none for (privacy.md rule 9)."""
    texts, blocks = scene.texts, list[Block]()
    measured = files.evaluation.get("by_round")
    if files.evaluation.get("simulation") and measured:
        blocks.append(_measured(scene, measured))
    elif files.manifest["simulation"]:
        blocks.append(
            Notice("quiet", texts("curve.not_measured"), (texts("curve.not_measured_more"),))
        )
    else:
        blocks.append(Notice("quiet", texts("curve.rule_9"), (texts("curve.rule_9_more"),)))
    found = screen(files)
    if found is None:
        blocks.append(Notice("quiet", texts("curve.no_updates"), (texts("curve.no_updates_more"),)))
    else:
        blocks.append(_moved(scene, found))
    return tuple(blocks)


def _measured(scene: Scene, measured: Sequence[dict[str, Any]]) -> Figure:
    """Return the exact measure of a simulation in each round: over all hospitals, and from the worst to the best."""
    texts = scene.texts
    rows = [row for row in measured if any(v is not None for v in row["sites"].values())]
    values = [[v for v in row["sites"].values() if v is not None] for row in rows]
    curve = Band(
        [int(row["round"]) for row in rows],
        [float(row["all"]) for row in rows],
        [min(v) for v in values],
        [max(v) for v in values],
    )
    measure = str(rows[0].get("measure", "auroc"))
    axis = texts(f"measure.{measure}") if texts.has(f"measure.{measure}") else measure
    return _figure(scene, curve, axis, "curve.measured")


def _moved(scene: Scene, found: Screening) -> Figure:
    """Return how far the model moved in each round, and the sizes of the hospitals' own updates as a band."""
    rounds = sorted(found.moved)
    sizes = {n: [u.norm for u in found.updates if u.round == n] for n in rounds}
    curve = Band(
        rounds,
        [found.moved[n] for n in rounds],
        [min(sizes[n]) for n in rounds],
        [max(sizes[n]) for n in rounds],
    )
    return _figure(scene, curve, scene.texts("curve.norm_axis"), "curve.moved")


def _figure(scene: Scene, curve: Band, axis: str, key: str) -> Figure:
    texts = scene.texts
    picture = band(
        curve,
        axis=axis,
        rounds_axis=texts("run.round_axis"),
        middle=texts(f"{key}_middle"),
        spread=texts("curve.spread"),
        title=texts(f"{key}_caption"),
    )
    rows = [
        (str(n), number(m), number(low), number(high))
        for n, m, low, high in zip(curve.rounds, curve.middle, curve.low, curve.high, strict=True)
    ]
    shown = rows if len(rows) <= MOST_ROWS else [*rows[:3], *rows[3 - MOST_ROWS :]]
    head = (
        texts("column.round"),
        texts(f"{key}_middle"),
        texts("curve.lowest"),
        texts("curve.highest"),
    )
    caption = texts(f"{key}_caption")
    table = Table(caption, head, tuple(shown), frozenset({0, 1, 2, 3}))
    alt = texts(f"{key}_alt", first=number(curve.middle[0]), last=number(curve.middle[-1]),
                rounds=len(rows))  # fmt: skip
    return Figure(picture, alt, caption, table)
