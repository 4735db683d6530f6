"""How text from outside, tables and gaps are written in a model card."""

import json
import re
from collections.abc import Iterable, Sequence

TO_FILL = "*To be filled in by the provider*"
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")


def plain(text: str) -> str:
    """Return text that Markdown shows as it stands: no link, picture, tag or table of its own, in one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Return text as code: in one line, and with no mark that would end it or the cell of a table."""
    return f"`{' '.join(text.split()).replace('`', chr(39)).replace('|', '/')}`"


def quoted(text: str) -> str:
    """Return text as YAML and JSON both read it: in double quotes, in one line, without marks that cannot be seen."""
    shown = "".join(mark for mark in " ".join(text.split()) if mark.isprintable())
    return json.dumps(shown, ensure_ascii=False)


def to_fill(what: str) -> str:
    """Return a gap that the study cannot know: what belongs there."""
    return f"{TO_FILL}: {what}."


def bullets(lines: Iterable[str]) -> str:
    """Return a list; nothing for no lines."""
    return "".join(f"- {line}\n" for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; nothing without rows."""
    written = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n{written}" if written else ""
