"""From an index of slides to patients: one bag of all of a patient's tiles, read when it is needed."""

import csv
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.patient_id import patient_id
from solblom_models.slide_mil.bag_file import BagFileError, read_bag, refuse, tile_count
from solblom_protocol.contracts.bags import BagContract, Encoder
from solblom_protocol.contracts.table import Target
from solblom_protocol.errors import DataError
from solblom_verify.wording import counted

FILE_COLUMN = "file"
SCANNER_COLUMN = "scanner"
SCANNER = re.compile(r"[A-Za-z0-9 ._-]{1,40}")
SEVERAL = "several"  # stands for the scanners of a patient whose slides name more than one
MOST_ROWS = 1_000_000
KEPT_BYTES = 256 * 1024**2  # of features in memory; more are read again, patient by patient


@dataclass(frozen=True)
class BagIndex:
    """A data set of bags: `path` is a CSV with one row a slide; files lie in its folder or below."""

    path: Path
    patient_column: str = "patient_id"


@dataclass(frozen=True)
class Slide:
    """Where a slide's tiles lie, and which of them count."""

    path: Path
    tiles: NDArray[np.int64]  # places in the file, ascending
    recipe: str | None = None  # what must have made the file; None: not known

    def features(self, encoder: Encoder) -> NDArray[np.float32]:
        """Return the tiles that count as the model sees them, shape (n, D).

        Raises:
            BagFileError: the file cannot be used, or has fewer tiles than when they were counted.
        """
        found = read_bag(self.path, dim=encoder.dim, recipe=self.recipe).features
        if len(self.tiles) and self.tiles[-1] >= len(found):
            raise BagFileError("it has fewer tiles than when it was looked at")
        return standardised(found[self.tiles], encoder)


@dataclass(frozen=True)
class BagUnits:
    """Patients as bags.

    Attributes:
        ids, labels: one a patient, labels 0 or 1, shape (N,).
        slides: each patient's, in the order of the index.
        encoder: what made the features.
        digests: SHA-256 of each patient's features as the model sees them.
        features: their mean over each patient's tiles, shape (N, D): for baselines, and what mean pooling sees.
        notes: what a reading counted.
        scanners: what each patient's slides were scanned with; empty where the index does not say. For the report of
            a simulation: no model sees it, and it never leaves.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    slides: tuple[tuple[Slide, ...], ...] = field(repr=False)
    encoder: Encoder = field(repr=False)
    digests: tuple[bytes, ...] = field(repr=False)
    features: NDArray[np.float32] = field(repr=False)
    positive_weight: float = 1.0  # public weight of a positive patient's loss
    notes: dict[str, int] = field(repr=False, default_factory=dict)
    scanners: tuple[str, ...] = field(repr=False, default=())
    kept: tuple[NDArray[np.float32], ...] | None = field(repr=False, default=None)

    def bag(self, index: int) -> NDArray[np.float32]:
        """Return one patient's tiles of all slides, shape (n, D).

        Raises:
            DataError: SB-307, a file has changed since it was looked at.
        """
        if self.kept is not None:
            return self.kept[index]
        try:
            parts = [slide.features(self.encoder) for slide in self.slides[index]]
        except BagFileError as error:
            raise DataError("SB-307", f"A slide's features changed meanwhile: {error}") from None
        # The work digest covers what was looked at (privacy.md rule 3): nothing else may be trained on.
        if _digest_of(parts) != self.digests[index]:
            raise DataError("SB-307", "A slide's features changed while an order was worked on")
        return np.concatenate(parts)

    def batch(
        self, indices: Sequence[int]
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Return the patients' bags, each (n, D), unpadded, labels (B,) and loss weights (B,)."""
        chosen = np.asarray(indices, dtype=np.int64)
        bags = [torch.from_numpy(self.bag(int(index))) for index in chosen]
        labels = torch.from_numpy(self.labels[chosen].astype(np.float32))
        return bags, labels, 1.0 + (self.positive_weight - 1.0) * labels

    def select(self, indices: Sequence[int]) -> "BagUnits":
        """Return these patients only."""
        chosen = list(indices)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            labels=self.labels[np.asarray(chosen, dtype=np.int64)],
            slides=tuple(self.slides[i] for i in chosen),
            digests=tuple(self.digests[i] for i in chosen),
            features=self.features[np.asarray(chosen, dtype=np.int64)],
            kept=None if self.kept is None else tuple(self.kept[i] for i in chosen),
            notes={},
            scanners=tuple(self.scanners[i] for i in chosen) if self.scanners else (),
        )

    def row_bytes(self, index: int) -> bytes:
        """Return the digest of the patient's features, and the label."""
        return self.digests[index] + bytes([int(self.labels[index])])


