"""A support report as text for a screen, and as one zip of texts."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from solblom_client.support.report import SupportReport
from solblom_protocol.messages.message import as_json

TEXT, DATA, NOTE = "report.txt", "report.json", "README.txt"
_EARLIEST = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the zip format's oldest time: when it was made is the report's day
README = """\
What a Solblom node says of itself, for whoever helps its hospital from outside.

report.txt    the report, as a person at the hospital saw it before this file was written
report.json   the same for programs

Every entry comes from a fixed list: versions, switches and limits of node.toml, the lights of
"solblom node check", refusals by the code that the coordinator was told, modes of files, and bands.

Not in it, and not to be asked for by mail: keys, noise roots, patients' ids and counts, names of
slides or studies, codes of diseases, paths, host names, addresses, texts of errors, the site's log.
Where a text of an error is needed, a person at the hospital reads it and decides what to say.
"""


def as_text(report: SupportReport) -> str:
    """Return the report as lines that a person reads through."""
    return "\n".join(_lines(as_json(report))) + "\n"


def as_zip(report: SupportReport) -> bytes:
    """Return the zip; the same report gives the same bytes."""
    texts = {
        NOTE: README,
        TEXT: as_text(report),
        DATA: json.dumps(as_json(report), indent=2, sort_keys=True) + "\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in texts.items():
            member = zipfile.ZipInfo(name, date_time=_EARLIEST)
            member.external_attr = 0o600 << 16
            archive.writestr(member, text)
    return buffer.getvalue()


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    for name, value in report.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{title}:"
            yield from (f"  {_row(row)}" for row in value)
        elif isinstance(value, dict):
            yield f"{title}:"
            yield from (f"  {key.replace('_', ' ')}: {_word(one)}" for key, one in _known(value))
        elif not (name.endswith("code") and value is None):
            yield f"{title}: {_word(value)}"


def _known(section: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Give the entries of a section; a code that is not there means that nothing is wrong."""
    return ((k, v) for k, v in section.items() if not (k.endswith("code") and v is None))


def _row(row: Mapping[str, Any]) -> str:
    first, *rest = row.values()
    said = [_word(value) for value in rest if value is not None]
    return f"{_word(first)}: {', '.join(said) or 'not there'}"


def _word(value: object) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
