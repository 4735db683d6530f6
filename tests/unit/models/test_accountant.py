"""The accountant: never below the exact figure, hardly above it, and infinite where it does not know."""

import math
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr

from solblom_models.accountant import (
    FILTER_ORDERS,
    MAX_NOISE_UNITS,
    MIN_NOISE_UNITS,
    _units_by_crossing,
    _units_by_halving,
    calibrate_noise,
    filter_order,
    format_epsilon,
    pld_epsilon,
    rdp_epsilon,
)
from solblom_protocol.errors import IntegrityError
from solblom_protocol.studies.privacy_event import PrivacyEvent

DELTA = 1e-5
GRID = [  # sampling rate, noise multiplier, steps
    ("0.01", "0.8000", 200),
    ("0.05", "1.0000", 100),
    ("0.1", "1.5000", 50),
    ("0.1", "4.0000", 10),
    ("0.5", "2.0000", 10),
    ("0.5", "6.0000", 60),
    ("0.9", "3.0000", 5),
    ("1", "4.3970", 10),
    ("1", "20.0000", 30),
]


def event(rate: str, noise: str, steps: int = 1) -> PrivacyEvent:
    return PrivacyEvent("poisson-gaussian", rate, noise, steps)


def exact_gaussian_epsilon(noise: float, steps: int, delta: float) -> float:
    """Solve Balle & Wang 2018, Theorem 8, for epsilon; `steps` Gaussians are one with less noise."""
    mean = math.sqrt(steps) / noise

    def excess(epsilon: float) -> float:
        first = log_ndtr(mean / 2 - epsilon / mean)
        second = epsilon + log_ndtr(-mean / 2 - epsilon / mean)
        return float(math.exp(first) - math.exp(second) - delta)

    return float(brentq(excess, 0.0, 200.0, xtol=1e-12))


def reference_epsilon(rate: str, noise: str, steps: int, delta: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    gaussian = dp_event.GaussianDpEvent(float(noise))
    step: Any = (
        gaussian if float(rate) == 1 else dp_event.PoissonSampledDpEvent(float(rate), gaussian)
    )
    return float(accountant.compose(step, steps).get_epsilon(delta))


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(
    ("noise", "steps"), [("0.5000", 1), ("1.0000", 1), ("4.3970", 10), ("10.0000", 100)]
)
def test_without_sampling_epsilon_is_the_exact_gaussian_one_or_a_little_more(
    noise: str, steps: int, delta: float
) -> None:
    exact = exact_gaussian_epsilon(float(noise), steps, delta)
    reported = pld_epsilon([event("1", noise, steps)], delta)
    assert 1.0 <= reported / exact <= 1.001


@pytest.mark.parametrize(("rate", "noise", "steps"), GRID)
def test_epsilon_is_at_most_a_hundredth_above_a_ten_times_finer_accountant(
    rate: str, noise: str, steps: int
) -> None:
    reported = pld_epsilon([event(rate, noise, steps)], DELTA)
    assert 1.0 <= reported / reference_epsilon(rate, noise, steps, DELTA) <= 1.01


@pytest.mark.parametrize(("rate", "noise", "steps"), GRID)
def test_the_lifetime_filter_never_falls_below_the_studys_figure(
    rate: str, noise: str, steps: int
) -> None:
    spent = [event(rate, noise, steps)]
    exact = reference_epsilon(rate, noise, steps, DELTA)
    assert min(rdp_epsilon(spent, DELTA, order=order) for order in (2, 5, 9, 20, 64)) >= exact


def test_steps_in_one_event_cost_what_as_many_events_cost() -> None:
    together = pld_epsilon([event("0.5", "2.0000", 6)], DELTA)
    assert pld_epsilon([event("0.5", "2.0000")] * 6, DELTA) == together
    assert rdp_epsilon([event("0.5", "2.0000")] * 6, DELTA, order=9) == pytest.approx(
        rdp_epsilon([event("0.5", "2.0000", 6)], DELTA, order=9)
    )


def test_the_order_of_events_does_not_matter() -> None:
    events = [event("0.5", "2.0000"), event("1", "3.0000"), event("0.1", "1.0000", 4)]
    assert pld_epsilon(events, DELTA) == pld_epsilon(events[::-1], DELTA)


def test_different_events_cost_more_together_than_each_alone() -> None:
    first, second = event("0.5", "2.0000", 5), event("1", "3.0000", 2)
    both = pld_epsilon([first, second], DELTA)
    alone = [pld_epsilon([first], DELTA), pld_epsilon([second], DELTA)]
    assert max(alone) < both < sum(alone)


def test_nothing_done_costs_nothing() -> None:
    assert pld_epsilon([], DELTA) == rdp_epsilon([], DELTA, order=9) == 0.0


def test_an_unknown_event_costs_infinity() -> None:
    unknown = PrivacyEvent("laplace", "1", "1", 1)  # type: ignore[arg-type]
    known = event("0.1", "10.0000")
    assert pld_epsilon([known, unknown], DELTA) == math.inf
    assert rdp_epsilon([known, unknown], DELTA, order=9) == math.inf


def test_training_without_privacy_costs_infinity_for_ever() -> None:
    off = PrivacyEvent("no-privacy", "1", "0", 1)
    assert pld_epsilon([off, event("0.1", "10.0000")], DELTA) == math.inf


def test_an_event_whose_numbers_make_no_sense_is_refused() -> None:
    with pytest.raises(IntegrityError):
        pld_epsilon([event("0.1", "-1")], DELTA)


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(3.0, 1.0, 10), (0.5, 0.1, 20), (8.0, 0.05, 100), (1.0, 1.0, 1)]
)
def test_calibrated_noise_is_the_smallest_to_four_decimals(
    epsilon: float, rate: float, steps: int
) -> None:
    noise = calibrate_noise(epsilon, DELTA, sampling_rate=rate, steps=steps)
    less = str(Decimal(noise) - Decimal("0.0001"))
    assert pld_epsilon([event(format(rate, "f"), noise, steps)], DELTA) <= epsilon
    assert pld_epsilon([event(format(rate, "f"), less, steps)], DELTA) > epsilon


