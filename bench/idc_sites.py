"""What each simulated hospital gains by the federation, on the tiles, draws and models of idc_tiles.py; no privacy.

idc_tiles.py scores a hospital's test patients by five models, one a fold, and lays all scores together. Models of 16
patients lie further apart than models of 160, so part of the gain there is only that scores of different models do not
fit together: of the smallest hospital's, without shift, about a third in a look at ten of the draws. Here a positive
and a negative tile are compared only within a fold, so both were scored by one model; pairs are added up over folds.
This was decided after that look, and can only take from the gain.

20 draws, in which every patient is in the smallest hospital twice; a resampling of test patients is used in all draws,
on both sides of the difference. Three other draws were seen first (idc_tiles.py says how).

GOAL: the smallest hospital gains under shift with an interval above 0.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from idc_data import SIZES, Draw, Floats, draw, features_of, read_tiles, stained
from idc_intervals import Interval, Patients, concordance, interval, text
from idc_tiles import OFF, SPLITS, STAINS, Study
from numpy.typing import NDArray
from report import Goal, Table, finish, load_average


def within_folds(
    labels: NDArray[np.int64], scores: Floats, folds: NDArray[np.int64], counts: Floats
) -> Floats:
    """Return the AUROC over pairs of one fold under each row of counts, (R,)."""
    agreeing, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for fold in np.unique(folds):
        inside = folds == fold
        more, among = concordance(labels[inside], scores[inside], counts[:, inside])
        agreeing, pairs = agreeing + more, pairs + among
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = agreeing / pairs
    return found


def gains(study: Study) -> list[tuple[Interval, Interval, Interval]]:
    """Return for each hospital the AUROC alone and federated, and the difference: means over draws."""
    tiles = study.tiles
    counts = Patients(tiles.labels, tiles.patients, study.test).counts()
    kinds = ("own", "federated")
    each: list[dict[str, list[Floats]]] = [{kind: [] for kind in kinds} for _ in SIZES]
    for split in range(SPLITS):
        drawn = draw(tiles, split)
        for kind in kinds:
            scores = study.scores(split, kind)
            for site in range(len(SIZES)):
                at = study.test & (drawn.hospitals == site)
                found = within_folds(tiles.labels[at], scores[at], drawn.folds[at], counts[:, at])
                each[site][kind].append(found)
    answers = []
    for found_of in each:
        own, together = (np.nanmean(found_of[kind], axis=0) for kind in kinds)
        answers.append((interval(own), interval(together), interval(together - own)))
    return answers


def main() -> None:
    """Run both settings and write the result."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    load_at_start = load_average()
    folder = os.environ.get("SOLBLOM_IDC_TILES")
    if folder is None:
        raise SystemExit("SOLBLOM_IDC_TILES must name the folder of tiles")
    tiles = read_tiles(Path(folder))
    plain = features_of(tiles, tiles.pixels)
    turned = [plain, *(features_of(tiles, stained(tiles.pixels, f)) for f in STAINS[1:])]

    def shifted(drawn: Draw) -> Floats:
        return np.choose(drawn.hospitals[:, None], turned)

    found = {
        "stain shift": gains(Study(tiles, shifted)),
        "no shift": gains(Study(tiles, lambda drawn: plain)),
    }
    rows = [
        (name, str(size), text(own), text(together), text(gain, sign=True))
        for name, sites in found.items()
        for size, (own, together, gain) in zip(SIZES, sites, strict=True)
    ]
    report(rows, found["stain shift"][-1][2], found, load_at_start)


def report(
    rows: list[tuple[str, ...]],
    smallest: Interval,
    found: dict[str, list[tuple[Interval, Interval, Interval]]],
    load_at_start: float,
) -> None:
    """Write table and goal."""
    columns = ("stains", "patients of the hospital", "alone", "federated", "difference")
    finish(
        "idc_sites",
        measures="AUROC of tiles of a simulated hospital's test patients, pairs within a fold",
        settings={"rounds": OFF.rounds, "rate": OFF.rate, "momentum": OFF.momentum},
        seeds=range(SPLITS),
        tables=[Table("AUROC within folds, 95 % over patients", columns, tuple(rows))],
        goals=[
            Goal(
                "hospital of 20 under shift, federated minus alone, within folds",
                "interval above 0",
                text(smallest, sign=True),
                smallest[1] > 0,
            )
        ],
        notes=["Hospitals are simulated."],
        results={name: [list(site) for site in sites] for name, sites in found.items()},
        load_at_start=load_at_start,
        out=None,
    )


if __name__ == "__main__":
    main()
