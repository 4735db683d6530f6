"""One byte string for one JSON value (RFC 8785), and the digests that name byte strings."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import rfc8785

# Arrays are lists or tuples, objects are dicts; the wider types spare callers a cast.
JsonValue: TypeAlias = (
    bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
)

MAX_BYTES = 64 * 1024 * 1024
MAX_SIGNED_BYTES = 4 * 1024 * 1024  # of what is read before anything vouches for it
_MAX_DEPTH = 64
_MAX_INTEGER = 2**53 - 1  # RFC 8785, 3.2.2.3: beyond it, readers disagree about the value
_EXPONENT_FROM = 1e21  # ECMA-262 Number::toString writes 1e21 and above with an exponent
_PLAIN = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False, allow_nan=False
)


class CanonicalError(ValueError):
    """A value has no canonical form, or bytes are not one."""


def canonical_json(value: JsonValue) -> bytes:
    """Give the one byte string that stands for `value`; `parse_canonical` reads it back.

    Raises:
        CanonicalError: NaN, infinity, a whole number outside ±(2^53-1), a key that is no string,
            a lone surrogate, a type JSON does not have, or more than 64 levels.

    Source: RFC 8785.
    """
    return _write(value, plain=_check_value(value, levels_left=_MAX_DEPTH))


def parse_canonical(data: bytes, *, max_bytes: int = MAX_BYTES) -> JsonValue:
    """Read a JSON value from its canonical form; any other spelling of it is refused.

    Raises:
        CanonicalError: as `parse_json`, or the bytes are not the canonical form of their value.

    Source: RFC 8785.
    """
    value, plain = _read(data, max_bytes=max_bytes)
    if _write(value, plain=plain) != data:
        raise CanonicalError("not in canonical form (RFC 8785)")
    return value


def parse_json(data: bytes, *, max_bytes: int = MAX_BYTES) -> JsonValue:
    """Read a JSON value that a person wrote: any layout, but nothing two readers take differently.

    Raises:
        CanonicalError: too long, not UTF-8, not JSON, a key given twice, a number that is not
            finite or not exact, or more than 64 levels.
    """
    return _read(data, max_bytes=max_bytes)[0]


def digest(data: bytes | memoryview) -> str:
    """Name a byte string: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_digest(path: Path) -> tuple[str, int]:
    """Name the content of a regular file and give its size in bytes, in constant memory.

    Raises:
        OSError: the file cannot be read, is a symbolic link, or is no regular file.
    """
    with _open_regular(path) as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}", stream.tell()


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file whole, if it is no longer than `max_bytes`.

    Raises:
        OSError: the file cannot be read, is a symbolic link, or is no regular file.
        CanonicalError: the file is longer than `max_bytes`.
    """
    with _open_regular(path) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CanonicalError(f"{path.name}: more than the {max_bytes} bytes that are allowed")
    return data


def _read(data: bytes, *, max_bytes: int) -> tuple[JsonValue, bool]:
    if len(data) > max_bytes:
        raise CanonicalError(f"{len(data)} bytes, and {max_bytes} are allowed")
    try:
        value: JsonValue = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members)
    except CanonicalError:
        raise
    except (ValueError, RecursionError) as error:
        raise CanonicalError(f"not JSON in UTF-8: {error}") from error
    return value, _check_value(value, levels_left=_MAX_DEPTH)


def _write(value: JsonValue, *, plain: bool) -> bytes:
    try:
        # Without floats, and with keys in ASCII, what the standard library writes is the canonical form,
        # many times faster; a property test compares the two.
        return _PLAIN.encode(value).encode() if plain else rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise CanonicalError(f"no canonical form: {error}") from error


def _open_regular(path: Path) -> BufferedReader:
    # O_NOFOLLOW refuses a link, O_NONBLOCK keeps a pipe from blocking; Windows has neither.
    optional = ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in optional)
    stream = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return stream


def _unique_members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise CanonicalError("an object gives the same key twice")
    return members


def _check_value(value: object, *, levels_left: int) -> bool:
    """Tell whether the value is plain: no floats, and all keys are strings in ASCII."""
    if value is None or isinstance(value, bool | str):
        return True
    if isinstance(value, int | float):
        _check_number(value)
        return isinstance(value, int)
    if not isinstance(value, dict | list | tuple):
        raise CanonicalError(f"JSON has no {type(value).__name__}")
    if levels_left == 0:
        raise CanonicalError(f"nested deeper than {_MAX_DEPTH} levels")
    plain = True
    if isinstance(value, dict):
        plain = _plain_keys(value)
        value = value.values()
    for item in value:
        # Nearly all values are texts, which need no look and no call.
        if type(item) is not str:
            plain &= _check_value(item, levels_left=levels_left - 1)
    return plain


def _plain_keys(value: dict[object, object]) -> bool:
    try:
        return all(map(str.isascii, value))  # type: ignore[arg-type]
    except TypeError:  # a key that is no string is left to rfc8785, which refuses it
        return False


def _check_number(value: float) -> None:
    # Whole numbers first: one of hundreds of digits is too large for a float, and so for isfinite.
    if not isinstance(value, int) and not math.isfinite(value):
        raise CanonicalError(f"{value} is not a finite number")
    # A float below 1e21 is written without an exponent, so it would come back as an integer.
    is_written_whole = isinstance(value, int) or abs(value) < _EXPONENT_FROM
    if is_written_whole and abs(value) > _MAX_INTEGER:
        raise CanonicalError("a whole number is outside ±(2^53-1)")