def test_calibrated_noise_has_four_decimals() -> None:
    noise = calibrate_noise(3.0, DELTA, sampling_rate=1.0, steps=10)
    assert Decimal(noise).as_tuple().exponent == -4


def test_more_privacy_needs_more_noise() -> None:
    noises = [
        Decimal(calibrate_noise(e, DELTA, sampling_rate=1.0, steps=5)) for e in (4.0, 2.0, 1.0, 0.5)
    ]
    assert noises == sorted(set(noises))


def test_a_promise_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="no noise reaches epsilon 1e-07"):
        calibrate_noise(1e-7, 1e-15, sampling_rate=1.0, steps=10)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_a_promise_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="no noise reaches epsilon"):
        calibrate_noise(epsilon, DELTA, steps=1)


@pytest.mark.parametrize("epsilon", [1e-305, 5e-324])
def test_a_promise_that_delta_alone_can_keep_is_kept(epsilon: float) -> None:
    noise = calibrate_noise(epsilon, DELTA, steps=1)
    assert pld_epsilon([event("1", noise, 1)], DELTA) <= epsilon


@pytest.mark.parametrize("dear", [2.0, 1e308, math.inf, math.nan])
@pytest.mark.parametrize("cheap", [math.nextafter(2.0, 0), 5e-324, 0.0])
def test_the_search_ends_whatever_two_costs_there_are(dear: float, cheap: float) -> None:
    units = _units_by_crossing(
        lambda asked: dear if asked < 70_001 else cheap, math.nextafter(2.0, 0), probe=9_000
    )
    assert units == 70_001


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7, 6.0])
@pytest.mark.parametrize("floor", [0.0, 0.4])
@pytest.mark.parametrize("probe", [MIN_NOISE_UNITS, 21_519, MAX_NOISE_UNITS])
@pytest.mark.parametrize("wanted", [MIN_NOISE_UNITS + 1, 9_999, 4_000_003, 600_000_001])
def test_the_line_between_costs_leads_to_the_unit_that_halving_finds(
    power: float, floor: float, probe: int, wanted: int
) -> None:
    asked: list[int] = []

    def cost(units: int) -> float:
        asked.append(units)
        return math.inf if units < 3_000 else floor + (wanted / units) ** power

    found = _units_by_crossing(cost, floor + 1.0, probe=probe)
    assert all(MIN_NOISE_UNITS <= units <= MAX_NOISE_UNITS for units in asked)
    assert len(asked) <= 60
    assert found == max(wanted, 3_000) == _units_by_halving(cost, floor + 1.0)


@pytest.mark.parametrize("search", [partial(_units_by_crossing, probe=5_000), _units_by_halving])
def test_a_search_without_end_stops_past_the_largest_noise(
    search: Callable[[Callable[[int], float], float], int],
) -> None:
    assert search(lambda units: 2.0, 1.0) > MAX_NOISE_UNITS
    assert search(lambda units: math.inf, 1.0) > MAX_NOISE_UNITS
    assert search(lambda units: 0.0, 1.0) == MIN_NOISE_UNITS


