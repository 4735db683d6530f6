"""The shares of a study keep its promise, hardly more, and every figure follows from whole numbers."""

import math
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.optimize import minimize_scalar

from lab import study_document
from secure_lab import SHARED, SITES
from solblom_models.accountant import (
    alone_epsilon,
    pld_epsilon,
    rdp_epsilon,
    two_hospitals_epsilon,
)
from solblom_models.shared_noise import add_shared_noise
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.secure_sum import (
    Member,
    Roster,
    fractional_bits,
    largest_value,
    shared_event,
    training_sensitivity,
)

DELTA = 1e-5


def roster(count: int = 3) -> Roster:
    names = SITES if count == 3 else [f"h{n:02}" for n in range(count)]
    members = [
        Member(site=site, signing_key=public_pem(Ed25519PrivateKey.generate().public_key()))
        for site in names
    ]
    return Roster(schema="solblom.roster/1", members=tuple(members))


def study(count: int = 3, **changes: Any) -> StudyDocument:
    merged = {name: SHARED.get(name, {}) | changes.get(name, {}) for name in SHARED | changes}
    merged["cohort"] |= {"min_nodes": count, "quorum": count}
    return study_document(members=roster(count), **merged)


def event(noise: str, *, alone: str = "1.0", slack: str = "0", steps: int = 1) -> PrivacyEvent:
    return PrivacyEvent("shared-gaussian", "1", noise, steps, "0", "1", alone, slack)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Return epsilon of rho-zCDP by the best order, written anew (Canonne, Kamath & Steinke 2020, Proposition 12)."""

    def at(order: float) -> float:
        return rho * order + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)

    return float(minimize_scalar(at, bounds=(1.01, 500), method="bounded").fun)


@pytest.mark.parametrize(("noise", "steps"), [("0.9", 1), ("4.0", 1), ("4.0", 10), ("30.0", 40)])
def test_an_opened_sum_costs_what_its_concentrated_loss_costs(noise: str, steps: int) -> None:
    found = pld_epsilon([event(noise, alone="0.5", steps=steps)], DELTA)
    exact = zcdp_epsilon(steps / (2 * float(noise) ** 2), DELTA)
    assert exact * 0.9999 <= found <= exact * 1.005


def test_slack_costs_and_counts_beside_it_cost_as_gaussians() -> None:
    plain, slack = (pld_epsilon([event("4.0", slack=s)], DELTA) for s in ("0", "0.05"))
    assert plain < slack
    assert slack == pytest.approx(
        pld_epsilon([event(f"{1 / (1 / 4 + 0.05):.8f}")], DELTA), rel=1e-6
    )
    counts = PrivacyEvent("discrete-gaussian", "1", "4.0", 1)
    both = pld_epsilon([event("4.0"), counts], DELTA)
    assert both == pytest.approx(pld_epsilon([event("4.0", steps=2)], DELTA), rel=1e-9)
    assert rdp_epsilon([event("4.0")], DELTA, order=8) >= plain


@pytest.mark.parametrize("count", [3, 4, 10])
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_the_promise_is_kept_and_hardly_missed(count: int, epsilon: float) -> None:
    document = study(count, privacy={"epsilon": epsilon})
    cost = pld_epsilon(document.all_events, DELTA)
    assert 0.998 * epsilon < cost <= epsilon
    assert cost < alone_epsilon(document)
    assert cost < two_hospitals_epsilon(document.all_events, DELTA)


def test_shares_are_scaled_for_the_hospitals_that_are_counted() -> None:
    """sigma / sqrt(K - t): four hospitals and one colluder need each what three need together."""
    four, two_colluders = study(4), study(4, secure_sum={"colluders": 2})
    shares = [d.secure_sum.training_share for d in (four, two_colluders) if d.secure_sum]
    assert shares[1] / shares[0] == pytest.approx(math.sqrt(3 / 2), rel=1e-3)
    assert four.noise_multiplier is not None
    together = float(four.noise_multiplier)
    alone = float(four.round_event.alone_noise_multiplier or 0)
    assert together / alone == pytest.approx(math.sqrt(3), rel=1e-3)


def test_releases_take_their_own_shares_and_table_one_takes_from_the_training() -> None:
    plain = study()
    told = study(
        evaluation={"releases": 2}, table_one={"epsilon": 1.0, "variables": ("smoker", "ill")}
    )
    assert plain.secure_sum is not None
    assert told.secure_sum is not None
    assert told.secure_sum.training_share > plain.secure_sum.training_share
    assert pld_epsilon(told.all_events, DELTA) <= 3.0
    assert told.evaluation_event is not None
    assert pld_epsilon([told.evaluation_event] * 2, DELTA) <= 3.0
    assert told.table_one_event is not None
    assert pld_epsilon([told.table_one_event], DELTA) <= 1.0


def test_a_study_without_epsilon_has_no_noise_to_share() -> None:
    off = study(privacy={"epsilon": 3.0})
    without = off.model_copy(update={"study": off.study.model_copy(update={"secure_sum": None})})
    with pytest.raises(ValueError, match="no noise to share"):
        add_shared_noise(without, roster(), values=6)


@pytest.mark.parametrize(("norm", "values"), [(1.0, 1), (0.01, 1000), (50.0, 10), (1.0, 10**7)])
def test_rounding_costs_at_most_a_sixty_fourth_of_the_sensitivity(norm: float, values: int) -> None:
    bits = fractional_bits(norm, values)
    whole = float(training_sensitivity(norm, bits, values))
    assert norm * 2**bits >= 64 * math.sqrt(values)
    assert whole == pytest.approx(norm * 2**bits + math.sqrt(values))


def test_a_grid_that_cannot_be_fine_enough_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too small"):
        fractional_bits(1e-6, 10**9)


@pytest.mark.parametrize(("nodes", "share"), [(3, 4), (20, 10**5), (200, 40_000)])
def test_no_sum_of_cut_off_vectors_leaves_the_ring(nodes: int, share: int) -> None:
    largest = largest_value(Ring(32), nodes=nodes, share=share)
    worst = np.int64(nodes) * (largest + 13 * share)
    assert 0 < worst < 2**31
    assert worst > 2**31 - nodes * 14 * share - 2 * nodes  # and no range is given away


def test_noise_that_does_not_fit_the_ring_asks_for_the_larger_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        largest_value(Ring(32), nodes=200, share=10**6)
    assert "ring_bits = 64" in (caught.value.hint or "")
    assert largest_value(Ring(64), nodes=200, share=10**6) > 2**50


def test_the_slack_of_small_shares_is_counted_and_that_of_usual_ones_is_nothing() -> None:
    def slack(share: int) -> float:
        found = shared_event(
            share=share,
            honest=3,
            sensitivity=training_sensitivity(1.0, 4, 6),
            values=10**6,
            steps=1,
            patients_from="0",
            patients_to="1",
        )
        return float(found.slack or 0)

    assert slack(1) > 1e-2
    assert slack(2) < slack(1)
    assert slack(4) == 1e-30  # rounded up


@pytest.mark.parametrize(
    "change",
    [
        {"alone_noise_multiplier": "9.0"},
        {"alone_noise_multiplier": "0"},
        {"slack": "-1"},
        {"slack": "1e-9"},
        {"kind": "discrete-gaussian"},
        {"sampling_rate": "0.5"},
        {"extra": "1"},
    ],
)
def test_a_changed_event_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(IntegrityError):
        PrivacyEvent.from_json({**event("4.0").to_json(), **change})


def test_an_event_comes_back_as_it_was() -> None:
    shared, local = event("4.0", slack="0.000001"), PrivacyEvent("poisson-gaussian", "1", "2", 1)
    for found in (shared, local):
        assert PrivacyEvent.from_json(found.to_json()) == found
    assert "slack" not in local.to_json()
    assert local.alone() == local.in_two_hospitals() == local


@pytest.mark.parametrize("names", [("b", "a", "c"), ("a", "a", "b")])
def test_a_roster_out_of_order_is_refused(names: tuple[str, ...]) -> None:
    members = tuple(
        Member(site=n, signing_key=public_pem(Ed25519PrivateKey.generate().public_key()))
        for n in names
    )
    with pytest.raises(ConfigurationError, match="sorted"):
        Roster(schema="solblom.roster/1", members=members).check()


def test_one_key_under_two_names_is_refused() -> None:
    """A coordinator that enrols itself twice would count its own noise as two hospitals'."""
    key = public_pem(Ed25519PrivateKey.generate().public_key())
    members = tuple(Member(site=n, signing_key=key) for n in ("a", "b", "c"))
    with pytest.raises(ConfigurationError, match="one key"):
        Roster(schema="solblom.roster/1", members=members).check()
