"""Updates that stand apart: sizes, and whether they point where the others point.

Only where the artefact keeps each hospital's update, which it does under local noise. Every update carries its
hospital's noise, so a difference may be noise; a flag is a question, not a verdict.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solblom_server.steward.artefact_files import ArtefactFiles

UPDATES = "training/updates"
NAME = re.compile(r"(?P<round>[0-9]{3,5})-(?P<site>[a-z0-9][a-z0-9-]{0,62})\.bin")
APART = 3.5  # modified z-score from which on a size is flagged (Iglewicz & Hoaglin 1993)
TIMES = 2.0  # and this many times the median, or one part of it: among few hospitals a score alone flags noise
FEWEST = 3  # hospitals in a round, below which nothing can stand apart
MOST_BYTES = 256 * 1024**2  # read for one page, all updates together

Update = NDArray[np.float64]


@dataclass(frozen=True)
class Screened:
    """One hospital's update of one round: its norm, and the cosine to the mean of the others'."""

    round: int
    site: str
    norm: float
    cosine: float | None
    is_flagged: bool


@dataclass(frozen=True)
class Screening:
    """All updates of a run, and how far the model moved in each round."""

    updates: tuple[Screened, ...]
    moved: Mapping[int, float]  # norm of the mean update, by round
    left_out: int  # rounds that were not read, because all together are too large


def screen(files: ArtefactFiles) -> Screening | None:
    """Return how the stored updates compare; None where the artefact keeps none."""
    found: dict[int, dict[str, str]] = {}
    for name in files.names(UPDATES):
        match = NAME.fullmatch(name)
        if match:
            found.setdefault(int(match["round"]), {})[match["site"]] = name
    if not found:
        return None
    screened: list[Screened] = []
    moved: dict[int, float] = {}
    read = 0
    for number in sorted(found):
        folder = files.folder / UPDATES
        size = sum((folder / name).stat().st_size for name in found[number].values())
        if read + size > MOST_BYTES:
            break
        read += size
        updates = {
            site: np.frombuffer((folder / name).read_bytes(), dtype="<f4").astype(np.float64)
            for site, name in sorted(found[number].items())
        }
        moved[number] = float(np.linalg.norm(np.mean(list(updates.values()), axis=0)))
        screened += screen_round(number, updates)
    return Screening(tuple(screened), moved, len(found) - len(moved))


def screen_round(number: int, updates: Mapping[str, Update]) -> list[Screened]:
    """Return the updates of one round, each beside the others."""
    norms = {site: float(np.linalg.norm(update)) for site, update in updates.items()}
    scores = _modified_z_scores(list(norms.values()))
    middle = float(np.median(list(norms.values())))
    total = np.sum(list(updates.values()), axis=0)
    result = []
    for (site, update), score in zip(updates.items(), scores, strict=True):
        others = total - update
        length = float(np.linalg.norm(others)) * norms[site]
        cosine = float(update @ others) / length if len(updates) > 1 and length > 0 else None
        is_flagged = abs(score) > APART and _is_far(norms[site], middle)
        result.append(Screened(number, site, norms[site], cosine, is_flagged))
    return result


def _is_far(norm: float, middle: float) -> bool:
    return norm > TIMES * middle or norm < middle / TIMES


def _modified_z_scores(values: list[float]) -> list[float]:
    """Return how far each value lies from the median, in robust standard deviations; zeros where too few."""
    if len(values) < FEWEST:
        return [0.0] * len(values)
    middle = float(np.median(values))
    spread = float(np.median(np.abs(np.array(values) - middle)))
    # Where all but one agree exactly, any difference would be infinite: a hundredth of the median at least.
    spread = max(spread, 0.01 * abs(middle), 1e-12)
    return [0.6745 * (value - middle) / spread for value in values]
