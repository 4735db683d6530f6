"""Pictures as SVG: the same input gives the same bytes; shapes and labels say what colour says.

Colours are those of Okabe & Ito (2008), which people with any colour vision tell apart, and which differ in print by
their lightness too.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, ParamSpec

INK, QUIET, LINE, PAPER = "#1d2b33", "#5b6770", "#d5dbdf", "#ffffff"
BLUE, ORANGE, GREEN, RED, PURPLE, YELLOW, SKY = (
    "#0072b2", "#b36b00", "#007a5a", "#b3261e", "#a04d83", "#e8c547", "#56b4e9",
)  # fmt: skip
WIDTH = 7.6  # inches; a page's column
FONT = 9.0
MOST_REMEMBERED = 128

P = ParamSpec("P")
_MEMORIES: list[OrderedDict[str, bytes]] = []

_LOCK = Lock()  # matplotlib's settings belong to the process


@dataclass(frozen=True)
class Mark:
    """How a kind of thing looks: its marker, colour, and whether it is filled."""

    shape: str
    colour: str
    filled: bool


def draw(paint: Callable[[Any], None], *, height: float, title: str) -> bytes:
    """Return what `paint` puts on a figure's axes, as SVG."""
    from matplotlib import rc_context  # takes a second: lists and tables need none of it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _LOCK, rc_context(_settings()):
        figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.BytesIO()
        # No date: the same figures are the same bytes.
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Title": title, "Creator": None}
        )
    return buffer.getvalue()


def remembered(function: Callable[P, bytes]) -> Callable[P, bytes]:
    """Make a picture once for the same figures: a view that is looked at again need not be drawn again."""
    known: OrderedDict[str, bytes] = OrderedDict()
    _MEMORIES.append(known)

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> bytes:
        key = repr((args, sorted(kwargs.items())))  # plain data: equal ones read the same
        found = known.get(key)
        if found is None:
            found = known[key] = function(*args, **kwargs)
            if len(known) > MOST_REMEMBERED:
                known.popitem(last=False)
        return found

    return wrapped


def forget() -> None:
    """Draw everything anew from here on."""
    for known in _MEMORIES:
        known.clear()


@lru_cache(maxsize=1)
def _settings() -> Any:
    return {
        "svg.hashsalt": "solblom",
        "svg.fonttype": "path",  # the same on every machine, whatever fonts it has
        "font.size": FONT,
        "text.parse_math": False,  # a name's dollar signs are no formula
        "text.color": INK,
        "axes.labelcolor": QUIET,
        "axes.edgecolor": LINE,
        "axes.linewidth": 0.8,
        "axes.facecolor": "none",
        "axes.axisbelow": True,
        "xtick.color": QUIET,
        "ytick.color": INK,
        "xtick.labelcolor": QUIET,
        "ytick.labelcolor": INK,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }


def clean(axes: Any, *, grid: str = "x") -> None:
    """Take away what carries nothing: frame and ticks; leave a light grid."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=grid, color=LINE, linewidth=0.6)


def short(text: str, most: int = 24) -> str:
    """Return a name that fits beside a row."""
    return text if len(text) <= most else text[: most - 1] + "…"
