"""Ages in years from what a phenopacket may say of time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phenotype_lab import real_release
from solblom_models.phenotype.ages import ONSET_YEARS, age_years, duration_years


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("P3Y2M", 3 + 2 / 12),
        ("P10Y", 10.0),
        ("P6M", 0.5),
        ("P0D", 0.0),
        ("P2W", 14 / 365.25),
        ("P1.5Y", 1.5),
        ("P1,5Y", 1.5),
        ("P1DT12H", 1.5 / 365.25),
        ("PT12H", 0.5 / 365.25),
        (" P1Y ", 1.0),
    ],
)
def test_a_duration_is_years(text: str, years: float) -> None:
    assert duration_years(text) == pytest.approx(years)


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "3Y", "P3", "-P3Y", "P-3Y", "P3M2Y", "P1e9Y", "P131Y", "P٣Y", 3, None, []],
)
def test_what_is_no_duration_of_a_life_is_no_age(text: object) -> None:
    assert duration_years(text) is None


@given(st.text(max_size=30))
def test_no_text_makes_the_reader_fail(text: str) -> None:
    found = duration_years(text)
    assert found is None or 0 <= found <= 130


@pytest.mark.parametrize(
    ("element", "years"),
    [
        ({"age": {"iso8601duration": "P4Y"}}, 4.0),
        (
            {"ageRange": {"start": {"iso8601duration": "P4Y"}, "end": {"iso8601duration": "P6Y"}}},
            5.0,
        ),
        ({"gestationalAge": {"weeks": 20, "days": 3}}, 0.0),
        ({"ontologyClass": {"id": "HP:0003621"}}, 10.0),
        ({"ontologyClass": {"id": "HP:0003577"}}, 0.0),
        ({"timestamp": "2020-07-01T00:00:00Z"}, 10.0),
    ],
)
def test_each_kind_of_time_is_an_age(element: dict[str, Any], years: float) -> None:
    assert age_years(element, born="2010-07-01T00:00:00Z") == pytest.approx(years, abs=0.01)


@pytest.mark.parametrize(
    "element",
    [
        {},
        {"age": "P4Y"},
        {"ageRange": {"start": {"iso8601duration": "P4Y"}}},
        {"ageRange": {"start": {"iso8601duration": "P6Y"}, "end": {"iso8601duration": "P4Y"}}},
        {"gestationalAge": 20},
        {"ontologyClass": {"id": "HP:0003581"}},  # adult onset: open upwards
        {"ontologyClass": "HP:0003621"},
        {"timestamp": "2009-07-01T00:00:00Z"},
        {"timestamp": "yesterday"},
    ],
)
def test_a_time_without_a_middle_is_no_age(element: dict[str, Any]) -> None:
    assert age_years(element, born="2010-07-01T00:00:00Z") is None


def test_a_date_alone_is_no_age() -> None:
    assert age_years({"timestamp": "2020-07-01T00:00:00Z"}) is None


def test_classes_of_onset_are_current_terms_of_the_real_ontology() -> None:
    ontology, _ = real_release()
    assert ONSET_YEARS.keys() <= ontology.names.keys()
