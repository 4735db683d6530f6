"""What privacy events cost. Pessimistic everywhere; an unknown event costs infinity (privacy.md rule 6).

Two accountants, both from Google's dp-accounting, neighbours differ by adding or removing one
unit, a patient or a family; the formula is the same for both:

* PLD (privacy loss distributions, Koskela et al. 2020; connect-the-dots, Doroshenko et al. 2022),
  discretised at 1e-3: the per-study figure, an upper bound within 0.1 % of a ten times finer grid.
* RDP at one fixed order (Mironov 2017): the lifetime filter. Later studies are chosen after earlier
  results were seen; a filter at a fixed order stays valid then (Feldman & Zrnic 2021, Theorem 4.3),
  a PLD over adaptive choices may not.

Counts with discrete Gaussian noise (Canonne, Kamath & Steinke 2020) enter the PLD as what they are;
their RDP is at most that of the continuous Gaussian (Theorem 4 there).

A patient pays for the events that touch their place on the hospital's line; what is reported is the
patient who pays most. The lifetime is the patient's, whatever unit a study protects (`patient_steps`).

GDP (the central-limit approximation) is not offered: it understates epsilon by 5-12 % under
sampling.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

from solblom_protocol.studies.privacy_event import EventKind, PrivacyEvent, exact_decimal
from solblom_protocol.studies.study import MIN_NOISE, StudyDocument

PLD_INTERVAL = 1e-3
FILTER_ORDERS = tuple(range(2, 65))
ALL_ORDERS = (*(1 + step / 20 for step in range(1, 200)), *map(float, range(11, 513)))
# Of sampled sums between whole orders series are added up, which for little noise do not end in minutes.
WHOLE_ORDERS = tuple(map(float, range(2, 513)))
MAX_NOISE_MULTIPLIER = 100_000.0
MIN_NOISE_UNITS = int(MIN_NOISE * 10_000)  # in units of 1e-4
MAX_NOISE_UNITS = int(MAX_NOISE_MULTIPLIER * 10_000)

# (kind, sampling rate, noise multiplier, slack, steps)
_Merged = tuple[tuple[str, str, str, str, int], ...]


def pld_epsilon(
    events: Iterable[PrivacyEvent], delta: float, *, interval: float = PLD_INTERVAL
) -> float:
    """Return the epsilon of all events together at `delta`, an upper bound; infinity for unknown events.

    Where shared noise takes part, by Renyi DP at the best of many orders: of a sum of discrete Gaussians
    in many dimensions its Renyi divergences are known (Kairouz, Liu & Steinke 2021), no privacy loss
    distribution. The events are fixed in the signed study, so the order may be chosen afterwards.
    """
    parts = _parts(events)
    return math.inf if parts is None else max(_pld(part, delta, interval) for part in parts)


def patient_epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Return what events cost one patient at most, whatever unit each of them protects.

    Of a family study, the larger of two: what the family pays, which is what a patient without relatives
    pays, and what bounds a patient whose family stays (docs/adr/0021). Where families are sampled the second
    is by Renyi DP: a patient less is bounded by a family less beside a family more, and privacy loss
    distributions are known for each of the two alone.
    """
    known = list(events)
    together = pld_epsilon(known, delta)
    paid = [event.for_one_patient() for event in known]
    if paid == known:
        return together
    if not any(
        Decimal(e.sampling_rate) != 1 for e in known if e.patient_steps not in (None, e.steps)
    ):
        return max(together, pld_epsilon(paid, delta))
    parts = _parts(paid)
    if parts is None:
        return math.inf
    return max(together, *(_rdp(part, delta, WHOLE_ORDERS) for part in parts))


def rdp_epsilon(events: Iterable[PrivacyEvent], delta: float, *, order: int) -> float:
    """Return the epsilon of all events for a patient, by Renyi DP at one order; infinity for unknown events.

    The order is fixed in advance. Of a family study a patient is charged `patient_steps` (docs/adr/0021).
    """
    parts = _parts(event.for_one_patient() for event in events)
    orders = (float(order),)
    return math.inf if parts is None else max(_rdp(part, delta, orders) for part in parts)


def alone_epsilon(document: StudyDocument) -> float:
    """Return what a study costs a patient if every other hospital of its secure sum works against this one."""
    events = [event.alone() for event in document.all_events]
    return patient_epsilon(events, document.study.privacy.delta)


