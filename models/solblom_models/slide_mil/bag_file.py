"""One slide's features as CLAM and TRIDENT write them: HDF5 with `features` (N, D) and `coords` (N, 2).

A file from outside is never trusted: no links to other files, no data stored elsewhere, no filters that HDF5 would
load as a plugin.
"""

import json
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
        features = _array(file, "features", required=True)
        if features.ndim == 3 and features.shape[0] == 1:  # TRIDENT writes (1, N, D)
            features = features[0]
        if features.ndim != 2 or features.shape[1] != dim:
            raise BagFileError(f"features are not of shape (tiles, {dim})")
        if features.dtype.kind != "f":
            raise BagFileError("features are not floating-point numbers")
        values = np.asarray(features, dtype=np.float32)
        if not bool(np.isfinite(values).all()):
            raise BagFileError("a feature is not a finite number")
        coords = _array(file, "coords", required=False)
        if coords is None:
            return SlideTiles(values, None)
        if coords.ndim == 3 and coords.shape[0] == 1:
            coords = coords[0]
        if coords.shape != (len(values), 2) or coords.dtype.kind not in "iu":
            raise BagFileError("coords are not one pair of whole numbers for each tile")
        return SlideTiles(values, np.asarray(coords, dtype=np.int64))


def read_labels(path: Path, name: str, *, tiles: int) -> tuple[str, ...]:
    """Return a code for each tile, as text, in their order: whole numbers or texts in the data set of this name.

    Raises:
        BagFileError: it is missing, or has another shape or type.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        values = _array(file, name, required=True)
    if values.shape != (tiles,):
        raise BagFileError("its labels are not one for each tile")
    if values.dtype.kind in "iu":
        return tuple(str(int(value)) for value in values)
    if values.dtype.kind == "O" and all(isinstance(value, bytes) for value in values):
        return tuple(value.decode("utf-8", "replace") for value in values)
    raise BagFileError("its labels are neither whole numbers nor texts")


def read_pixels(path: Path, *, tile_px: int, recipe: str | None = None) -> NDArray[np.uint8]:
    """Return the tiles themselves, from the data set `imgs` as CLAM writes it, shape (N, tile_px, tile_px, 3).

    Raises:
        BagFileError: it cannot be read, or holds something else.
        ConfigurationError: SB-118, h5py is not installed.
    """
    with _opened(path) as file:
        _check_recipe(file, recipe)
        values = _array(file, "imgs", required=True)
    if values.ndim != 4 or values.shape[1:] != (tile_px, tile_px, 3):
        raise BagFileError(f"imgs are not of shape (tiles, {tile_px}, {tile_px}, 3)")
    if values.dtype != np.uint8:
        raise BagFileError("imgs are not bytes")
    found: NDArray[np.uint8] = values
    return found


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
    except (TypeError, ValueError):
        raise BagFileError("it says nothing of its slide") from None
    return dict(found)


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


def _array(file: Any, name: str, *, required: bool) -> Any:
    if not required and name not in file:
        return None
    return _dataset(file, name)[()]


def _dataset(file: Any, name: str) -> Any:
    """Return a data set that lies in the file itself.

    Raises:
        BagFileError: it is missing, or its data lie elsewhere.
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
