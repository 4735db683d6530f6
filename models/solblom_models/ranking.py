"""How well diseases are ranked: where a patient's disease stands, and what that comes to over many patients.

A rank counts every disease that scores at least as high, so ties count against the model and a disease that the
model cannot tell from all others stands last. Intervals resample whole groups (publications, families), because
patients of one paper resemble each other (cluster bootstrap; Field & Welsh 2007).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.metrics import BOOTSTRAP_SEED, Estimate, bootstrapped

TOPS = (1, 5, 10)
RESAMPLES = 1_000

Ranks = NDArray[np.int64]


def ranks_of(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Ranks:
    """Return the rank of each patient's disease, 1 to K; `scores` has shape (N, K).

    A score that is not a number ranks last.

    Raises:
        ValueError: shapes differ, or a label is outside the label space.
    """
    if scores.ndim != 2 or scores.shape[0] != len(labels):
        raise ValueError("one row of scores for each patient is needed")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise ValueError("a label is outside the label space")
    known = np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    own = known[np.arange(len(labels)), labels]
    ranks: Ranks = (known >= own[:, None]).sum(axis=1).astype(np.int64)
    return ranks


def ranking_metrics(
    ranks: Ranks,
    labels: NDArray[np.int64],
    groups: Sequence[str],
    *,
    rare: frozenset[int] = frozenset(),
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return top-1, top-5 and top-10 recall, MRR, and top-1 and top-10 as means over diseases.

    Args:
        ranks: shape (N,).
        labels: diseases of the patients, shape (N,).
        groups: what is resampled as one; a patient without a group stands for itself.
        rare: diseases of which a report shows top-1 and top-10 apart.
        resamples: of the bootstrap.
    """
    if not len(ranks):
        return {"patients": 0}
    columns = _columns(ranks, labels, rare)
    weights = _group_weights(groups, resamples)
    found: dict[str, Any] = {"patients": len(ranks), "groups": int(weights.groups)}
    for name, (values, members) in columns.items():
        share = _bootstrap(values, members, weights)
        if share is not None:
            found[name] = _json(share)
    for top in (1, 10):
        found[f"macro_top_{top}"] = _json(_macro(ranks <= top, labels, weights))
    found["diseases"] = len(set(labels.tolist()))
    return found


def mean_with_interval(
    values: NDArray[np.float64], groups: Sequence[str], *, resamples: int = RESAMPLES
) -> Estimate:
    """Return the mean over patients with a 95 % interval that resamples whole groups.

    Args:
        values: one a patient, shape (N,), N at least 1; a difference of two models is paired thereby.
        groups: whose each patient is.
        resamples: of the bootstrap; its seed is fixed, so all means of the same groups see the same resamples.
    """
    found = _bootstrap(values, np.ones(len(values), dtype=bool), _group_weights(groups, resamples))
    if found is None:
        raise ValueError("a mean needs a patient")
    return found


def _columns(
    ranks: Ranks, labels: NDArray[np.int64], rare: frozenset[int]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    everybody = np.ones(len(ranks), dtype=bool)
    columns = {f"top_{top}": ((ranks <= top).astype(float), everybody) for top in TOPS}
    columns["mrr"] = (1.0 / ranks, everybody)
    if rare:
        members = np.isin(labels, sorted(rare))
        for top in (1, 10):
            columns[f"rare_top_{top}"] = ((ranks <= top).astype(float), members)
    return columns


@dataclass(frozen=True)
class _Weights:
    """How often each patient's group was drawn, shape (resamples, N) by `draws[:, group_of]`."""

    draws: NDArray[np.float64]
    group_of: NDArray[np.int64]

    @property
    def groups(self) -> int:
        return int(self.draws.shape[1])


def _group_weights(groups: Sequence[str], resamples: int) -> _Weights:
    names, group_of = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    count = len(names)
    draws = generator.multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return _Weights(draws.astype(np.float64), group_of.astype(np.int64))


def _summed(values: NDArray[np.float64], weights: _Weights) -> NDArray[np.float64]:
    """Return the resampled sums over patients, shape (resamples,)."""
    by_group = np.bincount(weights.group_of, weights=values, minlength=weights.groups)
    summed: NDArray[np.float64] = weights.draws @ by_group
    return summed


def _bootstrap(
    values: NDArray[np.float64], members: NDArray[np.bool_], weights: _Weights
) -> Estimate | None:
    if not members.any():
        return None
    whole, part = members.astype(float), np.where(members, values, 0.0)
    sums, counts = _summed(part, weights), _summed(whole, weights)
    drawn = sums[counts > 0] / counts[counts > 0]
    return bootstrapped(float(values[members].mean()), drawn)


def _macro(hits: NDArray[np.bool_], labels: NDArray[np.int64], weights: _Weights) -> Estimate:
    """Return the mean over diseases of the share of their patients; a resample has the diseases that it drew."""
    diseases = np.unique(labels)
    shares, present = [], []
    for disease in diseases:
        members = (labels == disease).astype(float)
        counts = _summed(members, weights)
        sums = _summed(members * hits, weights)
        present.append(counts > 0)
        shares.append(np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0))
    there = np.array(present)
    drawn = np.array(shares).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    value = float(np.mean([hits[labels == disease].mean() for disease in diseases]))
    return bootstrapped(value, drawn)


def _json(share: Estimate) -> list[float]:
    """Return value and interval, six decimals."""
    return [round(number, 6) for number in astuple(share)]
