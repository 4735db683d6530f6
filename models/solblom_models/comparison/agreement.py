"""Whether two models say the same of the same patients, whatever is true of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.comparison.pair import RankedPair, ScoredPair
from solblom_models.comparison.small_groups import is_small, shown_count, shown_parts, shown_share
from solblom_models.metrics import MIN_CLASS, Scores

TENTHS = 10
FEW = f"fewer than {MIN_CLASS} patients"


def tenths(scores: Scores) -> NDArray[np.int64]:
    """Return in which tenth of [0, 1] each probability lies, 0 to 9: it depends on no other patient."""
    return np.minimum((np.clip(scores, 0.0, 1.0) * TENTHS).astype(np.int64), TENTHS - 1)


def flipped(pair: ScoredPair | RankedPair, threshold: float) -> NDArray[np.bool_]:
    """Return whose class, or first disease, is another with the new model, shape (N,)."""
    if isinstance(pair, RankedPair):
        return np.array([a != b for a, b in zip(pair.old_first, pair.new_first, strict=True)], bool)
    return np.asarray((pair.old >= threshold) != (pair.new >= threshold), dtype=np.bool_)


def agreement(pair: ScoredPair, *, threshold: float, tolerance: float) -> dict[str, Any]:
    """Return shares of patients with the same class and tenth, and how far probabilities are apart.

    Args:
        pair: of the two models.
        threshold: yes at or above it.
        tolerance: how far apart two probabilities are still the same.
    """
    count, deltas = len(pair.ids), np.abs(pair.new - pair.old)
    if count < MIN_CLASS:
        return {"reason": FEW}
    return {
        "same_class": shown_share(count - int(flipped(pair, threshold).sum()), count),
        "same_tenth": shown_share(int((tenths(pair.old) == tenths(pair.new)).sum()), count),
        "within_tolerance": shown_share(int((deltas <= tolerance).sum()), count),
        "largest_delta": round(float(deltas.max()), 6),
        "mean_delta": round(float(deltas.mean()), 6),
        "reason": None,
    }


def ranked_agreement(pair: RankedPair, *, tolerance: float) -> dict[str, Any]:
    """Return how often the first disease is the same, how much the first ten share, and how far scores are apart."""
    count = len(pair.ids)
    if count < MIN_CLASS:
        return {"reason": FEW}
    return {
        "same_first": shown_share(count - int(flipped(pair, 0.0).sum()), count),
        "same_first_ten": shown_share(int((pair.shared == 1.0).sum()), count),
        "shared_of_first_ten": round(float(pair.shared.mean()), 6),
        "within_tolerance": shown_share(int((pair.deltas <= tolerance).sum()), count),
        "largest_delta": round(float(pair.deltas.max()), 6),
        "mean_delta": round(float(pair.deltas.mean()), 6),
        "reason": None,
    }


def flips(pair: ScoredPair | RankedPair, threshold: float) -> dict[str, Any]:
    """Return how many patients change class, and in which direction; of rankings how many change the first disease."""
    changed = flipped(pair, threshold)
    total = int(changed.sum())
    reason = "1 to 4 patients: not counted out" if is_small(total) else None
    found: dict[str, Any] = {"patients": shown_count(total), "reason": reason}
    if isinstance(pair, ScoredPair):
        to_yes = int((changed & (pair.new >= threshold)).sum())
        parts = (None, None) if is_small(total) else shown_parts(to_yes, total - to_yes)
        found |= {"to_yes": parts[0], "to_no": parts[1]}
    if len(pair.ids) < MIN_CLASS:
        return dict.fromkeys(found) | {"reason": FEW}
    return found
