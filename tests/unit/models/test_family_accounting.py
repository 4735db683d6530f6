"""What a family study costs one patient: never less than what happens, by direct integration of what a step shows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from lab import study_document
from solblom_models.accountant import alone_epsilon, patient_epsilon, pld_epsilon, rdp_epsilon
from solblom_models.statement import Charge, privacy_statement
from solblom_protocol.errors import IntegrityError
from solblom_protocol.studies.privacy_event import PrivacyEvent
from unit.models.test_shared_noise import study as shared_study

Point = tuple[float, float]
ROOT = math.sqrt(3) / 2
PAIRS: dict[str, tuple[Point, Point]] = {
    # A family's contribution with and without one patient, in units of the clipping norm.
    "opposite twins": ((0.0, 0.0), (1.0, 0.0)),
    "the patient alone": ((1.0, 0.0), (0.0, 0.0)),
    "at right angles": ((0.5, 0.5), (1.0, 0.0)),
    "of three": ((1 / 3, 0.0), (1.0, 0.0)),
    "as far as any two may be": ((1.0, 0.0), (0.5, ROOT)),
}


def shown(rate: float, noise: float, at: Point, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the density of one step's noisy sum, the others' being at the origin, on a plane."""

    def normal(x: float, y: float) -> NDArray[np.float64]:
        squares = (grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2
        return np.exp(-squares / (2 * noise**2)) / (2 * math.pi * noise**2)

    return (1 - rate) * normal(0.0, 0.0) + rate * normal(*at)


def renyi(rate: float, noise: float, pair: tuple[Point, Point], order: int) -> float:
    grid = np.linspace(-9 * noise - 1, 9 * noise + 1 + order, 900)
    with_them, without = (shown(rate, noise, at, grid) for at in pair)
    seen = without > 1e-250
    ratio = np.log(np.maximum(with_them[seen], 1e-300)) * order
    ratio += np.log(without[seen]) * (1 - order)
    total = float(np.exp(ratio).sum()) * float(grid[1] - grid[0]) ** 2
    return math.log(total) / (order - 1)


def charged(rate: str, noise: str, order: int, *, patient_steps: int | None) -> float:
    """Return the Renyi divergence that the lifetime filter counts: its epsilon without the part of delta."""
    event = PrivacyEvent("poisson-gaussian", rate, noise, 1, patient_steps=patient_steps)
    some, none = (rdp_epsilon([e] * n, 1e-5, order=order) for e, n in ((event, 2), (event, 1)))
    return some - none


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize(("rate", "noise"), [("0.1", "3.0"), ("0.5", "1.0"), ("0.9", "2.0")])
def test_the_charge_is_never_below_what_a_step_shows_of_a_patient(
    pair: tuple[Point, Point], order: int, rate: str, noise: str
) -> None:
    for way in (pair, pair[::-1]):
        found = renyi(float(rate), float(noise), way, order)
        assert found <= charged(rate, noise, order, patient_steps=2) * (1 + 1e-6)


def test_one_step_would_not_cover_every_pair_that_the_proof_admits() -> None:
    pair = PAIRS["as far as any two may be"]
    found = renyi(0.1, 3.0, pair, 2)
    assert found > charged("0.1", "3.0", 2, patient_steps=1) * 1.005


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("order", [2, 4])
def test_over_everybody_one_step_covers_a_patient(pair: tuple[Point, Point], order: int) -> None:
    for way in (pair, pair[::-1]):
        found = renyi(1.0, 2.0, way, order)
        assert found <= charged("1", "2.0", order, patient_steps=1) * (1 + 1e-6)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0, 5.0])
def test_a_patient_less_shows_no_more_than_a_family_less_at_any_factor_above_one(
    pair: tuple[Point, Point], factor: float
) -> None:
    """The step of the proof that advanced joint convexity gives."""
    grid = np.linspace(-10, 11, 900)
    area = float(grid[1] - grid[0]) ** 2

    def beyond(one: Point, other: Point) -> float:
        first, second = (shown(0.3, 1.0, at, grid) for at in (one, other))
        return float(np.maximum(first - factor * second, 0.0).sum()) * area

    family = beyond((1.0, 0.0), (0.0, 0.0))
    for one, other in (pair, pair[::-1]):
        assert beyond(one, other) <= family * (1 + 1e-6) + 1e-9


def test_epsilon_for_families_is_the_formula_for_patients() -> None:
    for kind, rate, noise, steps in (
        ("poisson-gaussian", "0.2", "1.1", 40),
        ("poisson-gaussian", "1", "4.0", 10),
        ("discrete-gaussian", "1", "3.0", 2),
    ):
        event = PrivacyEvent(kind, rate, noise, steps)  # type: ignore[arg-type]
        family = replace(event, patient_steps=2 * steps)
        assert pld_epsilon([family], 1e-5) == pld_epsilon([event], 1e-5)


