"""Pictures of an evaluation: they show what the report says, and the same report gives the same bytes."""

import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from solblom_models import plots
from solblom_models.metrics import Estimate
from solblom_models.plots import Row, pictures
from solblom_protocol.errors import ConfigurationError

TOP = {
    "top_1": [0.7, 0.6, 0.8],
    "top_5": [0.9, 0.85, 0.95],
    "top_10": [0.95, 0.9, 1.0],
    "mrr": [0.8, 0.7, 0.9],
}
KINDS = {"prior": TOP, "local": TOP, "federated": TOP, "pooled": TOP}
RANKING: dict[str, Any] = {
    "simulation": True,
    "measure": "ranking",
    "all": KINDS,
    "sites": [
        {"site": "north", "metrics": KINDS},
        {"site": "south", "metrics": {**KINDS, "local": {"patients": 0}}},
    ],
    "subgroups": {"age_band": {"12 to 18": TOP, "1 to 6": {"patients": 3}, "below 1": TOP}},
    "released": [],
}
TABLE_KINDS = ("local", "federated", "own_intercept", "pooled")
HIDDEN: dict[str, Any] = {"auroc": None, "auprc": None, "calibration_error": 0.4}
AUROC = {
    "auroc": 0.8,
    "auroc_interval": [0.7, 0.9],
    "auprc": [0.6, 0.5, 0.7],
    "calibration_error": 0.05,
}
TABLES: dict[str, Any] = {
    "simulation": True,
    "sites": [
        {"site": "va", "metrics": dict.fromkeys(TABLE_KINDS, AUROC)},
        {"site": "swiss", "metrics": dict.fromkeys(TABLE_KINDS, HIDDEN)},
    ],
    "all": dict.fromkeys(TABLE_KINDS, AUROC),
    "subgroups": {"male": {"yes": AUROC, "no": {"patients": 4}}},
}
DECIDED = AUROC | {
    "sensitivity_at_95_specificity": [0.6, 0.5, 0.7],
    "balanced_accuracy": [0.8, 0.7, 0.9],
    "f1": [0.7, 0.6, 0.8],
    "kappa": [0.1, -0.1, 0.3],
}
SLIDE_KINDS = dict.fromkeys(("local", "federated", "pooled"), DECIDED)
SLIDES: dict[str, Any] = {
    "simulation": True,
    "measure": "slides",
    "sites": [
        {
            "site": "north",
            "metrics": SLIDE_KINDS,
            "federated_minus_local": {"auroc": [0.05, -0.01, 0.1]},
        },
        {
            "site": "south",
            "metrics": SLIDE_KINDS,
            "federated_minus_local": {"auroc": None, "reason": "2 with disease"},
        },
    ],
    "all": SLIDE_KINDS,
    "subgroups": {"scanner": {"AT2": DECIDED, "P1000": {"patients": 3}}},
}
RELEASED: dict[str, Any] = {
    "released": [
        {
            "kind": "evaluate",
            "status": "released",
            "number": 1,
            "metrics": {
                "reason": None,
                "auroc": 0.8,
                "auroc_interval": [0.7, 0.9],
                "calibration": [
                    {"score": 0.1, "observed": 0.2, "observed_interval": [0.1, 0.3]},
                    {"score": 0.9, "observed": None},
                ],
            },
        }
    ]
}


def words(data: bytes) -> str:
    return " ".join(ElementTree.fromstring(data).itertext())  # noqa: S314 - our own bytes


def test_ranked_diseases_get_three_pictures_with_their_words() -> None:
    found = pictures(RANKING, title="rare@v1")
    assert set(found) == {"recall.svg", "hospitals.svg", "subgroups.svg"}
    assert "among the first 10" in words(found["recall.svg"])
    assert "public knowledge alone" in words(found["recall.svg"])
    assert "rare@v1: all test patients (simulation)" in words(found["recall.svg"])
    assert "too few to show" in words(found["subgroups.svg"])


def test_dollar_signs_in_a_name_are_no_formula() -> None:
    name = "a$b^$c"
    named = TABLES | {"sites": [{"site": name, "metrics": dict.fromkeys(TABLE_KINDS, AUROC)}]}
    drawn = words(pictures(named, title=name)["hospitals.svg"])
    assert drawn.count(name) >= 2


def test_ages_stand_in_their_order() -> None:
    text = words(pictures(RANKING, title="x")["subgroups.svg"])
    places = [text.index(f"age band: {band}") for band in ("below 1", "1 to 6", "12 to 18")]
    assert places == sorted(places)


def test_tables_are_drawn_by_hospital_and_a_hidden_area_stays_hidden() -> None:
    found = pictures(TABLES, title="heart@v1")
    assert set(found) == {"hospitals.svg", "precision.svg", "calibration.svg", "subgroups.svg"}
    assert "too few to show" in words(found["hospitals.svg"])
    assert "own intercept" not in words(found["hospitals.svg"])  # it changes no area
    assert "federated, own intercept" in words(found["calibration.svg"])
    assert "male: yes" in words(found["subgroups.svg"])


@pytest.mark.parametrize("measure", ["slides", "tiles"])
def test_slides_and_tiles_also_show_yes_or_no_and_what_each_hospital_gained(measure: str) -> None:
    found = pictures(SLIDES | {"measure": measure}, title="breast@v1")
    tables = {"hospitals.svg", "precision.svg", "calibration.svg", "subgroups.svg"}
    assert set(found) == tables | {"decisions.svg", "gain.svg"}
    assert "sensitivity at 95 % specificity" in words(found["decisions.svg"])
    assert "federated minus local only, paired" in words(found["gain.svg"])
    assert "too few to show" in words(found["gain.svg"])
    assert "scanner: AT2" in words(found["subgroups.svg"])


def test_a_difference_below_zero_is_drawn_beside_a_line_at_zero() -> None:
    class Axes:
        drawn: list[float]

        def __init__(self) -> None:
            self.drawn = []

        def axvline(self, place: float, **_: Any) -> None:
            self.drawn.append(place)

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    below, above = Axes(), Axes()
    plots._fill(below, [Row("north", {"federated": Estimate(0.1, -0.1, 0.3)})], "t", "a")
    plots._fill(above, [Row("north", {"federated": Estimate(0.8, 0.7, 0.9)})], "t", "a")
    assert (below.drawn, above.drawn) == ([0.0], [])


def test_what_left_hospitals_is_drawn_with_its_calibration() -> None:
    found = pictures(RELEASED, title="heart@v1")
    assert set(found) == {"released-1.svg", "calibration-1.svg"}
    assert "released with noise" in words(found["released-1.svg"])
    assert "score 0.10" in words(found["calibration-1.svg"])
    assert "score 0.90" not in words(found["calibration-1.svg"])


def test_a_report_without_figures_gives_no_picture() -> None:
    assert pictures({"released": [], "note": "No metric left"}, title="x") == {}


def test_the_same_report_gives_the_same_bytes() -> None:
    assert pictures(RANKING, title="x") == pictures(RANKING, title="x")


def test_an_interval_that_reaches_zero_is_drawn_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[float], list[list[float]]]] = []

    class Axes:
        def errorbar(
            self, values: list[float], places: list[float], *, xerr: Any, **_: Any
        ) -> None:
            seen.append((values, xerr))

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    plots._fill(Axes(), [Row("rare", {"federated": Estimate(0.5, 0.0, 1.0)})], "t", "a")
    assert seen == [([0.5], [[0.5], [0.5]])]


def test_without_matplotlib_the_missing_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match="matplotlib") as caught:
        pictures(RANKING, title="x")
    assert caught.value.code == "SB-118"
