"""A pathologist's outlines, as QuPath exports them (GeoJSON), turned into a code for each tile.

A tile has the code of the outline in which its middle lies: the class of the last one drawn, where several overlap.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.slide_error import SlideError

MOST_BYTES = 256 * 1024**2
Ring = NDArray[np.float64]


def tile_codes(
    path: Path, middles: NDArray[np.float64], *, codes: Sequence[str], elsewhere: str | None
) -> list[str | None]:
    """Return a code for each tile, or None where nobody says.

    Args:
        path: GeoJSON, in pixels of the largest level.
        middles: of the tiles, shape (N, 2).
        codes: of the contract, compared with the outlines' classes.
        elsewhere: of a tile in no outline.

    Raises:
        SlideError: the file is none, or has an outline of a class that the contract does not know.
    """
    found: list[str | None] = [elsewhere] * len(middles)
    for name, polygon in _outlines(_read(path)):
        if name not in codes:
            raise SlideError("an annotation has a class that is no code of the contract")
        for tile in np.flatnonzero(_inside(middles, polygon)):
            found[int(tile)] = name
    return found


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SlideError("its annotations are larger than 256 MiB")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise SlideError("its annotations cannot be read as GeoJSON") from None


def _outlines(value: Any) -> Iterator[tuple[str, list[Ring]]]:
    """Give class and rings of each polygon: the outer ring, then holes.

    Raises:
        SlideError: it is no GeoJSON of polygons with classes.
    """
    features = value.get("features") if isinstance(value, dict) else value
    if not isinstance(features, list):
        raise SlideError("its annotations are no GeoJSON features")
    for feature in features:
        try:
            name = feature["properties"]["classification"]["name"]
            geometry = feature["geometry"]
            several = {
                "Polygon": [geometry["coordinates"]],
                "MultiPolygon": geometry["coordinates"],
            }
            polygons = [[_ring(ring) for ring in rings] for rings in several[geometry["type"]]]
        except (KeyError, TypeError, ValueError, OverflowError):  # a number of 400 digits
            raise SlideError("an annotation is no polygon with a class") from None
        for polygon in polygons:
            yield str(name), polygon


def _ring(points: Any) -> Ring:
    ring = np.asarray(points, dtype=np.float64)
    if ring.ndim != 2 or ring.shape[1] < 2 or len(ring) < 3 or not bool(np.isfinite(ring).all()):
        raise ValueError
    return ring[:, :2]


def _inside(points: NDArray[np.float64], rings: list[Ring]) -> NDArray[np.bool_]:
    """Tell which points lie in a polygon, holes left out: an odd number of edges to their right (even-odd rule)."""
    x, y = points[:, 0], points[:, 1]
    odd = np.zeros(len(points), dtype=bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            crosses = (y0 > y) != (y1 > y)
            if y0 != y1:
                odd ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd
