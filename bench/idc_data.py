"""Tiles of breast cancer for idc_tiles.py: read, stained anew, encoded, and dealt to folds and simulated hospitals."""

import csv
import hashlib
import hmac
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from solblom_models.tile_classification.net import CONTRAST_SCALES
from solblom_models.tile_encoder.encoder import encode, with_surroundings
from solblom_models.tile_encoder.stain import rgb_of, stains_of

SIDE, SIZES, FOLDS = 50, (80, 60, 40, 20), 5
CUT, SCALE = b"solblom-idc-cut", 20.0
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tiles:
    """All tiles: patient, label, corner, pixels."""

    patients: NDArray[np.str_]
    labels: NDArray[np.int64]
    corners: NDArray[np.int64]
    pixels: NDArray[np.uint8]


def read_tiles(folder: Path) -> Tiles:
    """Return all tiles; those at a slide's edge are mirrored to 50 pixels."""
    rows = list(csv.DictReader((folder / "tiles_index.csv").open(encoding="utf-8")))
    archives: dict[str, zipfile.ZipFile] = {}
    pixels = np.zeros((len(rows), SIDE, SIDE, 3), dtype=np.uint8)
    for number, row in enumerate(rows):
        archive = archives.setdefault(row["zip"], zipfile.ZipFile(folder / row["zip"]))
        with Image.open(io.BytesIO(archive.read(row["member"]))) as image:
            tile = np.asarray(image.convert("RGB"))
        missing = [(0, SIDE - side) for side in tile.shape[:2]]
        pixels[number] = np.pad(tile, (*missing, (0, 0)), mode="symmetric")
    return Tiles(
        np.array([row["patient"] for row in rows]),
        np.array([int(row["label"]) for row in rows]),
        np.array([[int(row["x"]), int(row["y"])] for row in rows]),
        pixels,
    )


def features_of(tiles: Tiles, pixels: NDArray[np.uint8]) -> Floats:
    """Return each tile's features beside those of its surroundings, with a constant last, (T, 241)."""
    return surrounded(tiles, encode(iter(pixels)))


def surrounded(tiles: Tiles, plain: NDArray[np.float32] | Floats) -> Floats:
    """Return numbers of tiles (T, K) beside those of neighbours and patient, with a constant last, (T, 3 K + 1)."""
    found = np.ones((len(plain), 3 * plain.shape[1] + 1))
    for patient in np.unique(tiles.patients):
        where = np.flatnonzero(tiles.patients == patient)
        values = plain[where].astype(np.float32)
        around = with_surroundings(values, tiles.corners[where], tile_px=SIDE)
        found[where, :-1] = around / SCALE
    return found


def contrasts(features: Floats, scales: tuple[float, float, float] = CONTRAST_SCALES) -> Floats:
    """Return blocks of `features_of` as tile minus neighbours, neighbours minus patient, and their sum, (T, 241).

    One public linear map, so a head on these is one on those; but the first two blocks have no mean, so that clipped
    gradients are not spent on it. Scales were chosen on development patients.
    """
    own, near, whole = np.split(SCALE * features[:, :-1], 3, axis=1)
    blocks = own - near, near - whole, own + near + whole
    scaled = [block / scale for block, scale in zip(blocks, scales, strict=True)]
    return np.concatenate([*scaled, features[:, -1:]], axis=1)


def stained(pixels: NDArray[np.uint8], factors: tuple[float, float]) -> NDArray[np.uint8]:
    """Return tiles as another laboratory would stain them."""
    out = np.empty_like(pixels)
    scale = torch.tensor([*factors, 1.0]).view(1, 3, 1, 1)
    for start in range(0, len(pixels), 512):
        part = torch.from_numpy(pixels[start : start + 512]).permute(0, 3, 1, 2).float()
        turned = rgb_of(stains_of(part) * scale).round().to(torch.uint8)
        out[start : start + 512] = turned.permute(0, 2, 3, 1).numpy()
    return out


def is_test(patient: str) -> bool:
    """Return whether a patient belongs to the test half."""
    return hmac.new(CUT, patient.encode(), hashlib.sha256).digest()[0] >= 128


@dataclass(frozen=True)
class Draw:
    """One draw: each tile's fold and hospital, by patient."""

    folds: NDArray[np.int64]
    hospitals: NDArray[np.int64]


def draw(tiles: Tiles, seed: int) -> Draw:
    """Return folds and hospitals of a draw; both are laid over patients independently.

    Ten draws rotate the hospitals over one order of patients, so that everybody is in the smallest hospital once.
    """
    rng, names = np.random.default_rng([7, seed]), np.unique(tiles.patients)
    fold = dict(zip(names, rng.permutation(len(names)) % FOLDS, strict=True))
    order = np.random.default_rng([8, seed // 10]).permutation(names)
    turned = np.roll(order, seed % 10 * SIZES[-1])
    site = dict(zip(turned, np.repeat(range(len(SIZES)), SIZES), strict=True))
    return Draw(
        np.array([fold[p] for p in tiles.patients]), np.array([site[p] for p in tiles.patients])
    )
