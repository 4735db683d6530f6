"""Invasive carcinoma in H&E tiles: four simulated hospitals, built-in encoder, linear head, patient-level privacy.

SOLBLOM_IDC_TILES names the folder of tiles (200 patients, 7,820 tiles of 50 pixels, CC0; Cruz-Roa 2014, Janowczyk &
Madabhushi 2016). Hospitals of 80, 60, 40 and 20 patients are simulated: the tiles name no hospital.

Cut first, by HMAC of the patient: 96 development patients and 104 test patients. Figures are over test patients, each
scored by models that were trained on other patients (5 folds by patient, 3 draws of folds and hospitals; a model sees
development and test patients of other folds). Chosen on development patients alone, by 5 folds among them, about 60
configurations in scratch scripts: which raw features, that neighbours and the patient's mean are put beside a tile
(.875 became .91 there), 80 components, scale, rounds, learning rates, momentum, clipping. That 80 components are better
than 40 under privacy was seen there too. Nothing was chosen under the stain shift.

Shift: haematoxylin and eosin of each hospital scaled by (1, 1), (.70, 1.25), (1.35, .75), (.80, .70).

A patient's loss is the mean over the patient's tiles, so a gradient is clipped once a patient. Steps are those of the
product, computed for all patients at once here; one is compared with solblom_client/training.py's clipped sum. Shared
noise is drawn as one normal number on the sum, local noise as one for each hospital (real shares are discrete:
bench/shared_noise.py). Epsilon by PLD, adding or removing one patient, delta 1e-4.

Intervals resample test patients, 1,000 times, paired. Permuted: training labels shuffled over all training tiles.

GOALS: federated at least .92 without shift; not below pooled by more than .01 with certainty; the smallest hospital
gains under shift with an interval above 0; at epsilon 3 within .01 of federated without privacy (missed if it is more).
"""

import argparse
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from idc_data import (
    FOLDS,
    SCALE,
    SIZES,
    Draw,
    Floats,
    Tiles,
    draw,
    features_of,
    is_test,
    read_tiles,
    stained,
)
from numpy.typing import NDArray
from report import Goal, Table, finish, load_average
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from solblom_client.training import TrainingSettings, clipped_sum
from solblom_models.accountant import pld_epsilon
from solblom_models.metrics import auroc
from solblom_models.tabular.net import LogisticRegression as Head
from solblom_models.tile_classification.task import TileClassification
from solblom_models.tile_classification.tiles import TileUnits
from solblom_models.tile_encoder.encoder import NAME
from solblom_protocol.privacy_event import PrivacyEvent

SPLITS, NOISES = 3, 5
STAINS = ((1.0, 1.0), (0.70, 1.25), (1.35, 0.75), (0.80, 0.70))
CLIPPING, DELTA, MOMENTUM = 0.1, 1e-4, 0.9
STRENGTHS = (0.3, 1.0, 4.0, 16.0)
RESAMPLES, SEED = 1_000, 20261124


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; noise_multiplier 0 is no privacy and no clipping."""

    rounds: int
    rate: float
    epsilon: float | None = None
    shared: bool = True

    @property
    def name(self) -> str:
        """What the tables call it."""
        if self.epsilon is None:
            return "federated, no privacy"
        return f"epsilon {self.epsilon:g}, {'shared' if self.shared else 'local'} noise"

    @cached_property
    def noise_multiplier(self) -> float:
        """Noise on a sum over the clipping norm, the least that keeps epsilon over all rounds."""
        if self.epsilon is None:
            return 0.0
        low, high = 0.1, 1_000.0
        while high / low > 1.001:
            middle = (low * high) ** 0.5
            event = PrivacyEvent("poisson-gaussian", "1", repr(middle), self.rounds)
            low, high = (
                (middle, high) if pld_epsilon([event], DELTA) > self.epsilon else (low, middle)
            )
        return high


OFF = Recipe(150, 8.0)
PRIVATE = tuple(
    Recipe(20, 8.0, epsilon, shared) for epsilon in (1.0, 3.0, 8.0) for shared in (True, False)
)


def owners_of(patients: NDArray[np.str_]) -> Floats:
    """Return what turns tiles into means of patients, (P, T): 1 / tiles of the patient who has the tile."""
    names, places = np.unique(patients, return_inverse=True)
    owners = np.zeros((len(names), len(places)))
    owners[places, np.arange(len(places))] = 1.0 / np.bincount(places)[places]
    return owners


def clipped(features: Floats, owners: Floats, residuals: Floats, norm: float) -> Floats:
    """Return the sum of all patients' mean gradients, each clipped."""
    gradients = owners @ (features * residuals[:, None])
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    found: Floats = (gradients * np.minimum(1.0, norm / (lengths + 1e-6))).sum(axis=0)
    return found