def read_bags(index: BagIndex, contract: BagContract) -> BagUnits:
    """Return the patients of an index. Every bag is read once; it is read again when its patient is trained on.

    Raises:
        DataError: SB-301 a column is missing, SB-302 a row or a label, or slides of a patient that disagree, SB-307
            files that cannot be used, or bags with too few tiles.
    """
    rows = index_rows(index, contract.target.column, optional=(SCANNER_COLUMN,))
    patients = places_of(rows)
    labels = labels_of(rows, patients, contract.target)
    paths = bag_paths(index.path.parent, [row[1] for row in rows])
    counts = _counts(paths)
    slides, thinned = [], 0
    for places in patients.values():
        chosen = _thin([counts[place] for place in places], contract.bag.max_tiles)
        slides.append(
            tuple(
                Slide(paths[p], tiles, contract.recipe)
                for p, tiles in zip(places, chosen, strict=True)
            )
        )
        thinned += sum(counts[place] for place in places) > contract.bag.max_tiles
    _check_sizes(slides, contract)
    digests, means, kept = _read_all(
        slides, contract.encoder, places=list(patients.values()), rows=len(rows)
    )
    notes = {"patients": len(patients), "slides": len(rows), "tiles": sum(counts)}
    if thinned:
        notes["bag thinned to max_tiles"] = thinned
    return BagUnits(
        ids=tuple(patients),
        labels=labels,
        slides=tuple(slides),
        encoder=contract.encoder,
        digests=digests,
        features=means,
        notes=notes,
        scanners=scanners_of([row[-1] for row in rows], patients.values()),
        kept=kept,
    )


def standardised(features: NDArray[np.float32], encoder: Encoder) -> NDArray[np.float32]:
    """Return features by the contract's public constants, limited, shape as given."""
    center = np.asarray(encoder.center, dtype=np.float32)
    scale = np.asarray(encoder.scale, dtype=np.float32)
    with np.errstate(over="ignore"):
        limited: NDArray[np.float32] = np.clip(
            (features - center) / scale, -encoder.limit, encoder.limit
        ).astype(np.float32)
    return limited


def index_rows(
    index: BagIndex, *columns: str, optional: Sequence[str] = ()
) -> list[tuple[str, ...]]:
    """Return patient, file and the cells of these columns, for each slide; "" for an optional one that is not there.

    Raises:
        DataError: SB-301, SB-302 or SB-307.
    """
    try:
        with index.path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error):
        raise DataError("SB-307", "The index of slides cannot be read as UTF-8 CSV") from None
    header = [name.strip() for name in lines[0]] if lines else []
    wanted = (index.patient_column, FILE_COLUMN, *columns)
    missing = [name for name in wanted if name not in header]
    if missing or len(set(header)) != len(header):
        what = f"lacks {', '.join(missing)}" if missing else "names a column twice"
        raise DataError("SB-301", f"The index of slides {what}")
    if len(lines) - 1 > MOST_ROWS:
        raise DataError("SB-307", f"The index has more than {MOST_ROWS:,} slides")
    odd = [number for number, line in enumerate(lines[1:], start=2) if len(line) != len(header)]
    if odd:
        raise DataError(
            "SB-302",
            f"{counted(len(odd), 'row has', 'rows have')} another length than the header, first in line {odd[0]}",
        )
    places = [header.index(name) for name in wanted]
    found = [
        [line[place].strip() for place in places]
        + [line[header.index(name)].strip() if name in header else "" for name in optional]
        for line in lines[1:]
    ]
    nobody = sum(1 for row in found if not row[0])
    if nobody:
        raise DataError("SB-302", f"{counted(nobody, 'slide has', 'slides have')} no patient id")
    return [(patient_id(row[0]), *row[1:]) for row in found]


def places_of(rows: Sequence[tuple[str, ...]]) -> dict[str, list[int]]:
    """Return which rows are each patient's, patients in the order of their first."""
    patients: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        patients.setdefault(row[0], []).append(number)
    return patients


def scanners_of(codes: Sequence[str], patients: Iterable[Sequence[int]]) -> tuple[str, ...]:
    """Return each patient's scanner, or `several`; nothing where no slide names one.

    Args:
        codes: of each slide.
        patients: the places of each patient's slides.

    Raises:
        DataError: SB-302, a code is missing beside others, or is none.
    """
    if not any(codes):
        return ()
    odd = [line for line, code in enumerate(codes, start=2) if not SCANNER.fullmatch(code)]
    if odd:
        raise DataError(
            "SB-302",
            f"The column `{SCANNER_COLUMN}` has no short code in {counted(len(odd), 'row')}, first in line {odd[0]}",
            "1 to 40 letters, digits, spaces, dots, _ or -; unknown where nobody knows",
        )
    of = [{codes[place] for place in places} for places in patients]
    return tuple(found.pop() if len(found) == 1 else SEVERAL for found in of)


