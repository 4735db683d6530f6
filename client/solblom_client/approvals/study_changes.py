"""What has changed in a study since its version that was approved before: every setting, by its path."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from solblom_verify.canonical import JsonValue, parse_json

MOST_CHARACTERS = 160  # of a value that is shown
BEFORE_THE_CHANGE = 40  # shown of a long text ahead of its first difference
ABSENT = "-"


@dataclass(frozen=True)
class ApprovedBefore:
    """A version of a study that this hospital approved."""

    name: str
    payload: bytes
    approved: str
    code: str

    @classmethod
    def of(cls, payload: bytes, *, approved: str, code: str) -> "ApprovedBefore":
        """Return the version in a study's payload, of this version of Solblom or of another."""
        name: JsonValue = parse_json(payload)
        for member in ("study", "study", "name"):
            name = name.get(member) if isinstance(name, dict) else None
        return cls(str(name), payload, approved, code)


@dataclass(frozen=True)
class Change:
    """One setting: where it stands, what it was, what it is."""

    path: str
    old: str
    new: str


def study_changes(before: ApprovedBefore, payload: bytes, code: str) -> tuple[Change, ...]:
    """Return every difference between the approved version and a new one, the node's code among them."""
    found = list(_compare("", parse_json(before.payload), parse_json(payload)))
    if before.code != code:
        found.append(Change("code", before.code, code))
    return tuple(found)


def _compare(path: str, old: JsonValue, new: JsonValue) -> Iterator[Change]:
    if _is_same(old, new):
        return
    old_members, new_members = _members(old), _members(new)
    if old_members is None or new_members is None:
        yield Change(path, *_texts(_shown(old), _shown(new)))
        return
    if list(old_members) != list(new_members) and isinstance(old, list):
        yield Change(
            f"{path} (order)", _cut(", ".join(old_members), 0), _cut(", ".join(new_members), 0)
        )
    for name in sorted({*old_members, *new_members}):
        inner = f"{path}.{name}" if path else name
        if name not in old_members:
            yield Change(inner, ABSENT, _cut(_shown(new_members[name]), 0))
        elif name not in new_members:
            yield Change(inner, _cut(_shown(old_members[name]), 0), ABSENT)
        else:
            yield from _compare(inner, old_members[name], new_members[name])


def _is_same(old: JsonValue, new: JsonValue) -> bool:
    return _shown(old) == _shown(new)  # as text: in Python true equals 1


def _members(value: JsonValue) -> dict[str, JsonValue] | None:
    """Return the members of an object, or of a list whose entries all have a name or a site of their own."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, list) or not value:
        return None
    names = [_name(entry) for entry in value]
    if None in names or len(set(names)) != len(names):
        return None
    return {str(name): entry for name, entry in zip(names, value, strict=True)}


def _name(entry: JsonValue) -> str | None:
    if not isinstance(entry, dict):
        return None
    name = entry.get("name", entry.get("site"))
    return name if isinstance(name, str) else None


def _shown(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _texts(old: str, new: str) -> tuple[str, str]:
    """Return two values so that their first difference is in what is shown."""
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    start = max(0, same - BEFORE_THE_CHANGE)
    if max(len(old), len(new)) <= MOST_CHARACTERS:
        start = 0
    return _cut(old, start), _cut(new, start)


def _cut(text: str, start: int) -> str:
    shown = text[start : start + MOST_CHARACTERS]
    return ("…" if start else "") + shown + ("…" if start + MOST_CHARACTERS < len(text) else "")
