"""How a hospital's scanners stain, beside the public reference: what a pathologist looks at before a study begins."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from solblom_client.slides.bags import MadeBags
from solblom_models.slides.slide_features import SlideFacts

REFERENCE = (0.283, 0.157)
"""Mean haematoxylin and eosin of OpenSlide's CMU-1-Small-Region (bench/stain_reference.py)."""
ALIKE = 0.32  # of the logarithm to base 2: a quarter more or less
FAR = 0.8


@dataclass(frozen=True)
class StainRow:
    """Slides of one scanner: their resolution, and mean and spread of the mean optical density of each stain."""

    scanner: str
    slides: int
    finest: float  # microns per pixel of the scans
    coarsest: float
    tiles: float
    haematoxylin: float
    haematoxylin_sd: float
    eosin: float
    eosin_sd: float
    apart: float  # the larger of |log2(stain / reference)|
    in_words: str


def stain_table(made: MadeBags) -> list[StainRow]:
    """Return a row for each scanner that the index names, in alphabetical order; slides without one are together."""
    groups: dict[str, list[SlideFacts]] = {}
    for row in made.rows:
        if row.line in made.facts:
            groups.setdefault(row.scanner or "not named", []).append(made.facts[row.line])
    return [_row(name, groups[name]) for name in sorted(groups)]


def resolution_in_words(row: StainRow) -> str:
    """Return the microns per pixel of a scanner's slides: a slide that claims another stands out."""
    ends = f"{row.finest:.3g}", f"{row.coarsest:.3g}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _row(name: str, facts: Sequence[SlideFacts]) -> StainRow:
    stains = [[f.haematoxylin for f in facts], [f.eosin for f in facts]]
    means = [statistics.fmean(values) for values in stains]
    spreads = [statistics.pstdev(values) for values in stains]
    logs = [math.log2(max(m, 1e-3) / r) for m, r in zip(means, REFERENCE, strict=True)]
    apart = max(abs(value) for value in logs)
    return StainRow(
        scanner=name,
        slides=len(facts),
        finest=round(min(f.microns_per_pixel for f in facts), 4),
        coarsest=round(max(f.microns_per_pixel for f in facts), 4),
        tiles=statistics.fmean(f.tiles for f in facts),
        haematoxylin=round(means[0], 4),
        haematoxylin_sd=round(spreads[0], 4),
        eosin=round(means[1], 4),
        eosin_sd=round(spreads[1], 4),
        apart=round(apart, 3),
        in_words=_in_words(logs, apart),
    )


def _in_words(logs: Sequence[float], apart: float) -> str:
    if apart <= ALIKE:
        return "alike"
    told = [
        f"{stain} × {2**value:.2f}"
        for stain, value in zip(("haematoxylin", "eosin"), logs, strict=True)
        if abs(value) > ALIKE
    ]
    return ("far: " if apart > FAR else "") + ", ".join(told)
