"""GeoJSON: what QuPath reads, in pixels of the largest level, and strictly JSON."""

import json
from typing import Any

import numpy as np
import pytest

from solblom_models.slides.geojson import tiles_geojson
from solblom_models.slides.slide_error import SlideError

PLACES = np.array([[0, 0], [128, 0], [128, 257]])
SCORES = np.array([-0.5, 0.25, 1.0])


def written(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "places": PLACES,
        "side": 128.0,
        "scores": SCORES,
        "name": "Evidence",
        "classes": ("against", "for"),
        "threshold": 0.0,
        "scale": "diverging",
    }
    data = tiles_geojson(**(values | changes))

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found: dict[str, Any] = json.loads(data, parse_constant=no_constant)
    return found


def ring(feature: dict[str, Any]) -> list[list[float]]:
    found: list[list[float]] = feature["geometry"]["coordinates"][0]
    return found


def test_a_tile_is_a_closed_square_in_pixels_of_the_largest_level() -> None:
    found = written()
    assert found["type"] == "FeatureCollection"
    assert [feature["geometry"]["type"] for feature in found["features"]] == ["Polygon"] * 3
    assert ring(found["features"][2]) == [
        [128, 257],
        [256, 257],
        [256, 385],
        [128, 385],
        [128, 257],
    ]


def test_a_tile_has_what_qupath_reads() -> None:
    """As QuPath's own export has it since 0.4: objectType, classification with name and color, measurements."""
    first = written()["features"][0]
    assert first["type"] == "Feature"
    assert set(first["properties"]) == {"objectType", "color", "classification", "measurements"}
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["measurements"] == {"Evidence": -0.5, "Rank": 3}
    assert set(first["properties"]["classification"]) == {"name", "color"}
    for colour in (first["properties"]["color"], first["properties"]["classification"]["color"]):
        assert len(colour) == 3
        assert all(isinstance(value, int) and 0 <= value <= 255 for value in colour)


def test_the_threshold_parts_the_classes_and_belongs_to_the_upper() -> None:
    found = written(threshold=0.25)["features"]
    names = [feature["properties"]["classification"]["name"] for feature in found]
    assert names == ["against", "for", "for"]


def test_a_viewer_that_crops_gets_places_from_where_it_begins() -> None:
    assert ring(written(origin=(100, 200))["features"][2])[0] == [28, 57]


def test_the_same_scores_give_the_same_bytes() -> None:
    assert written() == written()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        written(scores=np.array([0.0, bad, 1.0]))


def test_a_slide_without_a_scored_tile_is_refused() -> None:
    with pytest.raises(SlideError, match="no tile of it was scored"):
        written(places=np.zeros((0, 2), dtype=np.int64), scores=np.zeros(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("Tumour: no", "Tumour: yes")},
        {"classes": ("", "for")},
        {"threshold": np.nan},
        {"side": 0.0},
        {"scores": np.zeros(2)},
        {"limits": (-1.0, 2.0)},
    ],
)
def test_what_qupath_or_the_colours_would_misread_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        written(**changes)
