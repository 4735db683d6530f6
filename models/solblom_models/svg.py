"""Pictures as SVG whose bytes follow from what is drawn; matplotlib is loaded only for them."""

import io
from collections.abc import Callable
from typing import Any

from solblom_protocol.errors import ConfigurationError

FONT = 9
# Fixed salt and no date: the same figures give the same bytes. Text stays text, for search and screen readers.
_SETTINGS: Any = {
    "svg.hashsalt": "solblom",
    "svg.fonttype": "none",
    "font.size": FONT,
    "text.parse_math": False,  # a name's dollar signs are no formula
}

SvgPicture = Callable[[Callable[[Any], None], tuple[float, float], str], bytes]
"""Gives the picture that a function paints on matplotlib's figure: (paint, (width, height) in inches, title)."""


def svg_drawing() -> SvgPicture:
    """Return what draws pictures.

    Raises:
        ConfigurationError: SB-118, matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "Pictures need matplotlib, which is not installed",
            "pip install 'solblom-models[plots]'",
        ) from None

    def picture(paint: Callable[[Any], None], size: tuple[float, float], title: str) -> bytes:
        with rc_context(_SETTINGS):
            figure = Figure(figsize=size, layout="constrained")
            FigureCanvasSVG(figure)
            paint(figure)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
        return buffer.getvalue()

    return picture
