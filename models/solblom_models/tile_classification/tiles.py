"""Patients as labelled tiles: features and one label for each tile, from bag files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.slide_mil.bag_file import (
    BagFileError,
    read_bag,
    read_labels,
    read_pixels,
    refuse,
)
from solblom_models.slide_mil.bags import (
    SCANNER_COLUMN,
    BagIndex,
    bag_paths,
    evenly,
    index_rows,
    places_of,
    scanners_of,
    standardised,
)
from solblom_protocol.contracts.bags import BagContract, Encoder
from solblom_protocol.errors import DataError

Numbers = NDArray[Any]  # float32, or bytes of pixels


@dataclass(frozen=True)
class TileUnits:
    """Patients as tiles, one behind another.

    Attributes:
        ids: one a patient.
        labels: whether any tile of the patient is positive, shape (N,).
        starts: where each patient's tiles begin, and the end of the last, shape (N + 1,).
        tiles: features of all tiles, shape (T, D), as the model sees them; or their pixels as bytes, channels first,
            which take a quarter of the memory.
        tile_labels: 0 or 1, shape (T,).
        positive_weight: public weight of a positive tile's loss.
        balanced: whether a patient's positive and negative tiles weigh alike, half of the patient each.
        encoder: of pixels: what turns bytes into what the model sees; None of features.
        notes: what a reading counted.
        scanners: as in `BagUnits`; no model sees them.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    starts: NDArray[np.int64] = field(repr=False)
    tiles: Numbers = field(repr=False)
    tile_labels: NDArray[np.int64] = field(repr=False)
    positive_weight: float = 1.0
    balanced: bool = False
    encoder: Encoder | None = field(repr=False, default=None)
    notes: dict[str, int] = field(repr=False, default_factory=dict)
    scanners: tuple[str, ...] = field(repr=False, default=())

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        parts: Sequence[tuple[Numbers, NDArray[np.int64]]],
        *,
        encoder: Encoder | None = None,
    ) -> "TileUnits":
        """Return patients with these features (n, D), or pixels of this encoder, and labels (n,)."""
        sizes = [len(labels) for _, labels in parts]
        return cls(
            ids=tuple(ids),
            labels=np.array([int(labels.any()) for _, labels in parts], dtype=np.int64),
            starts=np.cumsum([0, *sizes]).astype(np.int64),
            tiles=np.concatenate([features for features, _ in parts]),
            tile_labels=np.concatenate([labels for _, labels in parts]),
            encoder=encoder,
        )

    def seen(self, part: slice) -> NDArray[np.float32]:
        """Return some tiles as the model sees them, shape (n, D)."""
        return _seen(self.tiles[part], self.encoder)

    def part(self, index: int) -> slice:
        """Return where one patient's tiles lie."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def batch(
        self, indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return tiles (T, D), their labels and loss weights (T,), and how many tiles each patient has (B,)."""
        parts = [self.part(int(index)) for index in indices]
        empty = self.tiles[:0], self.tile_labels[:0]
        tiles = np.concatenate([empty[0], *(self.tiles[part] for part in parts)])
        of_each = [self.tile_labels[part] for part in parts]
        labels = torch.from_numpy(np.concatenate([empty[1], *of_each]).astype(np.float32))
        sizes = torch.tensor([part.stop - part.start for part in parts], dtype=torch.int64)
        weights = 1.0 + (self.positive_weight - 1.0) * labels
        if self.balanced:
            shares = np.concatenate([np.zeros(0), *(_shares(labels) for labels in of_each)])
            weights = weights * torch.from_numpy(shares.astype(np.float32))
        return torch.from_numpy(_seen(tiles, self.encoder)), labels, weights, sizes

    def select(self, indices: Sequence[int]) -> "TileUnits":
        """Return these patients only."""
        chosen = list(indices)
        if not chosen:
            none = np.zeros(0, dtype=np.int64)
            return replace(
                self,
                ids=(),
                labels=none,
                starts=np.zeros(1, dtype=np.int64),
                tiles=self.tiles[:0],
                tile_labels=none,
                notes={},
                scanners=(),
            )
        parts = [(self.tiles[self.part(i)], self.tile_labels[self.part(i)]) for i in chosen]
        found = TileUnits.of([self.ids[i] for i in chosen], parts, encoder=self.encoder)
        scanners = tuple(self.scanners[i] for i in chosen) if self.scanners else ()
        return replace(
            found,
            positive_weight=self.positive_weight,
            balanced=self.balanced,
            scanners=scanners,
        )

    def row_bytes(self, index: int) -> bytes:
        """Return the digest of the patient's features and labels."""
        part = self.part(index)
        tiles = self.tiles[part]
        if self.encoder is None:
            tiles = tiles.astype("<f4")
        state = hashlib.sha256(tiles.tobytes())
        state.update(self.tile_labels[part].astype("<i8").tobytes())
        return state.digest()


