"""A sheet of pixels with text, saved as PNG: what heatmaps and galleries are drawn on.

Pictures are pasted pixel by pixel and never resampled, so what is drawn lies where it was measured.
"""

import io
import math
import textwrap
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import ConfigurationError

DPI = 100
WIDE = 0.62  # of a letter of DejaVu Sans, bold, on average, in its size
LINE = 1.35  # from line to line, in the text's size
INK, FRAME = (20, 20, 20), (120, 120, 120)

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class _Text:
    left: float
    top: float
    words: str
    size: float
    align: str
    bold: bool
    halo: bool


@dataclass
class Sheet:
    """A white sheet; all places are pixels from its upper left corner."""

    width: int
    height: int
    pixels: NDArray[np.uint8] = field(init=False, repr=False)
    _texts: list[_Text] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = np.full((self.height, self.width, 3), 255, dtype=np.uint8)

    def paste(self, picture: NDArray[np.uint8], left: int, top: int) -> None:
        """Put pixels (H, W, 3) on the sheet, with a thin frame around them."""
        height, width = picture.shape[:2]
        self.frame(left - 1, top - 1, width + 2, height + 2, FRAME)
        self.pixels[top : top + height, left : left + width] = picture

    def fill(self, left: int, top: int, width: int, height: int, colour: Colour) -> None:
        """Colour a rectangle."""
        self.pixels[top : top + height, left : left + width] = colour

    def frame(
        self, left: int, top: int, width: int, height: int, colour: Colour, *, thick: int = 1
    ) -> None:
        """Draw the edge of a rectangle, inwards."""
        self.fill(left, top, width, thick, colour)
        self.fill(left, top + height - thick, width, thick, colour)
        self.fill(left, top, thick, height, colour)
        self.fill(left + width - thick, top, thick, height, colour)

    def text(
        self,
        words: str,
        left: float,
        top: float,
        *,
        size: float,
        align: Literal["left", "center", "right"] = "left",
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        """Write one line, its upper edge at `top`; `left` is where it starts, its middle or its end.

        A halo keeps it readable over a picture.
        """
        self._texts.append(_Text(left, top, words, size, align, bold, halo))

    def scale_bar(self, left: int, top: int, *, length: int, words: str, size: float) -> None:
        """Draw a bar of so many pixels, and its words to the right of it."""
        thick = max(round(size / 3), 3)
        middle = top + round(size / 2)
        self.fill(left, middle - thick // 2, length, thick, INK)
        for end in (left, left + length - 2):
            self.fill(end, middle - thick, 2, 2 * thick, INK)
        self.text(words, left + length + size / 2, top, size=size)

    def png(self) -> bytes:
        """Return the sheet as PNG: pixels only, without a date or the name of a program.

        Raises:
            ConfigurationError: SB-118, matplotlib is not installed.
        """
        letters = self._letters()
        from PIL import Image

        whole = self.pixels.copy()
        touched = letters[..., 3] > 0
        opaque = letters[touched][:, 3:] / 255
        mixed = opaque * letters[touched][:, :3] + (1 - opaque) * whole[touched]
        whole[touched] = np.round(mixed).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(whole).save(buffer, format="png")
        return buffer.getvalue()

    def _letters(self) -> NDArray[np.uint8]:
        """Return all text on a transparent sheet, shape (height, width, 4)."""
        try:
            from matplotlib import rc_context
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.patheffects import withStroke
        except ImportError:
            raise ConfigurationError(
                "SB-118",
                "Pictures need matplotlib, which is not installed",
                "pip install 'solblom-models[slides]'",
            ) from None
        # The font that comes with matplotlib, so that pictures are alike on all machines.
        settings: Any = {"font.family": "DejaVu Sans", "text.usetex": False}
        with rc_context(settings):
            size = self.width / DPI, self.height / DPI
            figure = Figure(figsize=size, dpi=DPI, facecolor="none")
            canvas: Any = FigureCanvasAgg(figure)
            for text in self._texts:
                written = figure.text(
                    text.left / self.width,
                    1 - text.top / self.height,
                    text.words,
                    fontsize=text.size * 72 / DPI,
                    ha=text.align,
                    va="top",
                    weight="bold" if text.bold else "normal",
                    parse_math=False,  # a title's dollar signs are no formula
                )
                if text.halo:
                    written.set_path_effects([withStroke(linewidth=3, foreground="white")])
            canvas.draw()
            return np.asarray(canvas.buffer_rgba())


def lines_of(words: str, *, width: float, size: float) -> list[str]:
    """Return words broken into lines that fit a width in pixels; none for no words."""
    return textwrap.wrap(words, max(int(width / (WIDE * size)), 8))


def nice_length(most: float) -> float:
    """Return the longest of 1, 2 or 5 times a power of ten that is not above `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def length_words(microns: float) -> str:
    """Return a length in words: millimetres from a tenth on, else microns."""
    return f"{microns / 1000:g} mm" if microns >= 100 else f"{microns:g} µm"


def enlarged(picture: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) with each pixel repeated, so that nothing is blurred or moved."""
    found: NDArray[np.uint8] = picture.repeat(times, axis=0).repeat(times, axis=1)
    return found
