"""The page's pictures. Each takes plain numbers and words, and gives SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from solblom_models.metrics import Estimate
from solblom_server.steward.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    QUIET,
    RED,
    SKY,
    Mark,
    clean,
    draw,
    remembered,
    short,
)

KINDS = {
    "federated": Mark("o", BLUE, True),
    "local": Mark("s", ORANGE, False),
    "pooled": Mark("^", GREEN, False),
    "prior": Mark("D", QUIET, False),
    "own_intercept": Mark("X", PURPLE, True),
    "without_this_hospital": Mark("v", RED, False),
}
STATES = {
    "trained": Mark("s", BLUE, True),
    "late": Mark("^", ORANGE, True),
    "refused": Mark("X", RED, True),
    "waiting": Mark("D", SKY, False),
    "invalid": Mark("P", PURPLE, True),
    "missing": Mark("o", QUIET, False),
}
FINE = 0.05  # an interval narrower than this is written with three decimals
MOST_MARKS = 1_500  # above that, rounds are drawn as strokes, and lines without markers
MOST_CODES = 40  # marks up to which codes are written beside them


@dataclass(frozen=True)
class Row:
    """A line of a forest plot: its name, and an estimate for each kind of model; None where none is shown."""

    name: str
    estimates: Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Band:
    """A value in each round, and the lowest and highest of the hospitals; None where there is none."""

    rounds: Sequence[int]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@remembered
def forest(
    rows: Sequence[Row], words: Mapping[str, str], *, axis: str, hidden: str, title: str
) -> bytes:
    """Return estimates with their intervals, one line a row, the federated one written out beside it."""
    kinds = [kind for kind in KINDS if any(kind in row.estimates for row in rows)]
    gap = 0.62 / max(len(kinds) - 1, 1)

    def paint(axes: Any) -> None:
        for place, row in enumerate(rows):
            if place % 2 == 0:
                axes.axhspan(place - 0.5, place + 0.5, color="#f4f6f7", zorder=0)
            shown = [kind for kind in kinds if row.estimates.get(kind) is not None]
            for kind in shown:
                found = row.estimates[kind]
                offset = 0.0 if len(kinds) == 1 else gap * kinds.index(kind) - 0.31
                _whisker(axes, found, place + offset, KINDS[kind])
            _beside(axes, row, place, shown, hidden)
        for kind in kinds:
            mark = KINDS[kind]
            axes.plot([], [], mark.shape, color=mark.colour, label=words[kind], markersize=6,
                      markerfacecolor=mark.colour if mark.filled else PAPER)  # fmt: skip
        _frame(axes, rows, axis)
        if len(kinds) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False,
                        borderaxespad=0.2, handletextpad=0.3, columnspacing=1.4)  # fmt: skip

    height = 0.95 + len(rows) * (0.3 + 0.1 * len(kinds)) + 0.22 * math.ceil(len(kinds) / 3)
    return draw(paint, height=height, title=title)


def _whisker(axes: Any, found: Estimate | None, place: float, mark: Mark) -> None:
    if found is None:
        return
    axes.plot([found.low, found.high], [place, place], color=mark.colour, linewidth=1.6, zorder=2)
    axes.plot([found.value], [place], mark.shape, color=mark.colour, markersize=6, zorder=3,
              markerfacecolor=mark.colour if mark.filled else PAPER)  # fmt: skip


def _beside(axes: Any, row: Row, place: int, shown: Sequence[str], hidden: str) -> None:
    across = axes.get_yaxis_transform()
    if not shown:
        axes.text(0.01, place, hidden, va="center", color=QUIET, style="italic", transform=across)
        return
    first = row.estimates[shown[0]]
    if first is not None:
        form = ".2f" if first.high - first.low >= FINE else ".3f"
        text = format(first.value, form)
        if first.low != first.high:
            text += f"  [{first.low:{form}}, {first.high:{form}}]"
        axes.text(1.015, place, text, va="center", color=KINDS[shown[0]].colour, transform=across)


def _frame(axes: Any, rows: Sequence[Row], axis: str) -> None:
    clean(axes)
    axes.set_yticks(range(len(rows)), [short(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    found = [e for row in rows for e in row.estimates.values() if e is not None]
    low, high = min((e.low for e in found), default=0.0), max((e.high for e in found), default=1.0)
    if low < 0:
        axes.axvline(0.0, color=QUIET, linewidth=0.8)
    room = 0.04 * max(high - low, 0.05)
    axes.set_xlim(low - room, high + room)
    axes.set_xlabel(axis)


@remembered
def participation(
    sites: Sequence[str],
    rounds: Sequence[int],
    cells: Mapping[tuple[str, int], tuple[str, str]],
    words: Mapping[str, str],
    *,
    axis: str,
    title: str,
) -> bytes:
    """Return which hospital did what in which round; `cells` are (state, code) by (site, round)."""
    used = [state for state in STATES if any(cell[0] == state for cell in cells.values())]
    size = max(2.0, min(9.0, 330.0 / max(len(rounds), 1)))

    is_long = len(cells) > MOST_MARKS

    def paint(axes: Any) -> None:
        for state in used:
            points = [(n, sites.index(s)) for (s, n), cell in cells.items() if cell[0] == state]
            (_stretches if is_long else _marks)(axes, points, STATES[state], size, words[state])
        coded = [(place, cell[1]) for place, cell in cells.items() if cell[1]]
        for (site, number), code in coded if len(coded) <= MOST_CODES else ():
            axes.annotate(code, (number, sites.index(site)), xytext=(0, -size - 1), va="top",
                          textcoords="offset points", ha="center", fontsize=6.5, color=RED)  # fmt: skip
        clean(axes, grid="y")
        axes.set_yticks(range(len(sites)), [short(site) for site in sites])
        axes.set_ylim(len(sites) - 0.4, -0.6)
        axes.set_xlim(rounds[0] - 0.6, rounds[-1] + 0.6)
        axes.set_xlabel(axis)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False,
                    borderaxespad=0.2, handletextpad=0.2, columnspacing=1.2, markerscale=0.9)  # fmt: skip

    return draw(paint, height=1.15 + 0.42 * len(sites), title=title)


def _marks(
    axes: Any, points: Sequence[tuple[int, int]], mark: Mark, size: float, word: str
) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], mark.shape, linestyle="none",
              color=mark.colour, markersize=size, label=word,
              markerfacecolor=mark.colour if mark.filled else PAPER)  # fmt: skip


def _stretches(
    axes: Any, points: Sequence[tuple[int, int]], mark: Mark, size: float, word: str
) -> None:
    """Draw rounds that follow each other as one stroke: ten thousand marks would be a picture of megabytes."""
    strokes: list[list[int]] = []  # row, first round, last round
    for number, row in sorted(points, key=lambda point: (point[1], point[0])):
        if strokes and strokes[-1][0] == row and strokes[-1][2] == number - 1:
            strokes[-1][2] = number
        else:
            strokes.append([row, number, number])
    rows = [row for row, _, _ in strokes]
    starts, ends = [a - 0.5 for _, a, _ in strokes], [b + 0.5 for _, _, b in strokes]
    axes.hlines(
        rows, starts, ends, color=mark.colour, linewidth=6 if mark.filled else 2, label=word
    )


@remembered
def bars(
    rows: Sequence[tuple[str, float, str]],
    limit: float | None,
    *,
    axis: str,
    limit_word: str,
    title: str,
) -> bytes:
    """Return one bar a row with its value written at its end, and a line where the limit is."""

    def paint(axes: Any) -> None:
        values = [value if math.isfinite(value) else 0.0 for _, value, _ in rows]
        axes.barh(range(len(rows)), values, height=0.52, color=SKY, edgecolor=BLUE, linewidth=0.8)
        most = max([*values, limit or 0.0, 1e-9])
        for place, (_, value, text) in enumerate(rows):
            at = value if math.isfinite(value) else 0.0
            axes.text(at + 0.012 * most, place, text, va="center", color=INK)
        if limit is not None:
            axes.axvline(limit, color=RED, linewidth=1.4, linestyle=(0, (5, 2)))
            axes.text(limit, -0.62, limit_word, ha="center", va="bottom", color=RED)
        clean(axes)
        axes.set_yticks(range(len(rows)), [short(name) for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.6)
        axes.set_xlim(0.0, most * 1.2)
        axes.set_xlabel(axis)

    return draw(paint, height=1.0 + 0.38 * len(rows), title=title)


@remembered
def band(
    curve: Band, *, axis: str, rounds_axis: str, middle: str, spread: str, title: str
) -> bytes:
    """Return a value over the rounds, with a band from the lowest hospital to the highest."""

    def paint(axes: Any) -> None:
        axes.fill_between(curve.rounds, curve.low, curve.high, color=SKY, alpha=0.35, linewidth=0)
        for edge in (curve.low, curve.high):
            axes.plot(curve.rounds, edge, color=BLUE, linewidth=0.7, linestyle=(0, (3, 2)))
        axes.plot(
            curve.rounds,
            curve.middle,
            color=BLUE,
            linewidth=1.8,
            marker="o",
            markersize=4 if len(curve.rounds) <= 100 else 0,
        )
        last = curve.rounds[-1]
        axes.annotate(middle, (last, curve.middle[-1]), xytext=(7, 0), va="center",
                      textcoords="offset points", color=BLUE)  # fmt: skip
        if abs(curve.high[-1] - curve.middle[-1]) > 0.08 * (max(curve.high) - min(curve.low)):
            axes.annotate(spread, (last, curve.high[-1]), xytext=(7, 0), va="center",
                          textcoords="offset points", color=QUIET)  # fmt: skip
        clean(axes, grid="y")
        axes.set_xlabel(rounds_axis)
        axes.set_ylabel(axis)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        width = max(curve.rounds[-1] - curve.rounds[0], 1)
        axes.set_xlim(curve.rounds[0] - 0.03 * width, last + 0.03 * width)

    return draw(paint, height=2.6, title=title)


@remembered
def reliability(
    points: Sequence[tuple[float, Estimate]], *, axis: str, side: str, best: str, title: str
) -> bytes:
    """Return observed shares over predicted ones, with intervals, beside the line on which a model should lie."""

    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), label=best)
        for score, found in points:
            axes.plot([score, score], [found.low, found.high], color=BLUE, linewidth=1.5)
        axes.plot(
            [s for s, _ in points], [f.value for _, f in points], "o", color=BLUE, markersize=6
        )
        clean(axes, grid="both")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel(axis)
        axes.set_ylabel(side)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2
        )

    return draw(paint, height=3.4, title=title)


@remembered
def scatter(
    rows: Sequence[str], values: Mapping[str, Sequence[tuple[int, float, bool]]], *, axis: str, rounds_axis: str,
    flagged: str, title: str,
) -> bytes:  # fmt: skip
    """Return each hospital's value in each round as a line of its own, its name at the end; flagged ones ringed."""
    shapes = ("o", "s", "^", "D", "v", "P", "X", "*")
    colours = (BLUE, ORANGE, GREEN, PURPLE, RED, INK, SKY, QUIET)

    def paint(axes: Any) -> None:
        ends: list[tuple[float, str, str]] = []
        for place, name in enumerate(rows):
            found = values.get(name, ())
            shape, colour = shapes[place % 8], colours[place % 8]
            axes.plot([n for n, _, _ in found], [v for _, v, _ in found], marker=shape, color=colour,
                      markersize=4.5 if len(found) <= 100 else 0, linewidth=1.0)  # fmt: skip
            flags = [(n, v) for n, v, is_flagged in found if is_flagged]
            axes.plot([n for n, _ in flags], [v for _, v in flags], "o", markersize=11, color=RED,
                      markerfacecolor="none", linestyle="none")  # fmt: skip
            if found:
                ends.append((found[-1][1], short(name, 18), colour))
        _end_labels(axes, ends)
        clean(axes, grid="y")
        axes.set_xlabel(rounds_axis)
        axes.set_ylabel(axis)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if any(is_flagged for found in values.values() for _, _, is_flagged in found):
            axes.set_title(flagged, loc="left", fontsize=8, color=RED)

    return draw(paint, height=2.8, title=title)


