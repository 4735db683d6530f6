"""What a view is made of. Plain data: a template turns it into HTML and escapes every text."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "warn", "quiet"]


@dataclass(frozen=True)
class Link:
    """A way to another view; in a report, where there is no other view, its text alone."""

    text: str
    href: str


@dataclass(frozen=True)
class Code:
    """A digest, a key id, a command: shown as it is, may break anywhere."""

    text: str


@dataclass(frozen=True)
class Badge:
    """A state in one or two words. The words say it; colour and sign only repeat it."""

    text: str
    tone: Tone


@dataclass(frozen=True)
class English:
    """Words of a record that are English in every language of the page, and are marked as such."""

    text: str


@dataclass(frozen=True)
class Told:
    """A finding in the page's language, and its details as the record has them, which are English."""

    text: str
    detail: str


@dataclass(frozen=True)
class Time:
    """A time, kept on one line."""

    text: str


Cell = str | Link | Code | Badge | English | Told | Time


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and what it is."""

    rows: tuple[tuple[str, Cell | tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Table:
    """A table with a caption. The first column names the row; `numeric` columns stand to the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A picture (SVG), what it shows in words, and the same as a table."""

    svg: bytes
    alt: str
    caption: str
    table: Table | None = None


@dataclass(frozen=True)
class Notice:
    """Something to be known first: all is well, something is wrong, or there is nothing here and why."""

    tone: Tone
    title: str
    lines: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[Cell, ...]


@dataclass(frozen=True)
class Markdown:
    """A text of the artefact in Markdown, shown without any HTML, link or image that it may hold."""

    text: str


@dataclass(frozen=True)
class Button:
    """A link that looks like what it does: it checks something again."""

    text: str
    href: str


Block = Facts | Table | Figure | Notice | Paragraph | Bullets | Markdown | Button


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    name: str  # of the anchor
    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """One view. `tabs` are (text, address, whether it is this view) of those beside it."""

    title: str
    sections: tuple[Section, ...]
    eyebrow: str = ""
    lead: tuple[Cell, ...] = ()
    top: tuple[Block, ...] = ()
    crumbs: tuple[Link, ...] = ()
    tabs: tuple[tuple[str, str, bool], ...] = ()
