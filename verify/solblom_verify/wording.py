"""How numbers are written for people: one patient, two patients; one spelling of delta."""

from __future__ import annotations

import re


def counted(number: int, one: str, many: str | None = None) -> str:
    """Give a number with its noun: `1 row`, `2 rows`; `many` where a plural needs more than an s."""
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"


def format_delta(delta: float) -> str:
    """Give delta in its shortest spelling, the same wherever it is shown: 1e-5, 0.001."""
    return re.sub(r"e-0*", "e-", repr(float(delta)))
