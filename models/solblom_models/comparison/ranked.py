"""What a new model gains in where patients' own diseases stand."""

from typing import Any

import numpy as np

from solblom_models.comparison.pair import RankedPair
from solblom_models.comparison.paired import listed, mcnemar
from solblom_models.metrics import MIN_CLASS
from solblom_models.ranking import mean_with_interval

TOPS = (1, 10)


def ranked_performance(pair: RankedPair, *, resamples: int) -> dict[str, Any] | None:
    """Return top-1, top-10 and mean reciprocal rank of both models and new minus old, each with a 95 % interval.

    Intervals resample whole groups. Only patients count whose own disease both models know; None where there are none.
    """
    known = (pair.old_ranks > 0) & (pair.new_ranks > 0)
    count = int(known.sum())
    if not count:
        return None
    if count < MIN_CLASS:
        return {"reason": f"fewer than {MIN_CLASS} patients whose disease both models know"}
    groups = [group for group, counts in zip(pair.groups, known, strict=True) if counts]
    old, new = pair.old_ranks[known], pair.new_ranks[known]
    columns = {
        f"top_{top}": ((old <= top).astype(float), (new <= top).astype(float)) for top in TOPS
    }
    columns["mrr"] = (1.0 / old, 1.0 / new)
    found: dict[str, Any] = {"reason": None, "patients": count, "groups": len(set(groups))}
    for name, (ours, theirs) in columns.items():
        parts = {"old": ours, "new": theirs, "difference": theirs - ours}
        found[name] = {
            part: listed(mean_with_interval(values, groups, resamples=resamples))
            for part, values in parts.items()
        }
    independent = len(set(groups)) == len(groups)
    found["mcnemar"] = mcnemar(old == 1, new == 1) if independent else None
    if not independent:
        found["tests"] = f"not shown: patients of one {pair.unit} are not independent"
    return found


def own_ranks(
    scores: np.ndarray[Any, np.dtype[np.float64]], own: np.ndarray[Any, np.dtype[np.int64]]
) -> Any:
    """Return the rank of each patient's own disease among the columns, ties against the model; 0 where `own` is -1."""
    known = np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    held = known[np.arange(len(own)), np.maximum(own, 0)]
    ranks = (known >= held[:, None]).sum(axis=1).astype(np.int64)
    return np.where(own >= 0, ranks, 0)
