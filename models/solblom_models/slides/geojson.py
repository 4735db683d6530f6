"""Scored tiles as GeoJSON that QuPath (0.4 and later) imports, in pixels of the largest level.

What QuPath reads: properties objectType, classification {name, color} and measurements (an object of numbers since
0.4). A tile is drawn like a detection, so measurement maps work on it; `color` gives it the heatmap's colour at once.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.slides.heatmap import Limits, Scale, check_tiles, colours, limits_of, ranks


def tiles_geojson(
    places: NDArray[np.int64],
    side: float,
    scores: NDArray[np.float64],
    *,
    name: str,
    classes: tuple[str, str],
    threshold: float,
    scale: Scale,
    limits: Limits | None = None,
    origin: tuple[int, int] = (0, 0),
) -> bytes:
    """Return a FeatureCollection, strict JSON: one square a tile, with its score and its rank (1 is the highest).

    Args:
        places: upper left corners, pixels of the largest level, shape (N, 2).
        side: of a tile, pixels of the largest level.
        scores: shape (N,).
        name: of the measurement, such as "Evidence".
        classes: below the threshold, and from it on.
        threshold: see `classes`.
        scale: of colours, as in the heatmap.
        limits: of colours; see `limits_of`.
        origin: where the viewer's picture begins, pixels of the largest level. QuPath with OpenSlide shows only what a
            scanner calls the slide's bounds (openslide.bounds-x and -y), where there are any.

    Raises:
        SlideError: no tile was scored.
        ValueError: shapes, scores, limits or names cannot be written.
    """
    check_tiles(places, side, scores)
    if not np.isfinite(threshold) or any(":" in one or not one for one in classes):
        raise ValueError("a threshold is finite, and a class has a name without QuPath's colon")
    limits = limits or limits_of(scores, scale=scale)
    tints = colours(scores, scale=scale, limits=limits).tolist()
    ends = colours(np.array(limits), scale=scale, limits=limits).tolist()
    corners = (places - np.array(origin)).astype(np.float64)
    features = [
        _feature(corner, side, tint, classes[high], ends[high], {name: score, "Rank": rank})
        for corner, tint, high, score, rank in zip(
            corners.tolist(),
            tints,
            (scores >= threshold).astype(np.int64).tolist(),
            scores.tolist(),
            ranks(scores).tolist(),
            strict=True,
        )
    ]
    whole = {"type": "FeatureCollection", "features": features}
    return json.dumps(whole, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _feature(
    corner: list[float],
    side: float,
    tint: list[int],
    group: str,
    group_tint: list[int],
    measurements: dict[str, float],
) -> dict[str, Any]:
    left, top = corner
    right, bottom = round(left + side, 2), round(top + side, 2)
    # Closed, and counter-clockwise on axes that point right and up (RFC 7946, 3.1.6).
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "tile",
            "color": tint,
            "classification": {"name": group, "color": group_tint},
            "measurements": measurements,
        },
    }