def _end_labels(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names beside the ends of lines, each at least a line's height from the next."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.085
    placed = -math.inf
    for value, name, colour in sorted(ends):
        at = max(value, placed + step)
        placed = at
        axes.text(1.01, at, name, color=colour, va="center",
                  transform=axes.get_yaxis_transform(), clip_on=False)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A step of a lineage: what it is, its short digest, in which column and row it stands."""

    title: str
    lines: tuple[str, ...]
    column: int
    row: float


@remembered
def lineage(
    boxes: Sequence[Box], arrows: Sequence[tuple[int, int]], *, rows: float, title: str
) -> bytes:
    """Return boxes from left to right with arrows between them."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    columns = max(box.column for box in boxes) + 1
    wide, tall = 0.84, 0.78

    def paint(axes: Any) -> None:
        for start, end in arrows:
            a, b = boxes[start], boxes[end]
            axes.add_patch(FancyArrowPatch(
                (a.column + wide, a.row), (b.column, b.row), arrowstyle="-|>", mutation_scale=8,
                color=QUIET, linewidth=0.9, shrinkA=0, shrinkB=1,
                connectionstyle="arc3,rad=0",
            ))  # fmt: skip
        for box in boxes:
            axes.add_patch(FancyBboxPatch(
                (box.column, box.row - tall / 2), wide, tall, boxstyle="round,pad=0,rounding_size=0.05",
                facecolor="#eef5fa", edgecolor=BLUE, linewidth=1.0,
            ))  # fmt: skip
            axes.text(box.column + 0.05, box.row - 0.17, short(box.title, 20), va="center",
                      fontsize=7.6, weight="bold")  # fmt: skip
            for place, line in enumerate(box.lines):
                axes.text(box.column + 0.05, box.row + 0.05 + 0.19 * place, line, va="center",
                          fontsize=6.4, color=QUIET, family="monospace")  # fmt: skip
        axes.set_xlim(-0.04, columns - 0.1)
        axes.set_ylim(rows - 0.45, -0.55)
        axes.set_axis_off()

    return draw(paint, height=0.25 + 0.62 * rows, title=title)
