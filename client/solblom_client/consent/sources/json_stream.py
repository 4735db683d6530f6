"""A large JSON object read member by member, so that a list of a million entries never stands in memory as a tree.

Refused: a name twice in one object (two readers would see two different consents), numbers that are no
JSON, bytes that are no UTF-8, nesting deeper than Python's own limit, and items of over 4 MiB.
"""

import json
import re
from codecs import utf_8_decode
from collections.abc import Callable, Generator, Iterator
from json.decoder import JSONDecodeError
from typing import Any

from solblom_client.consent.sources.unchanged import Run

_WINDOWS = (1024, 16 * 1024, 256 * 1024, 4 * 1024**2)  # bytes of one item
_SPACE = re.compile(rb"[ \t\n\r]*")


Member = tuple[str, Any, int, int]
"""Name; value, or a `Run` of items that are known; place of its first byte; place after its last one."""
Known = Callable[[int], Run | None]
"""Told a place at which an item begins, it returns items that stand there as they stood before."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def members(data: bytes, *, streamed: str, known: Known | None = None) -> Iterator[Member]:
    """Yield the members of the object that is the whole of `data`; of the list `streamed` item by item.

    Items that are `known` are passed over, as one `Run`.

    Raises:
        ValueError: not one JSON object in UTF-8, or a name twice.
        RecursionError: nested too deeply.
    """
    at = _expect(data, _after_space(data, 0), b"{")
    names: set[str] = set()
    if data[at : at + 1] != b"}":
        while True:
            name, at = _value(data, at)
            if not isinstance(name, str) or name in names:
                raise ValueError("a name is missing or stands twice")
            names.add(name)
            at = _expect(data, _after_space(data, at), b":")
            if name == streamed and data[at : at + 1] == b"[":
                at = yield from _items(data, at + 1, name, known)
            else:
                value, end = _value(data, at)
                yield name, value, at, end
                at = end
            at = _after_space(data, at)
            if data[at : at + 1] == b"}":
                break
            at = _expect(data, at, b",")
    if _after_space(data, at + 1) != len(data):
        raise ValueError("more follows the object")


def _items(data: bytes, at: int, name: str, known: Known | None) -> Generator[Member, None, int]:
    """Yield the items of a list whose bracket was passed; return the place after its end."""
    at = _after_space(data, at)
    if data[at : at + 1] == b"]":
        return at + 1
    while True:
        run = None if known is None else known(at)
        value, end = _value(data, at) if run is None else (run, run.end)
        yield name, value, at, end
        at = _after_space(data, end)
        if data[at : at + 1] == b"]":
            return at + 1
        at = _expect(data, at, b",")


def _value(data: bytes, at: int) -> tuple[Any, int]:
    """Return the value that begins at a place, and the place after it.

    Read in windows: an item of a hundred million empty lists would take memory before it was over. An object
    or a list ends with its own bracket, so what can be read of a window is all of it.
    """
    for size in _WINDOWS:
        last = at + size >= len(data)
        # A character may be cut by the window's end, not by the end of the bytes.
        text, _ = utf_8_decode(data[at : at + size], "strict", last)
        try:
            value, length = _DECODER.raw_decode(text)
        except JSONDecodeError:
            if last:
                break
            continue
        return value, at + (length if text.isascii() else len(text[:length].encode()))
    # The parser's own message would quote the text.
    raise ValueError("not valid JSON, or one item over 4 MiB") from None


def _after_space(data: bytes, at: int) -> int:
    match = _SPACE.match(data, at)
    return at if match is None else match.end()


def _expect(data: bytes, at: int, sign: bytes) -> int:
    """Return the place of what follows a sign and space.

    Raises:
        ValueError: another sign stands there.
    """
    if data[at : at + 1] != sign:
        raise ValueError(f"{sign.decode()} is missing")
    return _after_space(data, at + 1)
