"""Made-up bags: an index, and for each slide an HDF5 file with features around the contract's public constants."""

import csv
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.mock.rows import ID_COLUMN, mock_id, mock_label
from solblom_models.slide_mil.bag_file import write_bag
from solblom_models.slide_mil.bags import FILE_COLUMN
from solblom_protocol.contracts.bags import BagContract
from solblom_protocol.keys.key_files import write_new

SPARE_TILES = 12  # at most, beyond the contract's least
MOST_NUMBERS = 200_000  # of a slide
SLIDES = (1, 1, 2)


def mock_bags(contract: BagContract, patients: int, seed: int, index: Path) -> int:
    """Write an index and its bags into a folder beside it; return how many slides there are.

    A patient's label stands in the index, a tile's in its file: either task of bags can read them. The files carry
    the recipe that the contract asks for, and say that they are made up.

    Raises:
        ConfigurationError: SB-113 there is a file already; SB-118 h5py is not installed.
    """
    folder = index.parent / f"{index.stem}-bags"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(patients):
        draw = random.Random(f"solblom mock {seed} {number}")  # noqa: S311 - made-up patients
        target = contract.target
        label = (
            draw.choice(target.negative if number else target.positive)
            if number < 2
            else mock_label(target.positive, target.negative, draw)
        )
        for slide in range(draw.choice(SLIDES)):
            path = folder / f"{mock_id(number)}-{slide}.h5"
            _write_slide(contract, path, draw)
            rows.append([mock_id(number), f"{folder.name}/{path.name}", label])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([ID_COLUMN, FILE_COLUMN, target.column])
    writer.writerows(rows)
    write_new(index, text.getvalue().encode(), mode=0o644)
    return len(rows)


def _write_slide(contract: BagContract, path: Path, draw: random.Random) -> None:
    encoder, bag = contract.encoder, contract.bag
    generator = np.random.default_rng(draw.getrandbits(64))
    most = max(1, min(bag.max_tiles, bag.min_tiles + SPARE_TILES))
    tiles = max(bag.min_tiles, min(draw.randint(bag.min_tiles, most), MOST_NUMBERS // encoder.dim))
    center, scale = np.asarray(encoder.center), np.asarray(encoder.scale)
    side, count = encoder.tile_px, max(tiles, 1)
    if encoder.kind == "pixels":
        features: NDArray[Any] = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    else:
        features = generator.normal(center, scale, (count, encoder.dim)).astype(np.float32)
    coords = np.array([(side * n, 0) for n in range(len(features))], dtype=np.int64)
    codes = [mock_label(contract.target.positive, contract.target.negative, draw) for _ in coords]
    write_bag(
        path,
        features,
        coords,
        recipe=contract.recipe or "",
        side=float(side),
        facts={"made_up": True, "by": "solblom data mock"},
        labels=(contract.target.column, codes),
    )