def read_tiles(index: BagIndex, contract: BagContract) -> TileUnits:
    """Return the patients of an index; every tile that counts is in memory.

    `target.column` of the contract names the data set of labels in each bag file.

    Raises:
        DataError: SB-301, SB-302 or SB-307.
    """
    rows = index_rows(index, optional=(SCANNER_COLUMN,))
    paths = bag_paths(index.path.parent, [row[1] for row in rows])
    codes = contract.target.codes
    patients: dict[str, list[tuple[Numbers, NDArray[np.int64]]]] = {}
    problems: dict[int, str] = {}
    for line, (row, path) in enumerate(zip(rows, paths, strict=True), start=2):
        try:
            features = _read(path, contract)
            found = read_labels(path, contract.target.column, tiles=len(features))
        except BagFileError as error:
            problems[line] = str(error)
            continue
        if not set(found) <= set(codes):
            problems[line] = "a tile's label is no code of the contract"
            continue
        labels = np.array([codes[code] for code in found], dtype=np.int64)
        patients.setdefault(row[0], []).append((features, labels))
    refuse(problems, len(rows))
    scanners = scanners_of([row[-1] for row in rows], places_of(rows).values())
    return replace(_units(patients, contract, slides=len(rows)), scanners=scanners)


def _shares(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights of one patient's tiles whose mean over each label is half of what it is over all, shape (n,).

    A patient with one label only weighs half: by no other patient's labels, so nobody changes another's gradient.
    """
    counts = np.bincount(labels, minlength=2)
    shares: NDArray[np.float64] = len(labels) / (2.0 * counts[labels])
    return shares


def _seen(tiles: Numbers, encoder: Encoder | None) -> NDArray[np.float32]:
    if encoder is None:
        features: NDArray[np.float32] = tiles
        return features
    return standardised(tiles.astype(np.float32) / np.float32(255), encoder)


def _read(path: Path, contract: BagContract) -> Numbers:
    """Return the tiles of one slide as they are kept.

    Raises:
        BagFileError: the file cannot be used.
    """
    encoder = contract.encoder
    if encoder.kind == "pixels":
        pixels = read_pixels(path, tile_px=encoder.tile_px, recipe=contract.recipe)
        return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    read = read_bag(path, dim=encoder.dim, recipe=contract.recipe)
    return standardised(read.features, encoder)


def _units(
    patients: dict[str, list[tuple[Numbers, NDArray[np.int64]]]],
    contract: BagContract,
    *,
    slides: int,
) -> TileUnits:
    parts, thinned, total = [], 0, 0
    for slides_of in patients.values():
        features = np.concatenate([features for features, _ in slides_of])
        labels = np.concatenate([labels for _, labels in slides_of])
        total += len(labels)
        if len(labels) < contract.bag.min_tiles:
            raise DataError(
                "SB-307", "A patient has fewer tiles than bag.min_tiles of the contract"
            )
        kept = evenly(len(labels), contract.bag.max_tiles)
        thinned += len(kept) < len(labels)
        parts.append((features[kept], labels[kept]))
    if not parts:
        raise DataError("SB-307", "The index names no slide")
    notes = {"patients": len(parts), "slides": slides, "tiles": total}
    if thinned:
        notes["patient thinned to max_tiles"] = thinned
    encoder = contract.encoder if contract.encoder.kind == "pixels" else None
    return replace(TileUnits.of(list(patients), parts, encoder=encoder), notes=notes)
