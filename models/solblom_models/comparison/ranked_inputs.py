"""Phenopackets read for two models that rank diseases: each with its own HPO release and label space."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solblom_models.comparison.pair import RankedPair, Unit, Version
from solblom_models.comparison.ranked import own_ranks
from solblom_models.phenotype.cases import CaseUnits, units_of
from solblom_models.phenotype.net import Ranker
from solblom_models.phenotype.prediction import read_new_cases
from solblom_protocol.errors import DataError, RunError

FIRST = 10


@dataclass(frozen=True)
class _Ranked:
    """What one model says of the cases that it can read."""

    units: CaseUnits
    scores: NDArray[np.float64]  # (N, K)
    diseases: tuple[str, ...]


def ranked_pair(old: Version, new: Version, path: Path) -> RankedPair:
    """Return the cases that both models can read, in the order of the input.

    Raises:
        RunError: SB-506.
    """
    ours, theirs = _ranked(old, path), _ranked(new, path)
    position = {name: place for place, name in enumerate(theirs.units.ids)}
    kept = [name for name in ours.units.ids if name in position]
    if not kept:
        raise RunError("SB-506", "There is no case that both models can read")
    mine = {name: place for place, name in enumerate(ours.units.ids)}
    rows_old = np.array([mine[name] for name in kept])
    rows_new = np.array([position[name] for name in kept])
    groups, unit = _groups(ours.units, rows_old.tolist())
    ranks = _own(ours, theirs, rows_old, rows_new)
    first = [_first(m, rows) for m, rows in ((ours, rows_old), (theirs, rows_new))]
    left_out = {
        "only the old model can read": len(mine) - len(kept),
        "only the new model can read": len(position) - len(kept),
    }
    return RankedPair(
        ids=tuple(kept),
        groups=groups,
        unit=unit,
        old_first=tuple(names[0] for names in first[0]),
        new_first=tuple(names[0] for names in first[1]),
        shared=np.array(
            [len(set(a) & set(b)) / max(len(a), len(b)) for a, b in zip(*first, strict=True)]
        ),
        deltas=_deltas(ours, theirs, rows_old, rows_new),
        old_ranks=ranks[0],
        new_ranks=ranks[1],
        left_out={words: count for words, count in left_out.items() if count},
    )


def _ranked(version: Version, path: Path) -> _Ranked:
    net = version.model.net
    if not isinstance(net, Ranker):
        raise RunError("SB-506", f"The net of {version.ref} is no ranker")
    try:
        cases, _ = read_new_cases(path, version.model.document)
    except DataError as error:
        raise RunError("SB-506", f"{version.ref} cannot read it: {error.message}") from None
    if not cases:
        raise RunError("SB-506", f"{version.ref} can read no case there")
    units = units_of(cases, net.knowledge.space)
    return _Ranked(units, net.scores(units), tuple(net.knowledge.space.diseases))


def _groups(units: CaseUnits, rows: Sequence[int]) -> tuple[tuple[str, ...], Unit]:
    """Return what is resampled as one: publications where cases name them, else families, else patients."""
    kinds: tuple[Unit, ...] = ("publication", "family")
    for kind in kinds:
        of = units.groups.get(kind, ())
        if any(of[row] for row in rows):
            return tuple(of[row] or f"\0{units.ids[row]}" for row in rows), kind
    return tuple(units.ids[row] for row in rows), "patient"


def _own(
    ours: _Ranked, theirs: _Ranked, rows_old: NDArray[np.int64], rows_new: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rank of each case's own disease in both; 0 where it has none that both models know."""
    old_labels, new_labels = ours.units.labels[rows_old], theirs.units.labels[rows_new]
    same = np.array(
        [
            a >= 0 and b >= 0 and ours.diseases[a] == theirs.diseases[b]
            for a, b in zip(old_labels.tolist(), new_labels.tolist(), strict=True)
        ]
    )
    return (
        own_ranks(ours.scores[rows_old], np.where(same, old_labels, -1)),
        own_ranks(theirs.scores[rows_new], np.where(same, new_labels, -1)),
    )


def _first(found: _Ranked, rows: NDArray[np.int64]) -> list[list[str]]:
    """Return the first diseases of each case; equal scores in the order of their names, so that both lists agree."""
    names = np.array(found.diseases)
    by_name = np.argsort(names, kind="stable")
    lists = []
    for row in rows.tolist():
        scores = np.nan_to_num(found.scores[row][by_name], nan=-np.inf)
        order = np.argsort(-scores, kind="stable")[:FIRST]
        lists.append(names[by_name][order].tolist())
    return lists


def _deltas(
    ours: _Ranked, theirs: _Ranked, rows_old: NDArray[np.int64], rows_new: NDArray[np.int64]
) -> NDArray[np.float64]:
    both = sorted(set(ours.diseases) & set(theirs.diseases))
    if not both:
        raise RunError("SB-506", "The models have no disease in common")
    parts = []
    for found, rows in ((ours, rows_old), (theirs, rows_new)):
        place = {name: index for index, name in enumerate(found.diseases)}
        scores = found.scores[np.ix_(rows, np.array([place[name] for name in both]))]
        parts.append(scores - scores.mean(axis=1, keepdims=True))
    deltas: NDArray[np.float64] = np.abs(parts[1] - parts[0]).max(axis=1)
    return deltas
