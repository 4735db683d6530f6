"""The series of a DICOM file, from the head of it: DICOM PS3.5 (data elements) and PS3.10 (files), no more of it."""

import re
import struct
from functools import lru_cache
from pathlib import Path

HEAD = 64 * 1024  # bytes: group 0020 comes near the beginning
_START = 132  # preamble of 128 bytes, and DICM
_SYNTAX, _SERIES = (0x0002, 0x0010), (0x0020, 0x000E)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_IMPLICIT = "1.2.840.10008.1.2"
_OTHER = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")  # big endian, deflated
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Kinds of value with a length of four bytes (PS3.5, table 7.1-1)."""
_UID = re.compile(r"[0-9.]{1,64}")


def series_of(path: Path) -> str | None:
    """Return a DICOM file's SeriesInstanceUID (0020,000E); None where it is no such file, or its head does not tell."""
    try:
        state = path.stat()
        return _read(path, state.st_size, state.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=8192)
def _read(
    path: Path, size: int, modified: int
) -> str | None:  # a folder is looked through for each slide
    with path.open("rb") as file:
        head = file.read(_START)
        if head[-4:] != b"DICM" or len(head) < _START:
            return None
        return _series(head + file.read(HEAD - _START))


def _series(head: bytes) -> str | None:
    """Walk through the elements: a sequence may name another series, so only the outermost count."""
    position, depth, syntax = _START, 0, ""
    while position + 12 <= len(head):
        implicit = syntax == _IMPLICIT and head[position : position + 2] != b"\x02\0"
        tag, length, value = _element(head, position, implicit=implicit)
        position = value
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= tag == _SEQUENCE_END
        elif length == _UNDEFINED:
            depth += tag != _ITEM
        else:
            position += length
        if depth == 0 and tag == _SYNTAX:
            syntax = head[value:position].decode("ascii", "replace").rstrip("\0 ")
        if depth == 0 and tag == _SERIES:
            found = head[value:position].decode("ascii", "replace").strip("\0 ")
            return found if _UID.fullmatch(found) else None
        if depth < 0 or syntax in _OTHER or (depth == 0 and _SERIES < tag < _ITEM):
            return None
    return None


def _element(head: bytes, position: int, *, implicit: bool) -> tuple[tuple[int, int], int, int]:
    """Return the tag, the length and where the value begins; 12 bytes are there."""
    tag = struct.unpack_from("<HH", head, position)
    kind = head[position + 4 : position + 6]
    if implicit or tag[0] == _ITEM[0]:
        return (tag[0], tag[1]), struct.unpack_from("<I", head, position + 4)[0], position + 8
    if kind in _LONG:
        return (tag[0], tag[1]), struct.unpack_from("<I", head, position + 8)[0], position + 12
    return (tag[0], tag[1]), struct.unpack_from("<H", head, position + 6)[0], position + 8