def fit(
    features: Floats,
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    recipe: Recipe,
    *,
    sites: int,
    noise: np.random.Generator,
) -> Floats:
    """Return the mean of the second half of the heads of a training over all these patients.

    Every hospital takes every patient in every step and divides by a public number, so that the mean of their updates
    is one step on the sum over all.
    """
    owners = owners_of(patients)
    multiplier = recipe.noise_multiplier
    norm = CLIPPING if multiplier else np.inf
    deviation = (
        CLIPPING * multiplier * (1.0 if recipe.shared else sites**0.5) if multiplier else 0.0
    )
    weights, moving, kept = np.zeros(features.shape[1]), np.zeros(features.shape[1]), []
    for _ in range(recipe.rounds):
        residuals = 1.0 / (1.0 + np.exp(-features @ weights)) - labels
        total = clipped(features, owners, residuals, norm)
        total = total + deviation * noise.standard_normal(len(total))
        moving = MOMENTUM * moving + total / len(owners)
        weights = weights - recipe.rate * moving
        kept.append(weights)
    mean: Floats = np.mean(kept[recipe.rounds // 2 :], axis=0)
    return mean


def difference_to_product(
    features: Floats, labels: NDArray[np.int64], patients: NDArray[np.str_]
) -> float:
    """Return how far one clipped sum here is from the product's, over its length, at weights that are not zero."""
    names = np.unique(patients)[:20]
    chosen = np.isin(patients, names)
    features, labels, patients = features[chosen], labels[chosen], patients[chosen]
    weights = np.random.default_rng(1).normal(0, 0.5, features.shape[1])
    parts = [
        (features[patients == n, :-1].astype(np.float32), labels[patients == n]) for n in names
    ]
    head = Head(features.shape[1] - 1)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(weights[None, :-1]))
        head.linear.bias.fill_(float(weights[-1]))
    settings = TrainingSettings(1, 1.0, CLIPPING, "0", "1", 1.0)
    sums, _ = clipped_sum(TileClassification(), head, TileUnits.of(list(names), parts), settings)
    product = torch.cat([sums["linear.weight"].reshape(-1), sums["linear.bias"]]).double().numpy()
    residuals = 1.0 / (1.0 + np.exp(-features @ weights)) - labels
    here = clipped(features, owners_of(patients), residuals, CLIPPING)
    return float(np.linalg.norm(product - here) / np.linalg.norm(here))


class Study:
    """Scores of every tile by models that were trained on other patients, for one setting of stains."""

    def __init__(self, tiles: Tiles, features: Callable[[Draw], Floats]) -> None:
        self.tiles = tiles
        self.features = features
        self.test = np.array([is_test(patient) for patient in tiles.patients])

    def scores(self, split: int, train: str, recipe: Recipe = OFF, *, noise: int = 0) -> Floats:
        """Return all tiles' scores by one kind of training: federated, pooled, permuted or own."""
        drawn = draw(self.tiles, split)
        features, labels = self.features(drawn), self.tiles.labels
        found = np.zeros(len(labels))
        for fold in range(FOLDS):
            outside, inside = drawn.folds != fold, drawn.folds == fold
            rng = np.random.default_rng([SEED, split, fold, noise])
            if train == "pooled":
                found[inside] = self._pooled(features, labels, outside, drawn.folds)[inside]
                continue
            used = labels.copy()
            if train == "permuted":
                used[outside] = rng.permutation(labels[outside])
            alone = [drawn.hospitals == site for site in range(len(SIZES))]
            for members in alone if train == "own" else [np.ones(len(labels), dtype=bool)]:
                sites = 1 if train == "own" else len(SIZES)
                head = self._fit(features, used, outside & members, recipe, rng, sites)
                found[inside & members] = features[inside & members] @ head
        return found

    def _fit(
        self,
        features: Floats,
        labels: NDArray[np.int64],
        chosen: NDArray[np.bool_],
        recipe: Recipe,
        rng: np.random.Generator,
        sites: int,
    ) -> Floats:
        patients = self.tiles.patients[chosen]
        return fit(features[chosen], labels[chosen], patients, recipe, sites=sites, noise=rng)

    def _pooled(
        self,
        features: Floats,
        labels: NDArray[np.int64],
        chosen: NDArray[np.bool_],
        folds: NDArray[np.int64],
    ) -> Floats:
        """Return scores of logistic regression on everybody's tiles, its strength by the other folds."""
        inner = [fold for fold in range(FOLDS) if (chosen & (folds == fold)).any()]
        quality = {}
        for strength in STRENGTHS:
            held = np.zeros(len(labels))
            for fold in inner:
                part, rest = chosen & (folds == fold), chosen & (folds != fold)
                model = LogisticRegression(C=strength, max_iter=500).fit(
                    features[rest], labels[rest]
                )
                held[part] = model.decision_function(features[part])
            quality[strength] = auroc(labels[chosen], held[chosen])
        best = max(quality, key=lambda strength: quality[strength])
        model = LogisticRegression(C=best, max_iter=500).fit(features[chosen], labels[chosen])
        return np.asarray(model.decision_function(features), dtype=np.float64)


def resampled(tiles: Tiles, where: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return tiles of resampled patients, 1,000 times."""
    rng, names = np.random.default_rng(SEED), np.unique(tiles.patients[where])
    of = {n: np.flatnonzero(where & (tiles.patients == n)) for n in names}
    return [
        np.concatenate([of[n] for n in rng.choice(names, len(names))]) for _ in range(RESAMPLES)
    ]


def area(tiles: Tiles, scores: list[Floats], places: NDArray[np.int64]) -> float:
    """Return the mean AUROC over draws."""
    return statistics.fmean(auroc(tiles.labels[places], s[places]) for s in scores)


def with_interval(
    tiles: Tiles, ours: list[Floats], theirs: list[Floats] | None, where: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Return an AUROC, or a difference of two, with its 95 % interval over patients."""

    def value(places: NDArray[np.int64]) -> float:
        return area(tiles, ours, places) - (area(tiles, theirs, places) if theirs else 0.0)

    drawn = [value(places) for places in resampled(tiles, where)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return value(np.flatnonzero(where)), float(low), float(high)


def text(found: tuple[float, float, float], *, sign: bool = False) -> str:
    """Return a value with its interval."""
    form = "+.3f" if sign else ".3f"
    return f"{found[0]:{form}} [{found[1]:{form}}, {found[2]:{form}}]"


Row = tuple[str, str, str, str]
Found = dict[str, tuple[float, float, float]]


def evaluate(name: str, study: Study) -> tuple[list[Row], Found]:
    """Return a table of all arms and the figures that goals need."""
    tiles, test = study.tiles, study.test
    scores = {
        kind: [study.scores(split, kind) for split in range(SPLITS)]
        for kind in ("federated", "pooled", "permuted", "own")
    }
    found = {"federated": with_interval(tiles, scores["federated"], None, test)}
    found["pooled"] = with_interval(tiles, scores["federated"], scores["pooled"], test)
    tuned = text(with_interval(tiles, scores["pooled"], None, test))
    chance = text(with_interval(tiles, scores["permuted"], None, test))
    rows = [
        (name, OFF.name, text(found["federated"]), ""),
        (name, "pooled, tuned", tuned, ""),
        (name, "federated minus pooled", "", text(found["pooled"], sign=True)),
        (name, "permuted labels", chance, ""),
    ]
    for site, size in enumerate(SIZES):
        found[f"site {site}"] = gain_at(study, scores["federated"], scores["own"], site)
        gain = text(found[f"site {site}"], sign=True)
        rows.append((name, f"hospital of {size}: federated minus alone", "", gain))
    rows += private_rows(name, study, scores["federated"], found)
    if name == "no shift":
        rows += context_rows(name, study, scores["federated"])
    return rows, found


def private_rows(name: str, study: Study, federated: list[Floats], found: Found) -> list[Row]:
    """Return rows of all private recipes and of permuted labels under one of them; put losses into `found`."""
    tiles, test, rows = study.tiles, study.test, []
    draws = [(split, noise) for split in range(SPLITS) for noise in range(NOISES)]
    for recipe in PRIVATE:
        scores = [study.scores(split, "federated", recipe, noise=noise) for split, noise in draws]
        found[recipe.name] = with_interval(tiles, scores, federated, test)
        value = f"{area(tiles, scores, np.flatnonzero(test)):.3f}"
        rows.append((name, recipe.name, value, text(found[recipe.name], sign=True)))
        print(rows[-1], flush=True)
    recipe = PRIVATE[2]
    scores = [study.scores(split, "permuted", recipe, noise=noise) for split, noise in draws]
    each = [auroc(tiles.labels[test], found[test]) for found in scores]
    value = f"{statistics.fmean(each):.3f}, SD {statistics.stdev(each):.3f}"
    rows.append((name, f"permuted labels, {recipe.name}", value, ""))
    return rows


def context_rows(name: str, study: Study, federated: list[Floats]) -> list[Row]:
    """Return what others publish about this collection, and all 200 patients, half of whom development has seen."""
    tiles, test = study.tiles, study.test
    labels, told = tiles.labels[test], [scores[test] >= 0 for scores in federated]
    f1 = statistics.fmean(f1_score(labels, each) for each in told)
    balanced = statistics.fmean(balanced_accuracy_score(labels, each) for each in told)
    everybody = f"{area(tiles, federated, np.arange(len(test))):.3f}"
    return [
        (name, "federated, all 200 patients (half seen in development)", everybody, ""),
        (name, "federated, F1 / balanced accuracy at 0.5", f"{f1:.3f} / {balanced:.3f}", ""),
    ]


def gain_at(
    study: Study, federated: list[Floats], own: list[Floats], site: int
) -> tuple[float, float, float]:
    """Return federated minus alone at one hospital: mean over draws, whose test patients differ."""
    tiles, values, drawn = study.tiles, [], []
    for split in range(SPLITS):
        where = study.test & (draw(tiles, split).hospitals == site)
        pair = [federated[split]], [own[split]]
        samples = [p for p in resampled(tiles, where) if 0 < tiles.labels[p].sum() < len(p)]
        values.append(
            area(tiles, pair[0], np.flatnonzero(where))
            - area(tiles, pair[1], np.flatnonzero(where))
        )
        drawn.append([area(tiles, pair[0], p) - area(tiles, pair[1], p) for p in samples[:500]])
    together = np.mean([d[:450] for d in drawn], axis=0)
    low, high = np.quantile(together, [0.025, 0.975])
    return statistics.fmean(values), float(low), float(high)


def main() -> None:
    """Run both settings and write the result."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    load_at_start = load_average()
    folder = os.environ.get("SOLBLOM_IDC_TILES")
    if folder is None:
        raise SystemExit("SOLBLOM_IDC_TILES must name the folder of tiles")
    tiles = read_tiles(Path(folder))
    plain = features_of(tiles, tiles.pixels)
    difference = difference_to_product(plain, tiles.labels, tiles.patients)
    print("difference to the product's clipped sum", difference, flush=True)
    turned = [plain, *(features_of(tiles, stained(tiles.pixels, f)) for f in STAINS[1:])]

    def shifted(drawn: Draw) -> Floats:
        return np.choose(drawn.hospitals[:, None], turned)

    rows, found = evaluate("no shift", Study(tiles, lambda drawn: plain))
    more, under = evaluate("stain shift", Study(tiles, shifted))
    report([*rows, *more], found, under, difference, load_at_start)


def report(
    rows: list[Row], found: Found, under: Found, difference: float, load_at_start: float
) -> None:
    """Write tables and goals."""
    columns = ("stains", "model", "AUROC", "difference")
    finish(
        "idc_tiles",
        measures="AUROC of tiles of 104 test patients; four simulated hospitals",
        settings={
            "encoder": NAME,
            "scale": SCALE,
            "clipping_norm": CLIPPING,
            "delta": DELTA,
            "server_momentum": MOMENTUM,
            "off": asdict(OFF),
            "private": [{**asdict(r), "noise_multiplier": r.noise_multiplier} for r in PRIVATE],
            "published": "F1 .718, BAC .842 (2014); F1 .765, BAC .847 (2016): other test patients and thresholds",
        },
        seeds=range(SPLITS),
        tables=[Table("AUROC over test patients, 95 % over patients", columns, tuple(rows))],
        goals=goals(found, under, difference),
        notes=[
            "Hospitals are simulated. A guarantee for tiles would be no claim about patients, and none is given."
        ],
        results={"no shift": found, "stain shift": under},
        load_at_start=load_at_start,
        out=None,
    )


def goals(found: Found, under: Found, difference: float) -> list[Goal]:
    """Return the goals of the bench's first lines."""
    whole, pooled = found["federated"], found["pooled"]
    smallest, three = under["site 3"], found["epsilon 3, shared noise"]
    return [
        Goal("federated, no shift", ">= 0.92", text(whole), whole[0] >= 0.92),
        Goal(
            "federated minus pooled, no shift",
            "not wholly below -0.01",
            text(pooled, sign=True),
            pooled[2] >= -0.01,
        ),
        Goal(
            "hospital of 20 under shift, federated minus alone",
            "interval above 0",
            text(smallest, sign=True),
            smallest[1] > 0,
        ),
        Goal(
            "epsilon 3, shared noise, minus no privacy",
            ">= -0.01",
            text(three, sign=True),
            three[0] >= -0.01,
        ),
        Goal("clipped sum as the product's", "<= 1e-5", f"{difference:.1e}", difference <= 1e-5),
    ]


if __name__ == "__main__":
    main()
