"""Verdicts on noise: honest noise passes as often as the thresholds say, other noise does not; no number comes out."""

from dataclasses import fields

import numpy as np
import pytest

from solblom_client.replaying.noise_verdict import LEVEL, Finding, NoiseVerdict, Values, judge


def draw(rng: np.random.Generator, count: int) -> Values:
    return rng.standard_normal(count)


def test_honest_noise_fails_about_as_often_as_the_thresholds_say() -> None:
    """Three tests at 1e-4 each: 0.18 of 600 expected."""
    rng = np.random.default_rng(20261129)
    failed = sum(
        not judge([(2, draw(rng, 60)), (1, draw(rng, 60)), (3, draw(rng, 60))]).passed
        for _ in range(600)
    )
    assert failed <= 2


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.8, 1.25, 2.0])
def test_noise_of_another_size_fails_the_test_of_size(factor: float) -> None:
    rng = np.random.default_rng(1)
    found = judge([(1, factor * draw(rng, 500)), (2, factor * draw(rng, 500))])
    assert not found.tests[0].passed


def test_a_missing_part_of_the_noise_is_noticed_though_the_rest_is_right() -> None:
    rng = np.random.default_rng(2)
    values = draw(rng, 400)
    values[:150] = 0.0
    found = judge([(1, values), (2, draw(rng, 400))])
    assert not found.passed


def test_noise_of_another_shape_fails_the_test_of_shape() -> None:
    rng = np.random.default_rng(3)
    laplace = rng.laplace(scale=2**-0.5, size=2_000)
    assert not judge([(1, laplace)]).tests[1].passed


@pytest.mark.parametrize("other", [1.0, -1.0, 0.5])
def test_the_same_noise_in_another_round_fails_the_test_of_reuse(other: float) -> None:
    """Whatever its sign and size: subtracting one update from the other would take it off."""
    rng = np.random.default_rng(4)
    first = draw(rng, 60)
    found = judge([(5, first), (4, draw(rng, 60)), (6, other * first)])
    assert not found.tests[2].passed


def test_a_round_without_noise_beside_an_honest_one_does_not_divide_by_zero() -> None:
    rng = np.random.default_rng(5)
    assert not judge([(1, draw(rng, 300)), (2, np.zeros(300))]).passed


def test_the_power_is_how_often_half_of_the_noise_fails() -> None:
    rng = np.random.default_rng(6)
    trials = 200
    for count in (12, 30):
        found = judge([(1, draw(rng, count))])
        failed = sum(
            not judge([(1, 0.5 * draw(rng, count))]).tests[0].passed for _ in range(trials)
        )
        error = 4 * (0.25 / trials) ** 0.5
        assert abs(failed / trials - found.power) < error


def test_nothing_to_judge_is_no_pass() -> None:
    for nothing in ([], [(1, np.empty(0))]):
        with pytest.raises(ValueError, match="no noise"):
            judge(nothing)


def test_a_verdict_carries_no_p_value_and_no_size_of_noise() -> None:
    assert {f.name for f in fields(NoiseVerdict)} == {"rounds", "values", "tests", "power"}
    assert {f.name for f in fields(Finding)} == {"name", "threshold", "passed"}
    rng = np.random.default_rng(7)
    first, second = (judge([(1, draw(rng, 90)), (2, draw(rng, 90))]) for _ in range(2))
    assert first == second
    assert f"{LEVEL:g}" in first.tests[0].threshold
