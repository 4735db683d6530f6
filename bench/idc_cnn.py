"""A small CNN on the same tiles: from scratch, and with a trunk that public crops have taught, beside texture features.

Patients, tiles and test half as in idc_tiles.py. Training patients are drawn from the 96 development patients and, for
each half of the 104 test patients, from the other half: 40 or all (about 148). Patients are pooled; with shared noise a
federation takes the same steps. A CNN is the product's (`cnn`, channels 16, 32, 64: 23,873 weights), and its clipped
sums are taken by solblom_client/training/dp_sgd.py; it sees a tile alone. Heads on a trunk or on texture are trained
as in idc_tiles.py, on the tile alone or on contrasts with its surroundings.

The trunk learns from one public slide (idc_trunk.py), so it costs no epsilon; only a linear head is trained on
patients. A trunk with its initial weights stands beside it: what the architecture gives without any lesson.

Nothing was tuned: the heads' recipes are those of idc_tiles.py, the CNN has 12 epochs of Adam (.002) without privacy,
and 20 noisy steps (clipping .3, rate .5) with it. Better ones may exist, so a loss of the CNN is no proof. Epsilon 3,
delta 1e-4, PLD. Permuted: training labels shuffled over all training tiles.

No goal: it tells from which number of patients a CNN pays.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
import torch
from encoder_constants import SLIDE
from idc_data import Floats, Tiles, contrasts, features_of, is_test, read_tiles, surrounded
from idc_intervals import Patients, areas, interval, text
from idc_tiles import DELTA, OFF, SHARED_THREE, fit
from idc_trunk import CHANNELS, SIDE, inputs, public_crops, public_trunk
from numpy.typing import NDArray
from report import Table, finish, load_average

from solblom_client.training.dp_sgd import TrainingSettings, clipped_sum
from solblom_models.tile_classification.net import TileCnn
from solblom_models.tile_classification.task import TileClassification, tile_scores
from solblom_models.tile_classification.tiles import TileUnits
from solblom_protocol.contracts.bags import Encoder

SIZES, SEED, EPOCHS = (40, 148), 20261129, 12
PRIVATE_STEPS, PRIVATE_RATE, AT_ONCE, HEADS = 20, 0.5, 64, 3
EPSILON_3 = SHARED_THREE
CLIPPING, POSITIVE = SHARED_THREE.clipping, SHARED_THREE.positive
PIXELS = Encoder(
    kind="pixels",
    name="pixels",
    dim=3 * SIDE * SIDE,
    microns_per_pixel=4.0,
    tile_px=SIDE,
    licence="CC0",
    center=0.5,
    scale=0.25,
)
Train = Callable[[NDArray[np.bool_], NDArray[np.int64], int], Floats]


def units_of(tiles: Tiles, labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> TileUnits:
    """Return patients with the pixels of their tiles, as the product keeps them."""
    names = np.unique(tiles.patients[chosen])
    parts = []
    for name in names:
        where = chosen & (tiles.patients == name)
        pixels = tiles.pixels[where].transpose(0, 3, 1, 2)
        parts.append((pixels.reshape(len(pixels), -1), labels[where]))
    return replace(TileUnits.of(list(names), parts, encoder=PIXELS), positive_weight=POSITIVE)


def everything(tiles: Tiles) -> TileUnits:
    """Return all tiles in their own order, to be scored."""
    pixels = tiles.pixels.transpose(0, 3, 1, 2).reshape(len(tiles.pixels), -1)
    return TileUnits.of(["all"], [(pixels, tiles.labels)], encoder=PIXELS)


def plain_cnn(tiles: Tiles) -> Train:
    """Return a training of the CNN from scratch without privacy, over tiles, a patient's loss being the mean."""

    def train(chosen: NDArray[np.bool_], labels: NDArray[np.int64], seed: int) -> Floats:
        net, generator = TileCnn(SIDE, CHANNELS, seed=seed), torch.Generator().manual_seed(seed)
        where = np.flatnonzero(chosen)
        _, places, counts = np.unique(
            tiles.patients[where], return_inverse=True, return_counts=True
        )
        weights = torch.from_numpy(len(where) / len(counts) / counts[places]).float()
        told = torch.from_numpy(labels[where]).float()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(EPOCHS):
            for part in torch.randperm(len(where), generator=generator).split(AT_ONCE):
                logits = net(inputs(tiles.pixels[where[part.numpy()]]))
                losses = torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, told[part], reduction="none"
                )
                optimizer.zero_grad()
                (weights[part] * losses).mean().backward()
                optimizer.step()
        return tile_scores(net, everything(tiles))

    return train


def private_cnn(tiles: Tiles) -> Train:
    """Return a training of the CNN from scratch at epsilon 3, by the product's clipped sums."""
    multiplier = replace(EPSILON_3, rounds=PRIVATE_STEPS).noise_multiplier
    settings = TrainingSettings(1, 1.0, CLIPPING, "0", "1", 1.0)

    def train(chosen: NDArray[np.bool_], labels: NDArray[np.int64], seed: int) -> Floats:
        net, units = TileCnn(SIDE, CHANNELS, seed=seed), units_of(tiles, labels, chosen)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(PRIVATE_STEPS):
            sums, _ = clipped_sum(TileClassification(), net, units, settings)
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    noise = torch.randn(parameter.shape, generator=generator)
                    noisy = sums[name] + CLIPPING * multiplier * noise
                    parameter -= PRIVATE_RATE * noisy / len(units.ids)
        return tile_scores(net, everything(tiles))

    return train


