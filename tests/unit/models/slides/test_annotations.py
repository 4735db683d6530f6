"""Outlines as QuPath exports them give each tile a code; what is no outline is refused without a word of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solblom_models.slides.annotations import tile_codes
from solblom_models.slides.slide_error import SlideError

MIDDLES = np.array([[5.0, 5.0], [15.0, 5.0], [50.0, 50.0], [95.0, 95.0]])
SQUARE = [[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]


def outline(rings: list[Any], name: str = "tumour", kind: str = "Polygon") -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": [1, 2, 3]},
        },
    }


def codes(folder: Path, value: Any, *, elsewhere: str | None = None) -> list[str | None]:
    path = folder / "a.geojson"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return tile_codes(path, MIDDLES, codes=("tumour", "healthy"), elsewhere=elsewhere)


def test_a_tile_has_the_class_of_the_outline_around_its_middle(tmp_path: Path) -> None:
    found = codes(tmp_path, {"type": "FeatureCollection", "features": [outline([SQUARE])]})
    assert found == ["tumour", "tumour", None, None]


def test_a_hole_is_not_inside(tmp_path: Path) -> None:
    hole = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
    found = codes(tmp_path, [outline([SQUARE, hole])])
    assert found == [None, "tumour", None, None]


def test_the_last_outline_drawn_counts(tmp_path: Path) -> None:
    small = [[0, 0], [10, 0], [10, 10], [0, 10]]
    found = codes(tmp_path, [outline([SQUARE]), outline([small], "healthy")])
    assert found[:2] == ["healthy", "tumour"]


def test_several_pieces_are_one_outline(tmp_path: Path) -> None:
    far = [[90, 90], [100, 90], [100, 100], [90, 100]]
    found = codes(tmp_path, [outline([[SQUARE], [far]], kind="MultiPolygon")])
    assert found == ["tumour", "tumour", None, "tumour"]


def test_tissue_without_an_outline_gets_the_code_that_the_contract_gives(tmp_path: Path) -> None:
    assert codes(tmp_path, [outline([SQUARE])], elsewhere="healthy")[2:] == ["healthy", "healthy"]


@pytest.mark.parametrize(
    "value",
    [
        "not json",
        "[" * 100_000,
        {"features": 3},
        [{"type": "Feature"}],
        [outline([[[0, 0], [1, 1]]])],
        [outline([[[0, 0], [1, "x"], [2, 2]]])],
        [outline([[[0, 0], [1, float("nan")], [2, 2]]])],
        [outline([[[0, 0], [1, 10**400], [2, 2]]])],
        [outline([SQUARE], kind="Point")],
        [{**outline([SQUARE]), "properties": {"objectType": "annotation"}}],
    ],
)
def test_what_is_no_outline_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(SlideError):
        codes(tmp_path, value)


def test_a_class_that_the_contract_does_not_know_is_refused_without_its_name(
    tmp_path: Path,
) -> None:
    with pytest.raises(SlideError) as caught:
        codes(tmp_path, [outline([SQUARE], "Kari Nordmann")])
    assert "Kari" not in str(caught.value)