def labels_of(
    rows: list[tuple[str, ...]], patients: dict[str, list[int]], target: Target
) -> NDArray[np.int64]:
    """Return each patient's label, from the third cell of the patient's rows, shape (N,).

    Raises:
        DataError: SB-302, a cell is no code of the target, or slides of a patient disagree.
    """
    codes = target.codes
    unknown = [number for number, row in enumerate(rows, start=2) if row[2] not in codes]
    if unknown:
        raise DataError(
            "SB-302",
            f"The target `{target.column}` has no known code in {counted(len(unknown), 'row')}, "
            f"first in line {unknown[0]}",
        )
    of = [{codes[rows[place][2]] for place in places} for places in patients.values()]
    both = sum(1 for found in of if len(found) > 1)
    if both:
        raise DataError(
            "SB-302",
            f"{counted(both, 'patient has', 'patients have')} slides that disagree about the target",
        )
    return np.array([found.pop() for found in of], dtype=np.int64)


def bag_paths(folder: Path, names: list[str]) -> list[Path]:
    """Return where the files lie.

    Raises:
        DataError: SB-307, a file is missing or lies outside the folder; SB-302, one stands twice.
    """
    root, found, problems = folder.resolve(), [], {}
    for line, name in enumerate(names, start=2):
        path = folder
        try:
            path = (folder / name).resolve() if name else folder
            if not path.is_relative_to(root):
                problems[line] = "it lies outside the folder of the index"
            elif not path.is_file():
                problems[line] = "there is no such file"
        except (OSError, RuntimeError, ValueError):  # too long, links in a circle, a zero byte
            problems[line] = "no file can have this name"
        found.append(path)
    refuse(problems, len(names))
    twice = len(found) - len(set(found))
    if twice:
        raise DataError("SB-302", f"{counted(twice, 'slide stands', 'slides stand')} twice")
    return found


def _counts(paths: list[Path]) -> list[int]:
    counts, problems = [], {}
    for line, path in enumerate(paths, start=2):
        try:
            counts.append(tile_count(path))
        except BagFileError as error:
            problems[line] = str(error)
    refuse(problems, len(paths))
    return counts


def _thin(counts: list[int], most: int) -> list[NDArray[np.int64]]:
    """Return which tiles of each slide count: all, or `most` of them, evenly spread over the patient's slides."""
    chosen = evenly(sum(counts), most)
    starts = np.cumsum([0, *counts])
    return [chosen[(chosen >= a) & (chosen < b)] - a for a, b in pairwise(starts)]


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return the places of all of `count` tiles, or of `most` of them, evenly spread."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _check_sizes(slides: Sequence[tuple[Slide, ...]], contract: BagContract) -> None:
    least = contract.bag.min_tiles
    small = sum(1 for found in slides if sum(len(slide.tiles) for slide in found) < least)
    if small:
        raise DataError(
            "SB-307",
            f"{counted(small, 'patient has', 'patients have')} fewer than {counted(least, 'tile')}; "
            "bag.min_tiles of the contract",
        )


def _read_all(
    slides: Sequence[tuple[Slide, ...]], encoder: Encoder, *, places: list[list[int]], rows: int
) -> tuple[tuple[bytes, ...], NDArray[np.float32], tuple[NDArray[np.float32], ...] | None]:
    """Return each patient's digest and mean, and all bags where they fit into KEPT_BYTES together."""
    digests, means = [], np.zeros((len(slides), encoder.dim), dtype=np.float32)
    tiles = sum(len(slide.tiles) for found in slides for slide in found)
    keep = tiles * encoder.dim * means.itemsize <= KEPT_BYTES
    kept: list[NDArray[np.float32]] = []
    problems: dict[int, str] = {}
    for patient, found in enumerate(slides):
        parts: list[NDArray[np.float32]] = []
        for slide, place in zip(found, places[patient], strict=True):
            try:
                parts.append(slide.features(encoder))
            except BagFileError as error:
                problems[place + 2] = str(error)
        digests.append(_digest_of(parts))
        bag = np.concatenate([np.zeros((0, encoder.dim), dtype=np.float32), *parts])
        means[patient] = bag.sum(axis=0, dtype=np.float64) / max(len(bag), 1)
        if keep:
            kept.append(bag)
    refuse(problems, rows)
    return tuple(digests), means, tuple(kept) if keep else None


def _digest_of(parts: Sequence[NDArray[np.float32]]) -> bytes:
    """Return SHA-256 of a patient's features as the model sees them, slide by slide."""
    state = hashlib.sha256()
    for values in parts:
        state.update(len(values).to_bytes(8, "little") + values.astype("<f4").tobytes())
    return state.digest()