@pytest.mark.parametrize("budget", [1.0, 3.0, 8.0, 24.0])
def test_the_filter_order_buys_the_most_full_batch_noise(budget: float) -> None:
    def least_noise(order: int) -> float:
        # Mironov 2017 gives rho * order; dp-accounting converts. Bisect the noise that fits.
        low, high = 0.01, 1000.0
        for _ in range(60):
            middle = (low + high) / 2
            fits = rdp_epsilon([event("1", repr(middle))], DELTA, order=order) <= budget
            low, high = (low, middle) if fits else (middle, high)
        return high

    chosen = filter_order(budget, DELTA)
    assert chosen in FILTER_ORDERS
    best = least_noise(chosen)
    for other in {2, max(2, chosen - 1), chosen + 1, 64} & set(FILTER_ORDERS):
        assert best <= least_noise(other) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("epsilon", "shown"),
    [
        (0.0, "0.000"),
        (1e-9, "0.001"),
        (2.9991, "3.000"),
        (3.0, "3.000"),
        (3.0000001, "3.001"),
        (0.1 + 0.2, "0.301"),
        (math.inf, "inf"),
    ],
)
def test_epsilon_is_rounded_towards_more_loss(epsilon: float, shown: str) -> None:
    assert format_epsilon(epsilon) == shown


def counted(noise: str, steps: int = 1, *, low: str = "0", high: str = "1") -> PrivacyEvent:
    return PrivacyEvent("discrete-gaussian", "1", noise, steps, low, high)


@pytest.mark.parametrize(("noise", "steps"), [("0.8000", 1), ("1.3520", 1), ("4.0000", 5)])
def test_counts_cost_what_their_exact_distribution_costs(noise: str, steps: int) -> None:
    """One patient more shifts one cell by one: the privacy curve of two shifted discrete Gaussians."""
    found = pld_epsilon([counted(noise, steps)], DELTA)
    deviation, reach = float(noise), math.ceil(40 * float(noise))
    weights = [math.exp(-(x**2) / (2 * deviation**2)) for x in range(-reach, reach + 1)]
    total = sum(weights)
    # The loss at x is (2 x - 1) / (2 sigma^2): of `steps` cells it is the sum, so fold the sums.
    mass, single = (
        {0: 1.0},
        {x: w / total for x, w in zip(range(-reach, reach + 1), weights, strict=True)},
    )
    for _ in range(steps):
        folded: dict[int, float] = {}
        for a, p in mass.items():
            for b, q in single.items():
                if p * q > 1e-18:
                    folded[a + b] = folded.get(a + b, 0.0) + p * q
        mass = folded

    def delta(epsilon: float) -> float:
        # Divergence of the shifted from the unshifted: P[x] = mass[x - steps].
        excess = 0.0
        for x, p in mass.items():
            loss = (2 * x + steps) / (2 * deviation**2)
            excess += p * max(0.0, 1.0 - math.exp(epsilon - loss))
        return excess - DELTA

    exact = float(brentq(delta, 0.0, 100.0))
    assert exact <= found <= exact * 1.01


def test_a_patient_pays_for_the_events_that_touch_their_place_only() -> None:
    training = PrivacyEvent("poisson-gaussian", "1", "2.0000", 1, "0.3", "1")
    testing = counted("2.0000", low="0", high="0.3")
    both = pld_epsilon([training, testing], DELTA)
    assert both == max(pld_epsilon([training], DELTA), pld_epsilon([testing], DELTA))
    assert rdp_epsilon([training, testing], DELTA, order=8) == rdp_epsilon(
        [training], DELTA, order=8
    )


def test_parts_that_overlap_add_up_where_they_overlap() -> None:
    first = counted("2.0000", low="0", high="0.5")
    second = counted("2.0000", low="0.4", high="1")
    apart = counted("2.0000", low="0.5", high="1")
    together = pld_epsilon([counted("2.0000", 2)], DELTA)
    assert pld_epsilon([first, second], DELTA) == pytest.approx(together, rel=1e-6)
    assert pld_epsilon([first, apart], DELTA) == pld_epsilon([first], DELTA)


def test_noise_beside_another_event_is_calibrated_to_the_rest_of_the_promise() -> None:
    beside = counted("20.0000", 4)
    noise = calibrate_noise(2.0, DELTA, steps=10, beside=[beside])
    alone = calibrate_noise(2.0, DELTA, steps=10)
    assert float(noise) > float(alone)
    assert 1.99 < pld_epsilon([event("1", noise, 10), beside], DELTA) <= 2.0
