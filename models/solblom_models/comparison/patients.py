"""The lists that name patients: files for their owner's eyes, never printed."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from solblom_models.comparison.agreement import flipped
from solblom_models.comparison.pair import RankedPair, ScoredPair

_FORMULA = ("=", "+", "-", "@")


def patient_rows(pair: ScoredPair | RankedPair, threshold: float, *, only_flips: bool) -> bytes:
    """Return a CSV of patients, those first whose answer changed most.

    Args:
        pair: of the two models.
        threshold: yes at or above it.
        only_flips: leave out whose class, or first disease, stayed.
    """
    changed = flipped(pair, threshold)
    scored = isinstance(pair, ScoredPair)
    deltas = np.abs(pair.new - pair.old) if isinstance(pair, ScoredPair) else pair.deltas
    order = [int(i) for i in np.argsort(-deltas, kind="stable") if changed[i] or not only_flips]
    header = _SCORED if scored else _RANKED
    rows = (_scored(pair, i) if isinstance(pair, ScoredPair) else _ranked(pair, i) for i in order)
    return _csv(
        header,
        (
            [harmless(pair.ids[i]), *row, "yes" if changed[i] else "no"]
            for i, row in zip(order, rows, strict=True)
        ),
    )


_SCORED = ("id", "old", "new", "delta", "flipped")
_RANKED = ("id", "old_first", "new_first", "old_rank", "new_rank", "flipped")


def _scored(pair: ScoredPair, index: int) -> list[str]:
    old, new = float(pair.old[index]), float(pair.new[index])
    return [f"{old:.6f}", f"{new:.6f}", f"{new - old:+.6f}"]


def _ranked(pair: RankedPair, index: int) -> list[str]:
    ranks = [str(int(of[index])) if of[index] else "" for of in (pair.old_ranks, pair.new_ranks)]
    return [pair.old_first[index], pair.new_first[index], *ranks]


def harmless(text: str) -> str:
    """Return an id that neither steers a terminal nor starts a formula in a spreadsheet."""
    plain = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace")