def head(tiles: Tiles, features: Floats, *, private: bool) -> Train:
    """Return a training of a linear head on fixed features."""

    def train(chosen: NDArray[np.bool_], labels: NDArray[np.int64], seed: int) -> Floats:
        recipe, rng = EPSILON_3 if private else OFF, np.random.default_rng(seed)
        patients = tiles.patients[chosen]
        found = fit(features[chosen], labels[chosen], patients, recipe, sites=1, noise=rng)
        scores: Floats = features @ found
        return scores

    return train


def with_constant(features: Floats) -> Floats:
    """Return features with a constant last."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def embedded(tiles: Tiles, net: TileCnn, crops: NDArray[np.uint8]) -> Floats:
    """Return what a trunk says of each tile, standardised by public crops, in the scale of texture features."""

    def seen(pixels: NDArray[np.uint8]) -> Floats:
        parts = range(0, len(pixels), 256)
        with torch.no_grad():
            found = torch.cat([net.trunk(inputs(pixels[a : a + 256])) for a in parts])
        return found.double().numpy()

    public = seen(crops)
    values = (seen(tiles.pixels) - public.mean(axis=0)) / (public.std(axis=0) + 1e-3)
    limited: Floats = np.clip(values, -8.0, 8.0)
    return limited


def arms(tiles: Tiles, crops: NDArray[np.uint8]) -> dict[str, tuple[Train, int]]:
    """Return trainings by name, and how many seeds each has."""
    found: dict[str, tuple[Train, int]] = {}
    beside = {"texture": features_of(tiles, tiles.pixels)}
    for lesson, name in (("nothing", "trunk without a lesson"), ("texture", "public trunk")):
        beside[name] = surrounded(tiles, embedded(tiles, public_trunk(crops, lesson), crops))
        print(name, flush=True)
    for name, features in beside.items():
        alone = with_constant(features[:, : (features.shape[1] - 1) // 3])
        found[f"{name}, tile alone, no privacy"] = head(tiles, alone, private=False), HEADS
        found[f"{name}, tile alone, epsilon 3"] = head(tiles, alone * 5.0, private=True), HEADS
        found[f"{name}, surroundings, no privacy"] = head(tiles, features, private=False), HEADS
        private = head(tiles, contrasts(features), private=True)
        found[f"{name}, surroundings, epsilon 3"] = private, HEADS
    found["CNN from scratch, no privacy"] = plain_cnn(tiles), 1
    found["CNN from scratch, epsilon 3"] = private_cnn(tiles), 1
    return found


def crossed(tiles: Tiles, train: Train, size: int, *, seed: int, permuted: bool = False) -> Floats:
    """Return scores of the test patients, each half by a model that did not see it."""
    rng, scores = np.random.default_rng([SEED, size, seed]), np.zeros(len(tiles.labels))
    names = np.unique(tiles.patients)
    tested = rng.permutation([name for name in names if is_test(str(name))])
    for half in (tested[::2], tested[1::2]):
        others = rng.permutation([name for name in names if name not in set(half)])
        chosen = np.isin(tiles.patients, others[:size])
        labels = tiles.labels.copy()
        if permuted:
            labels[chosen] = rng.permutation(labels[chosen])
        inside = np.isin(tiles.patients, half)
        scores[inside] = train(chosen, labels, int(rng.integers(2**31)))[inside]
    return scores


def main() -> None:
    """Train everything and write the result."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    load_at_start = load_average()
    folder, slides = os.environ.get("SOLBLOM_IDC_TILES"), os.environ.get("SOLBLOM_SLIDES")
    if folder is None or slides is None:
        raise SystemExit("SOLBLOM_IDC_TILES and SOLBLOM_SLIDES must name folders")
    tiles = read_tiles(Path(folder))
    crops = public_crops(tifffile.imread(Path(slides) / SLIDE, key=0))
    test = np.array([is_test(patient) for patient in tiles.patients])
    counts = Patients(tiles.labels, tiles.patients, test).counts()[:, test]
    rows: list[tuple[str, ...]] = []
    for name, (train, seeds) in arms(tiles, crops).items():
        row = [name]
        for size, permuted in ((SIZES[0], False), (SIZES[1], False), (SIZES[1], True)):
            found = [
                crossed(tiles, train, size, seed=seed, permuted=permuted) for seed in range(seeds)
            ]
            each = [areas(tiles.labels[test], scores[test], counts) for scores in found]
            mean = interval(np.mean(each, axis=0))
            row.append(f"{statistics.fmean(e[0] for e in each):.3f}" if permuted else text(mean))
        rows.append(tuple(row))
        print(rows[-1], flush=True)
    report(rows, load_at_start)


def report(rows: list[tuple[str, ...]], load_at_start: float) -> None:
    """Write the table."""
    columns = ("model", "40 patients", "148 patients", "148 patients, permuted labels")
    finish(
        "idc_cnn",
        measures="AUROC of tiles of 104 test patients by CNNs and by heads on fixed features; patients pooled",
        settings={
            "channels": CHANNELS,
            "epochs": EPOCHS,
            "private": {"steps": PRIVATE_STEPS, "rate": PRIVATE_RATE, "clipping_norm": CLIPPING},
            "delta": DELTA,
        },
        seeds=range(HEADS),
        tables=[Table("AUROC over test patients, 95 % over patients", columns, tuple(rows))],
        goals=[],
        notes=["Nothing was tuned for a CNN.", "A permuted figure is of few runs."],
        results={row[0]: row[1:] for row in rows},
        load_at_start=load_at_start,
        out=None,
    )


if __name__ == "__main__":
    main()
