"""Reading JSON objects by type: a member has the form asked for, or the reader says where not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from solblom_verify.canonical import JsonValue

_Kind = TypeVar("_Kind", bool, int, str, list[JsonValue], dict[str, JsonValue])
_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class ShapeError(ValueError):
    """A JSON value does not have the form its place asks for."""


@dataclass(frozen=True)
class JsonObject:
    """A JSON object and where it stands; every method raises ShapeError for a wrong form."""

    members: Mapping[str, JsonValue]
    where: str  # for reasons: "manifest.model"

    @classmethod
    def of(cls, value: JsonValue, where: str) -> JsonObject:
        """Take a value that must be an object."""
        if not isinstance(value, dict):
            raise ShapeError(f"{where} is not an object")
        return cls(value, where)

    def only(self, required: Collection[str], *, optional: Collection[str] = ()) -> JsonObject:
        """Give the object itself, if its members are the required ones and some optional ones."""
        for key in sorted(set(required) - self.members.keys()):
            raise ShapeError(f"{self.where} lacks {key!a}")
        for key in sorted(self.members.keys() - set(required) - set(optional)):
            raise ShapeError(f"{self.where} has an unknown member {key!a}")
        return self

    def get(self, key: str, kind: type[_Kind]) -> _Kind:
        """Give the member `key`, of exactly this type: true is no int."""
        if key not in self.members:
            raise ShapeError(f"{self.where} lacks {key!a}")
        value = self.members[key]
        # `type` and not isinstance: bool is a subclass of int.
        if type(value) is not kind:
            raise ShapeError(f"{self.where}.{key} is {type(value).__name__}, not {kind.__name__}")
        return value

    def object(self, key: str) -> JsonObject:
        """Give the object at `key`."""
        return JsonObject(self.get(key, dict), f"{self.where}.{key}")

    def objects(self, key: str) -> tuple[JsonObject, ...]:
        """Give the objects in the array at `key`, in order."""
        where = f"{self.where}.{key}"
        items = enumerate(self.get(key, list))
        return tuple(JsonObject.of(item, f"{where}[{index}]") for index, item in items)

    def texts(self, key: str) -> tuple[str, ...]:
        """Give the strings in the array at `key`, in order."""
        items = self.get(key, list)
        if not all(isinstance(item, str) for item in items):
            raise ShapeError(f"{self.where}.{key} holds something else than strings")
        return tuple(map(str, items))

    def items(self) -> Iterator[tuple[str, JsonObject]]:
        """Give every member as a pair of key and object."""
        return ((key, self.object(key)) for key in self.members)

    def text(self, key: str, *, like: re.Pattern[str] | None = None) -> str:
        """Give the string at `key`: not empty, and of the form `like` as a whole."""
        value = self.get(key, str)
        if not value or (like is not None and not like.fullmatch(value)):
            expected = f"not of the form {like.pattern}" if like else "empty"
            raise ShapeError(f"{self.where}.{key} is {expected}")
        return value

    def digest(self, key: str) -> str:
        """Give the digest at `key`: `sha256:` and 64 hexadecimal digits."""
        return self.text(key, like=_DIGEST)

    def sha256(self, key: str) -> str:
        """Give the 64 hexadecimal digits at `key`."""
        return self.text(key, like=_HEX)

    def time(self, key: str) -> datetime:
        """Give the time at `key`: RFC 3339, UTC, whole seconds, written with Z."""
        value = self.text(key)
        try:
            time = datetime.strptime(value, _TIME).replace(tzinfo=UTC)
            # strptime takes "2036-1-1T0:0:0Z" as well; there is one spelling.
            if time.isoformat() != f"{value[:-1]}+00:00":
                raise ValueError(value)
        except ValueError as error:
            raise ShapeError(f"{self.where}.{key} is not a time like {_TIME}") from error
        return time
