"""Counts of few patients are not shown: the same limit as for every other figure of the product.

A comparison stays in its hospital. Screens, printouts and slides of talks do not always.
"""

from solblom_models.metrics import MIN_CLASS


def is_small(count: int) -> bool:
    """Tell whether a count is of somebody, and of so few that they might be recognised."""
    return 0 < count < MIN_CLASS


def shown_count(count: int) -> int | None:
    """Return a count, or None where it is small."""
    return None if is_small(count) else count


def shown_parts(*parts: int) -> tuple[int | None, ...]:
    """Return parts of a whole that is shown: none of them where one is small, since the others would give it away."""
    return (None,) * len(parts) if any(is_small(part) for part in parts) else parts


def shown_share(part: int, whole: int) -> float | None:
    """Return part / whole, or None where either side of it is small or there are too few patients at all."""
    if whole < MIN_CLASS or is_small(part) or is_small(whole - part):
        return None
    return round(part / whole, 6)
