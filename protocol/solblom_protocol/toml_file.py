"""TOML files in, checked models out: an unknown key is an error that names the nearest key."""

import datetime as dt
import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from solblom_protocol.errors import ConfigurationError

_TRIED = re.compile(r"(constrained-)?(float|int|str|bool|date)|literal\[.*\]")
_TABLE = re.compile(r"dict\[.*\]")  # tried beside a single value
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
MAX_FILE_BYTES = 4 * 1024 * 1024

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the file's tables.

    Raises:
        ConfigurationError: the file is missing, too large or not TOML (SB-101).
    """
    return parse_toml(read_text(path), source=path)


def read_text(path: Path) -> bytes:
    """Return the file's bytes.

    Raises:
        ConfigurationError: the file is missing or too large (SB-101).
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError("SB-101", f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None


def parse_toml(text: bytes, *, source: Path) -> dict[str, Any]:
    """Return the tables that a file's bytes hold.

    Raises:
        ConfigurationError: they are not TOML (SB-101).
    """
    try:
        # A text file of any system: its line ends are one.
        return tomllib.loads(text.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n"))
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise ConfigurationError("SB-101", f"{source} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError("SB-101", f"{source} is nested too deep") from None


def parse(model: type[Model], value: Any, *, source: str) -> Model:
    """Return `value` as `model`.

    Raises:
        ConfigurationError: unknown key (SB-102) or missing or wrong value (SB-103); one line an
        error.
    """
    try:
        # Through JSON, so that strict models read lists as tuples and texts as dates, and convert
        # nothing else: true is not the number 1.
        return model.model_validate_json(json.dumps(value, default=_iso_date))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            message = f"{source}: a value is not a finite number, a text, a list or a date"
            raise ConfigurationError("SB-103", message) from None
        details = error.errors(include_url=False, include_input=False)
        unknown = [d for d in details if d["type"] == "extra_forbidden"]
        lines = _lines(model, [_by_name(value, detail) for detail in unknown or details])
        code = "SB-102" if unknown else "SB-103"
        raise ConfigurationError(code, f"{source}: " + "; ".join(lines)) from None


def _iso_date(value: object) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _lines(model: type[BaseModel], details: list[ErrorDetails]) -> list[str]:
    """Return a line for each place; a place where one of several kinds is allowed has one, too."""
    found: dict[str, list[str]] = {}
    for detail in details:
        where = ".".join(str(part) for part in _place(detail)) or "the file"
        if detail["type"] == "extra_forbidden":
            found[where] = [_unknown(model, where, detail)]
        else:
            found.setdefault(where, []).append(f"{detail['msg'][:1].lower()}{detail['msg'][1:]}")
    return [
        said[0] if said[0].startswith("unknown key") else f"`{where}`: {', or '.join(said)}"
        for where, said in found.items()
    ]


def _by_name(value: Any, detail: ErrorDetails) -> ErrorDetails:
    """Say `variable "glucose"` instead of `variable.3`: nobody counts the tables of a file, from 0."""
    place: list[int | str] = []
    for part in detail["loc"]:
        inside = isinstance(part, int) and isinstance(value, list) and part < len(value)
        value = value[part] if inside else value.get(part) if isinstance(value, dict) else None
        name = value.get("name") if inside and isinstance(value, dict) else None
        if place and isinstance(name, str) and _NAME.fullmatch(name):
            place[-1] = f'{place[-1]} "{name}"'
        else:
            place.append(part)
    return {**detail, "loc": tuple(place)}


def _place(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Return where an error is; pydantic adds which of several kinds it tried, which nobody typed."""
    place = tuple(part for part in detail["loc"] if not _TABLE.fullmatch(str(part)))
    return place[:-1] if len(place) > 1 and _TRIED.fullmatch(str(place[-1])) else place


def _unknown(model: type[BaseModel], where: str, detail: ErrorDetails) -> str:
    near = difflib.get_close_matches(str(detail["loc"][-1]), sorted(_keys(model)), n=1, cutoff=0.5)
    suggestion = f"; did you mean `{near[0]}`?" if near else ""
    return f"unknown key `{where}`{suggestion}"


def _keys(model: type[BaseModel]) -> set[str]:
    """All keys of a model and of the models inside it."""
    found: set[str] = set()
    waiting: list[Any] = [model]
    while waiting:
        item = waiting.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            for name, field in item.model_fields.items():
                found.add(field.alias or name)
                waiting.append(field.annotation)
        else:
            waiting.extend(getattr(item, "__args__", ()))
    return found
