"""Where two JSON values differ, and by how much at most where only numbers do."""

import math
from collections.abc import Iterator
from typing import Any

MOST_PATHS = 20


def differing_paths(one: Any, other: Any, *, tolerance: float = 0.0) -> list[str]:
    """Return the paths of what differs, such as `sites.va.epsilon`, at most MOST_PATHS.

    Args:
        one: JSON.
        other: JSON.
        tolerance: how far two numbers may be apart; whole numbers, such as ranks and places, must be equal.
    """
    found = []
    for path in _walk(one, other, tolerance, ""):
        found.append(path)
        if len(found) == MOST_PATHS:
            break
    return found


def _walk(one: Any, other: Any, tolerance: float, path: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(set(one) | set(other)):
            below = f"{path}.{name}" if path else name
            if name not in one or name not in other:
                yield below
            else:
                yield from _walk(one[name], other[name], tolerance, below)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield path
            return
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from _walk(first, second, tolerance, f"{path}[{index}]")
    elif not _same(one, other, tolerance):
        yield path


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, int | float) and type(other) is not bool:
        return one == other or math.isclose(one, other, rel_tol=0.0, abs_tol=tolerance)
    if isinstance(other, float) and type(one) is int:
        return _same(other, one, tolerance)
    return type(one) is type(other) and bool(one == other)