def two_hospitals_epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Return what events cost at most a patient, or a family, who is in two hospitals of the secure sum."""
    return patient_epsilon([event.in_two_hospitals() for event in events], delta)


@lru_cache(maxsize=64)
def filter_order(epsilon_budget: float, delta: float) -> int:
    """Return the order at which the lifetime budget buys most Gaussian noise; fixed before any data are seen.

    A full-batch Gaussian with rate rho = steps / (2 sigma^2) has RDP rho * order. The order is the
    one that admits the largest rho within the budget.
    """

    def admitted(order: int) -> float:
        low, high = 0.0, epsilon_budget
        for _ in range(40):
            rho = (low + high) / 2
            sigma = 1.0 / math.sqrt(2 * rho) if rho > 0 else math.inf
            fits = (
                rho > 0
                and _rdp((("poisson-gaussian", "1", repr(sigma), "0", 1),), delta, (float(order),))
                <= epsilon_budget
            )
            low, high = (rho, high) if fits else (low, rho)
        return low

    return max(FILTER_ORDERS, key=admitted)


def calibrate_noise(
    epsilon: float,
    delta: float,
    *,
    sampling_rate: float = 1.0,
    steps: int,
    kind: EventKind = "poisson-gaussian",
    beside: Sequence[PrivacyEvent] = (),
) -> str:
    """Return the smallest noise multiplier from 0.25 up, to four decimals, that costs at most `epsilon`.

    `beside` are events that the same patients pay for within the same epsilon.

    Raises:
        ValueError: no noise multiplier up to 100,000 is enough.
    """
    if not (epsilon > 0 and 0 < delta < 1):  # also what is no number
        raise ValueError(f"no noise reaches epsilon {epsilon} at delta {delta}")
    rate = exact_decimal(sampling_rate)

    def cost(units: int) -> float:
        event = PrivacyEvent(kind, rate, _four(units), steps)
        return pld_epsilon([event, *beside], delta)

    if kind == "poisson-gaussian":
        probe = _likely_units(epsilon, delta, sampling_rate=sampling_rate, steps=steps)
        units = _units_by_crossing(cost, epsilon, probe=probe)
    else:
        units = _units_by_halving(cost, epsilon)
    if units > MAX_NOISE_UNITS:
        raise ValueError(f"no noise reaches epsilon {epsilon} at delta {delta}")
    return _four(units)


def _likely_units(epsilon: float, delta: float, *, sampling_rate: float, steps: int) -> int:
    """Return where to look first: what zero-concentrated privacy says (Bun & Steinke 2016, Prop. 1.3).

    epsilon = rho + 2 sqrt(rho log(1/delta)) with rho = steps (rate / noise)^2 / 2. A guess only.
    """
    log_term = math.log(1 / delta)
    root = math.sqrt(log_term + epsilon) - math.sqrt(log_term)
    noise = sampling_rate * math.sqrt(steps / 2) / root if root > 0 else math.inf
    return round(min(max(noise * 10_000, MIN_NOISE_UNITS), MAX_NOISE_UNITS))


def _units_by_crossing(cost: Callable[[int], float], epsilon: float, *, probe: int) -> int:
    """Return the least units that cost at most epsilon, one more than the largest if there are none.

    What a Gaussian costs falls with its noise nearly as a power, so a straight line between the
    logarithms of two costs leads to the place in fewer evaluations than halving needs.
    """
    low, high = MIN_NOISE_UNITS - 1, MAX_NOISE_UNITS + 1  # too little; enough, if anything is
    costs = {low: math.inf, high: 0.0}
    sides: list[bool] = []
    while high - low > 1:
        costs[probe] = cost(probe)
        sides.append(costs[probe] <= epsilon)
        low, high = (low, probe) if sides[-1] else (probe, high)
        place = _crossing((low, costs[low]), (high, costs[high]), epsilon)
        thrice = len(sides) > 2 and len(set(sides[-3:])) == 1  # from one side
        if thrice or not math.isfinite(place):  # halve instead
            place = math.sqrt(low * high)
        probe = min(max(math.ceil(place), low + 1), high - 1)
    return high


def _crossing(low: tuple[int, float], high: tuple[int, float], epsilon: float) -> float:
    """Return where the cost is likely to be epsilon, between two places or a little beyond the one known."""
    (less, dear), (more, cheap) = low, high
    if math.isfinite(dear) and cheap > 0:
        fall = math.log(dear / cheap)
        share = math.log(dear / epsilon) / fall if fall else 0.5
        return less * math.exp(share * math.log(more / less))
    if math.isfinite(dear):
        return 1.01 * less * dear / epsilon
    if cheap > 0:
        return 0.99 * more * cheap / epsilon
    return math.sqrt(less * more)


def _units_by_halving(cost: Callable[[int], float], epsilon: float) -> int:
    """Return units that cost at most epsilon while one unit less costs more; else more than the largest.

    For discrete noise: its tails are cut at whole numbers, so in the fourth decimal its cost does not
    fall steadily, and which of several such places is found depends on where the search has been.
    Hospitals and researchers must find the same one.
    """
    high = MIN_NOISE_UNITS
    while high <= MAX_NOISE_UNITS and cost(high) > epsilon:
        high *= 2
    if high > MAX_NOISE_UNITS:
        return high
    low = high // 2 if high > MIN_NOISE_UNITS else high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high


def format_epsilon(epsilon: float) -> str:
    """Return epsilon as a decimal string, rounded up to three decimals (towards more loss)."""
    if math.isinf(epsilon):
        return "inf"
    return str(Decimal(repr(epsilon)).quantize(Decimal("0.001"), rounding=ROUND_CEILING))


def _four(units: int) -> str:
    return f"{units // 10_000}.{units % 10_000:04d}"


def _parts(events: Iterable[PrivacyEvent]) -> list[_Merged] | None:
    """Return what the patients of each part of the line pay for; None when something costs infinity."""
    known = list(events)
    for event in known:
        if event.kind not in ("poisson-gaussian", "discrete-gaussian", "shared-gaussian"):
            return None
        event.check()
    spans = [(Decimal(event.patients_from), Decimal(event.patients_to)) for event in known]
    starts = sorted({start for start, _ in spans}) or [Decimal(0)]
    return [
        _merge(e for e, (low, high) in zip(known, spans, strict=True) if low <= start < high)
        for start in starts
    ]


def _merge(events: Iterable[PrivacyEvent]) -> _Merged:
    totals: dict[tuple[str, str, str, str], int] = {}
    for event in events:
        key = (event.kind, event.sampling_rate, event.noise_multiplier, event.slack or "0")
        totals[key] = totals.get(key, 0) + event.steps
    return tuple(sorted((*key, steps) for key, steps in totals.items()))


@lru_cache(maxsize=4096)
def _pld(merged: _Merged, delta: float, interval: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution

    if not merged:
        return 0.0
    if any(entry[0] == "shared-gaussian" for entry in merged):
        return _rdp(merged, delta, ALL_ORDERS)
    total = privacy_loss_distribution.identity(value_discretization_interval=interval)
    for kind, rate, noise, _, steps in merged:
        total = total.compose(_distribution(kind, rate, noise, steps, interval))
    return float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def _distribution(kind: str, rate: str, noise: str, steps: int, interval: float) -> Any:
    """Return the privacy loss distribution of one event, pessimistic."""
    from dp_accounting.pld import privacy_loss_distribution

    if kind == "discrete-gaussian":
        return privacy_loss_distribution.from_discrete_gaussian_mechanism(
            float(noise), value_discretization_interval=interval
        ).self_compose(steps)
    if Decimal(rate) == 1:  # many full-batch steps are one step with less noise
        return privacy_loss_distribution.from_gaussian_mechanism(
            float(noise) / math.sqrt(steps), value_discretization_interval=interval
        )
    return privacy_loss_distribution.from_gaussian_mechanism(
        float(noise), value_discretization_interval=interval, sampling_prob=float(rate)
    ).self_compose(steps)


@lru_cache(maxsize=4096)
def _rdp(merged: _Merged, delta: float, orders: tuple[float, ...]) -> float:
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    if not merged:
        return 0.0
    accountant = RdpAccountant(orders=list(orders))
    for _, rate, noise, slack, steps in merged:
        # (e^2 / 2)-concentrated with e = 1 / noise + slack: as a Gaussian with that much less noise.
        event = dp_event.GaussianDpEvent(1.0 / (1.0 / float(noise) + float(slack)))
        if Decimal(rate) != 1:
            event = dp_event.PoissonSampledDpEvent(float(rate), event)
        accountant.compose(event, steps)
    return float(accountant.get_epsilon(delta))
