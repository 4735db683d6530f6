"""A large JSON object read member by member, so that a list of a million entries never stands in memory as a tree.

Refused: a name twice in one object (two readers would see two different consents), numbers that are no
JSON, nesting deeper than Python's own limit, and items of over 4 MiB.
"""

import json
import re
from collections.abc import Generator, Iterator
from json.decoder import JSONDecodeError
from typing import Any

_WINDOWS = (16 * 1024, 256 * 1024, 4 * 1024**2)  # characters of one item
_SPACE = re.compile(r"[ \t\n\r]*")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def members(text: str, *, streamed: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of the object that is the whole of `text`; of the list `streamed` item by item.

    Raises:
        ValueError: not one JSON object, or a name twice.
        RecursionError: nested too deeply.
    """
    at = _expect(text, _after_space(text, 0), "{")
    names: set[str] = set()
    if text[at : at + 1] != "}":
        while True:
            name, at = _value(text, at)
            if not isinstance(name, str) or name in names:
                raise ValueError("a name is missing or stands twice")
            names.add(name)
            at = _expect(text, _after_space(text, at), ":")
            if name == streamed and text[at : at + 1] == "[":
                at = yield from _items(text, at + 1, name)
            else:
                value, at = _value(text, at)
                yield name, value
            at = _after_space(text, at)
            if text[at : at + 1] == "}":
                break
            at = _expect(text, at, ",")
    if _after_space(text, at + 1) != len(text):
        raise ValueError("more follows the object")


def _items(text: str, at: int, name: str) -> Generator[tuple[str, Any], None, int]:
    """Yield the items of a list whose bracket was passed; return the place after its end."""
    at = _after_space(text, at)
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        value, at = _value(text, at)
        yield name, value
        at = _after_space(text, at)
        if text[at : at + 1] == "]":
            return at + 1
        at = _expect(text, at, ",")


def _value(text: str, at: int) -> tuple[Any, int]:
    """Return the value that begins at a place, and the place after it.

    Read in windows: an item of a hundred million empty lists would take memory before it was over. An object
    or a list ends with its own bracket, so what can be read of a window is all of it.
    """
    for size in _WINDOWS:
        try:
            value, length = _DECODER.raw_decode(text[at : at + size])
            return value, at + length
        except JSONDecodeError:
            if at + size >= len(text):
                break
    # The parser's own message would quote the text.
    raise ValueError("not valid JSON, or one item over 4 MiB") from None


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _expect(text: str, at: int, sign: str) -> int:
    """Return the place of what follows a sign and space.

    Raises:
        ValueError: another sign stands there.
    """
    if text[at : at + 1] != sign:
        raise ValueError(f"{sign} is missing")
    return _after_space(text, at + 1)