def test_a_patients_figure_is_that_of_the_study_where_patients_are_the_unit() -> None:
    events = study_document().all_events
    assert patient_epsilon(events, 1e-5) == pld_epsilon(events, 1e-5)


@pytest.mark.parametrize("rate", ["0.2", "1"])
def test_a_patients_figure_is_never_below_the_familys(rate: str) -> None:
    event = PrivacyEvent(
        "poisson-gaussian", rate, "2.0", 10, patient_steps=10 if rate == "1" else 20
    )
    counts = PrivacyEvent("discrete-gaussian", "1", "5.0", 1, patient_steps=2)
    assert patient_epsilon([event, counts], 1e-5) > pld_epsilon([event, counts], 1e-5)
    assert patient_epsilon([event], 1e-5) >= pld_epsilon([event], 1e-5)


def test_counts_of_a_patient_cost_two_cells_exactly() -> None:
    counts = PrivacyEvent("discrete-gaussian", "1", "5.0", 1, patient_steps=2)
    twice = PrivacyEvent("discrete-gaussian", "1", "5.0", 2)
    assert patient_epsilon([counts], 1e-5) == pld_epsilon([twice], 1e-5)


def test_the_lifetime_adds_patients_up_over_studies_of_both_units() -> None:
    patient = PrivacyEvent("poisson-gaussian", "0.2", "2.0", 10)
    family = PrivacyEvent("poisson-gaussian", "0.2", "2.0", 10, patient_steps=20)
    both = rdp_epsilon([patient, family], 1e-5, order=8)
    assert both == rdp_epsilon([patient] * 3, 1e-5, order=8)


def test_several_events_as_one_keep_what_a_patient_pays() -> None:
    event = PrivacyEvent("poisson-gaussian", "0.2", "2.0", 3, patient_steps=6)
    assert event.times(5) == replace(event, steps=15, patient_steps=30)
    assert PrivacyEvent("poisson-gaussian", "0.2", "2.0", 3).times(5).patient_steps is None


@pytest.mark.parametrize("wrong", [0, 2, 7, -3, 3.0, "3", True, None])
def test_an_event_that_charges_a_patient_less_than_a_family_is_refused(wrong: object) -> None:
    value = PrivacyEvent("poisson-gaussian", "0.2", "2.0", 3, patient_steps=6).to_json()
    assert PrivacyEvent.from_json(value).patient_steps == 6
    with pytest.raises(IntegrityError):
        PrivacyEvent.from_json(value | {"patient_steps": wrong})


def test_what_a_hospital_alone_guarantees_is_for_a_patient() -> None:
    study = study_document(
        privacy={"unit": "family"},
        evaluation={"split": {"by": "family"}},
        cohort={"min_patients": 5},
    )
    assert alone_epsilon(study) == patient_epsilon(study.all_events, 1e-5)


def test_what_a_statement_says_of_a_hospital_alone_is_never_below_what_its_gate_counts() -> None:
    """A patient who gives way to a relative in counts pays twice, with whatever noise is left (docs/adr/0021)."""
    document = shared_study(
        privacy={"unit": "family"},
        evaluation={"split": {"by": "family"}, "releases": 1, "epsilon": 0.5},
    )
    charges = [Charge(1, "north", event) for event in document.all_events]
    figures = privacy_statement(document, charges, simulation=False)["sites"]["north"]
    delta = document.study.privacy.delta
    alone = [event.alone() for event in document.all_events]
    assert patient_epsilon(alone, delta) > pld_epsilon(alone, delta)
    assert float(figures["epsilon_alone"]) >= alone_epsilon(document)
    twice = [event.in_two_hospitals() for event in document.all_events]
    assert float(figures["epsilon_in_two_hospitals"]) >= patient_epsilon(twice, delta)
    assert patient_epsilon(twice, delta) > pld_epsilon(twice, delta)


def test_a_patients_figure_of_sampled_families_is_found_without_series_that_do_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A gate asks for it before every order: a study may not choose how long that takes, nor fill the log."""
    event = PrivacyEvent("poisson-gaussian", "0.5", "2.8299", 3, patient_steps=6)
    found = patient_epsilon([event], 1e-5)
    assert not [record for record in caplog.records if "converge" in record.getMessage()]
    at_one_order = rdp_epsilon([event], 1e-5, order=8)
    assert pld_epsilon([event.for_one_patient()], 1e-5) < found <= at_one_order
