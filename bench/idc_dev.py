"""Where privacy with local noise loses AUROC on tiles, on the development patients of idc_tiles.py alone.

Recipes of idc_tiles.py at epsilon 3, trained and scored among its 96 development patients in 5 folds. Noise is scaled
by 77/160, as fewer patients train here, and varied: as local noise has it, smaller by a factor of 1.41, as a shared sum
has it, none. Draws of folds and noise are others than those by which the recipes were chosen. No goal: a choice is
explained here, not judged.

SOLBLOM_IDC_TILES names the folder of tiles.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
from idc_data import FOLDS, SCALE, SIZES, Floats, Tiles, draw, features_of, is_test, read_tiles
from idc_tiles import LOCAL_THREE, OFF, SHARED_THREE, Recipe, fit, turned
from report import Table, finish, load_average

from solblom_models.metrics import auroc

DRAWS, NOISES = range(200, 205), 4
FEWER_PATIENTS = 77 / 160  # who train here, over who train in idc_tiles.py
BEFORE = Recipe(22, 6.5, 3.0, shared=False, momentum=0.7, clipping=0.04, positive=7.0)
QUIETER = {"as local": 1.0, "smaller by 1.41": 0.5**0.5, "as shared": 0.5, "none": 0.0}


def area(
    tiles: Tiles, plain: Floats, recipe: Recipe, quieter: float, seed: tuple[int, int]
) -> float:
    """Return the AUROC of all development tiles, each scored by a head of the other folds."""
    split, noise = seed
    chosen = np.array([not is_test(patient) for patient in tiles.patients])
    folds = draw(tiles, split).folds[chosen]
    labels, patients = tiles.labels[chosen], tiles.patients[chosen]
    features = plain[chosen] if recipe.epsilon is None else turned(plain[chosen], recipe)
    found = np.zeros(len(labels))
    for fold in range(FOLDS):
        rng = np.random.default_rng([20261129, split, fold, noise])
        rest, part = folds != fold, folds == fold
        # Deviations of sums: local noise is that of all hospitals together.
        head = fit(
            *(features[rest], labels[rest], patients[rest], recipe),
            sites=len(SIZES),
            noise=rng,
            quieter=quieter * FEWER_PATIENTS,
        )
        found[part] = features[part] @ head
    return auroc(labels, found)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="another result file")
    options = parser.parse_args()
    folder = os.environ.get("SOLBLOM_IDC_TILES")
    if not folder:
        raise SystemExit("SOLBLOM_IDC_TILES must name the folder of tiles")
    load = load_average()
    tiles = read_tiles(Path(folder))
    plain = features_of(tiles, tiles.pixels)
    arms = {"no privacy": (OFF, 1.0)}
    arms |= {f"heads, noise {n}": (LOCAL_THREE, quieter) for n, quieter in QUIETER.items()}
    arms |= {"one loss, recipe before": (BEFORE, 1.0)}
    arms |= {"one loss, shared recipe": (replace(SHARED_THREE, shared=False), 1.0)}
    rows, results = [], {}
    for name, (recipe, quieter) in arms.items():
        drawn = 1 if recipe.epsilon is None or not quieter else NOISES
        seeds = [(split, noise) for split in DRAWS for noise in range(drawn)]
        areas = [area(tiles, plain, recipe, quieter, seed) for seed in seeds]
        print(name, round(mean(areas), 4), flush=True)
        rows.append((name, f"{mean(areas):.3f}", f"{pstdev(areas):.3f}", str(len(areas))))
        results[name] = areas
    finish(
        "idc_dev",
        measures="AUROC of tiles of 96 development patients; local noise at epsilon 3, and with less noise",
        settings={"scale": SCALE, "noise scaled by": FEWER_PATIENTS, "folds": FOLDS},
        seeds=list(DRAWS),
        tables=[Table("Development patients", ("arm", "AUROC", "SD", "runs"), tuple(rows))],
        goals=[],
        notes=["no head was trained for or scored on a test patient"],
        results=results,
        load_at_start=load,
        out=options.out,
    )


if __name__ == "__main__":
    main()
