"""One slide's features as CLAM and TRIDENT write them: HDF5 with `features` (N, D) and `coords` (N, 2).

A file from outside is never trusted: no links to other files, no data stored elsewhere, no filters that HDF5 would
load as a plugin.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_protocol.errors import ConfigurationError, DataError

FILTERS = frozenset({1, 2, 3, 32000})
"""Deflate, shuffle, checksum and LZF (HDF5's registered numbers): built into HDF5 and h5py, so nothing is loaded."""
MOST_BYTES = 4 * 1024**3  # of a table: 100,000 tiles of 8,192 features of float32 and more
MOST_INFLATED = 1100  # bytes that a stored one can become: deflate's own bound is 1032
TEXT_BYTES = 2**30  # of labels, read at once
MOST_TEXT = 256  # bytes of a label


@dataclass(frozen=True)
class SlideTiles:
    """Tiles of one slide.

    Attributes:
        features: shape (N, D), float32, as they stand in the file.
        coords: shape (N, 2), pixels of the slide's largest level; None where the file has none.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.int64] | None


class BagFileError(Exception):
    """A file is no bag; the text says why, and names nothing of it."""


FACTS = "solblom_facts"
RECIPE = "solblom_recipe"
"""Attribute of a file that `solblom node features` wrote: the digest of everything that decided its numbers."""


def read_bag(path: Path, *, dim: int, recipe: str | None = None) -> SlideTiles:
    """Return the tiles in a file; with `recipe`, of a file that was made by just that.

    Raises:
        BagFileError: it cannot be read, or holds something else.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        _check_recipe(file, recipe)
        found = _dataset(file, "features")
        tiles = _rows(found, dim)
        if tiles is None:
            raise BagFileError(f"features are not of shape (tiles, {dim})")
        if found.dtype.kind != "f":
            raise BagFileError("features are not floating-point numbers")
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
            values = np.asarray(found[()], dtype=np.float32).reshape(tiles, dim)
        if not bool(np.isfinite(values).all()):
            raise BagFileError("a feature is not a finite number")
        coords = _dataset(file, "coords") if "coords" in file else None
        return SlideTiles(values, None if coords is None else _places(coords, tiles))


def _rows(table: Any, width: int) -> int | None:
    """Return n of a table (n, width), or (1, n, width) as TRIDENT writes it; None of another."""
    shape = table.shape
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    return int(shape[0]) if len(shape) == 2 and shape[1] == width else None


def _places(coords: Any, tiles: int) -> NDArray[np.int64]:
    if _rows(coords, 2) == tiles and coords.dtype.kind in "iu":
        found = coords[()].reshape(tiles, 2)
        if not tiles or int(found.max()) < 2**62:
            return np.asarray(found, dtype=np.int64)
    raise BagFileError("coords are not one pair of whole numbers for each tile")


def read_labels(path: Path, name: str, *, tiles: int) -> tuple[str, ...]:
    """Return a code for each tile, as text, in their order: whole numbers or texts in the data set of this name.

    Raises:
        BagFileError: it is missing, or has another shape or type.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        found = _dataset(file, name)
        if found.shape != (tiles,):
            raise BagFileError("its labels are not one for each tile")
        if found.dtype.kind in "iu":
            return tuple(str(int(value)) for value in found[()])
        if found.dtype.kind != "O":
            raise BagFileError("its labels are neither whole numbers nor texts")
        # Texts are references, and many may name one: none is longer than the file.
        step = max(TEXT_BYTES // max(path.stat().st_size, 1), 1)
        texts: list[str] = []
        for start in range(0, tiles, step):
            part = found[start : start + step]
            if any(not isinstance(text, bytes) or len(text) > MOST_TEXT for text in part):
                raise BagFileError("its labels are neither whole numbers nor short texts")
            texts += [text.decode("utf-8", "replace") for text in part]
    return tuple(texts)


def read_pixels(path: Path, *, tile_px: int, recipe: str | None = None) -> NDArray[np.uint8]:
    """Return the tiles themselves, from the data set `imgs` as CLAM writes it, shape (N, tile_px, tile_px, 3).

    Raises:
        BagFileError: it cannot be read, or holds something else.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        _check_recipe(file, recipe)
        found = _dataset(file, "imgs")
        if len(found.shape) != 4 or found.shape[1:] != (tile_px, tile_px, 3):
            raise BagFileError(f"imgs are not of shape (tiles, {tile_px}, {tile_px}, 3)")
        if found.dtype != np.uint8:
            raise BagFileError("imgs are not bytes")
        values: NDArray[np.uint8] = found[()]
    return values


def write_bag(
    path: Path,
    features: NDArray[np.float32] | NDArray[np.uint8],
    coords: NDArray[np.int64],
    *,
    recipe: str,
    side: float,
    facts: dict[str, Any],
    labels: tuple[str, list[str]] | None = None,
) -> None:
    """Write one slide's features (N, D), or its tiles (N, P, P, 3) of bytes, with coords and what made them.

    The file has no time in it: the same slide gives the same bytes. `side` is a tile's, in pixels of `coords`; `labels`
    are a data set's name and a code for each tile, `facts` what people learn of the slide.
    """
    import h5py

    name = "imgs" if features.ndim == 4 else "features"
    with h5py.File(path, "w", libver="earliest", track_order=False) as file:
        data = file.create_dataset(name, data=features, track_times=False)
        data.attrs["tile_side"] = float(side)
        file.create_dataset("coords", data=coords, track_times=False)
        if labels is not None:
            texts = np.array(labels[1], dtype=h5py.string_dtype())
            file.create_dataset(labels[0], data=texts, track_times=False)
        file.attrs[RECIPE] = recipe
        file.attrs[FACTS] = json.dumps(facts, sort_keys=True)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what `write_bag` was told about the slide.

    Raises:
        BagFileError: it says nothing, or is damaged.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        text = file.attrs.get(FACTS)
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BagFileError("it says nothing of its slide")
    return found


def tile_count(path: Path, *, name: str = "features") -> int:
    """Return how many tiles a file has, without reading them.

    Raises:
        BagFileError: it cannot be read, or holds something else.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        shape = _dataset(file, name).shape
    if len(shape) < 2:
        raise BagFileError(f"{name} are no table")
    return int(shape[-2] if name == "features" else shape[0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give an open file; whatever HDF5 says of a damaged one, here or while it is read, becomes one error.

    Raises:
        BagFileError: it cannot be read as HDF5.
        ConfigurationError: SB-118, h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "Bags need the package h5py, which is not installed",
            "pip install 'solblom-models[bags]'",
        ) from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, MemoryError):
        raise BagFileError("it cannot be read as HDF5") from None


def _check_recipe(file: Any, recipe: str | None) -> None:
    """Refuse a file that another encoder, or another cutting, made.

    Raises:
        BagFileError: it says something else, or nothing.
    """
    if recipe is None:
        return
    found = file.attrs.get(RECIPE)
    if not isinstance(found, str):
        raise BagFileError("it does not say what made its features: solblom node features does")
    if found != recipe:
        raise BagFileError("another encoder, or other settings than the study's, made its features")


def _dataset(file: Any, name: str) -> Any:
    """Return a data set that lies in the file itself, and whose size is one that the file can hold.

    Raises:
        BagFileError: it is missing, its data lie elsewhere, or it claims more than there is.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        raise BagFileError(f"it has no {name}")
    if not isinstance(link, h5py.HardLink):
        raise BagFileError(f"{name} is a link")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise BagFileError(f"{name} is no table")
    if found.external or found.is_virtual:
        raise BagFileError(f"{name} lies in another file")
    properties = found.id.get_create_plist()
    used = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
    if not used <= FILTERS:
        raise BagFileError(f"{name} is compressed with a filter that is not built in")
    if found.shape is None:
        raise BagFileError(f"{name} has no numbers")
    # What was never written reads as zeros, so a small file can claim any size.
    claimed, stored = math.prod(found.shape) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > min(MOST_BYTES, MOST_INFLATED * stored):
        raise BagFileError(
            f"{name} claims {claimed:,} bytes; it holds {stored:,}, and at most {MOST_BYTES:,} are read"
        )
    return found


def refuse(problems: dict[int, str], rows: int) -> None:
    """Refuse bags that cannot be used; `problems` are by line of the index.

    Raises:
        DataError: SB-307; says how many, the first line and its reason, never a name.
    """
    if problems:
        first = min(problems)
        raise DataError(
            "SB-307",
            f"{len(problems)} of {rows} slides have no usable features; first in line {first}: {problems[first]}",
        )
