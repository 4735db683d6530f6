"""The statistics of a comparison: scipy and scikit-learn are the oracles, and swapping the models flips every sign."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from solblom_models.comparison.agreement import agreement, flips, ranked_agreement
from solblom_models.comparison.overlay import calibration_overlay
from solblom_models.comparison.pair import RankedPair, ScoredPair
from solblom_models.comparison.paired import delong_p_value, mcnemar, performance
from solblom_models.comparison.ranked import own_ranks, ranked_performance
from solblom_models.comparison.small_groups import shown_count, shown_parts, shown_share
from solblom_models.ranking import ranks_of

SETTINGS = {"threshold": 0.5, "resamples": 300, "seed": 5}


def made(
    count: int = 200, *, better: float = 1.0, seed: int = 1, per_family: int = 1
) -> ScoredPair:
    """Return patients whose outcome a new model sees with less noise than the old one, by `better`."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.4).astype(np.int64)
    signal = labels * 1.5
    old = 1 / (1 + np.exp(-(signal - 0.7 + rng.normal(0, 1.5, count))))
    new = 1 / (1 + np.exp(-(signal - 0.7 + rng.normal(0, 1.5 / better, count))))
    unit = "patient" if per_family == 1 else "family"
    clusters = np.arange(count) // per_family
    return ScoredPair(tuple(map(str, range(count))), clusters, unit, labels, old, new)


def swapped(pair: ScoredPair) -> ScoredPair:
    return ScoredPair(pair.ids, pair.clusters, pair.unit, pair.labels, pair.new, pair.old)


def test_values_are_those_of_scikit_learn() -> None:
    pair = made()
    found = performance(pair, **SETTINGS)
    assert found is not None
    for name, oracle in (
        ("auroc", roc_auc_score),
        ("auprc", average_precision_score),
        ("brier", brier_score_loss),
    ):
        old, new = oracle(pair.labels, pair.old), oracle(pair.labels, pair.new)
        assert found[name]["old"][0] == pytest.approx(old, abs=1e-6)
        assert found[name]["new"][0] == pytest.approx(new, abs=1e-6)
        assert found[name]["difference"][0] == pytest.approx(new - old, abs=2e-6)


def test_the_same_model_twice_has_differences_of_exactly_zero_and_flips_nobody() -> None:
    pair = made()
    same = ScoredPair(pair.ids, pair.clusters, "patient", pair.labels, pair.old, pair.old)
    found = performance(same, **SETTINGS)
    assert found is not None
    assert all(found[name]["difference"] == [0, 0, 0] for name in ("auroc", "auprc", "brier"))
    assert found["delong_p"] == 1.0
    assert found["mcnemar"] == {
        "p": 1.0,
        "only_old_right": 0,
        "only_new_right": 0,
        "reason": None,
    }
    agreed = agreement(same, threshold=0.5, tolerance=0.0)
    shares = ("same_class", "same_tenth", "within_tolerance")
    assert [agreed[name] for name in shares] == [1.0, 1.0, 1.0]
    assert (agreed["largest_delta"], agreed["mean_delta"]) == (0.0, 0.0)
    assert flips(same, 0.5)["patients"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_models_in_the_other_order_flip_every_sign(seed: int) -> None:
    pair = made(better=1.5, seed=seed)
    found, back = performance(pair, **SETTINGS), performance(swapped(pair), **SETTINGS)
    assert found is not None
    assert back is not None
    for name in ("auroc", "auprc", "brier"):
        value, low, high = found[name]["difference"]
        assert back[name]["difference"] == pytest.approx([-value, -high, -low], abs=1e-6)
        assert found[name]["old"] == back[name]["new"]
    assert found["delong_p"] == back["delong_p"]
    assert found["mcnemar"]["only_old_right"] == back["mcnemar"]["only_new_right"]
    forward, backward = flips(pair, 0.5), flips(swapped(pair), 0.5)
    assert forward["to_yes"] == backward["to_no"]


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for only_old, only_new in ((7, 9), (0, 12), (30, 11), (400, 460)):
        old = np.array([True] * only_old + [False] * only_new + [True] * 50)
        new = np.array([False] * only_old + [True] * only_new + [True] * 50)
        expected = binomtest(only_old, only_old + only_new).pvalue
        assert mcnemar(old, new)["p"] == pytest.approx(expected, abs=1e-6)


def test_delong_finds_a_better_model_and_keeps_its_error_rate() -> None:
    better = made(600, better=3.0)
    assert better.labels is not None
    p = delong_p_value(better.labels, better.old, better.new)
    assert p is not None
    assert p < 0.001
    below = 0
    for seed in range(300):
        pair = made(120, seed=seed)
        assert pair.labels is not None
        value = delong_p_value(pair.labels, pair.old, pair.new)
        assert value is not None
        below += value < 0.05
    assert 5 <= below <= 27  # 15 expected; chance of another count: below 1 in 500


def test_patients_of_one_family_get_no_test_and_an_interval_over_families() -> None:
    found = performance(made(200, per_family=4), **SETTINGS)
    assert found is not None
    assert found["delong_p"] is None
    assert found["mcnemar"] is None
    assert found["tests"] == "not shown: patients of one family are not independent"


@pytest.mark.parametrize(("label", "words"), [(0, "with the outcome"), (1, "without the outcome")])
def test_one_class_only_has_no_figures(label: int, words: str) -> None:
    pair = made(50)
    one = ScoredPair(pair.ids, pair.clusters, "patient", np.full(50, label), pair.old, pair.new)
    found = performance(one, **SETTINGS)
    assert found is not None
    assert found["reason"] == f"fewer than 5 patients {words}"
    assert found["auroc"] == {"old": None, "new": None, "difference": None}
    assert found["delong_p"] is None
    assert found["mcnemar"] is None


def test_without_outcomes_there_is_no_gain_to_show() -> None:
    pair = made(50)
    assert (
        performance(
            ScoredPair(pair.ids, pair.clusters, "patient", None, pair.old, pair.new), **SETTINGS
        )
        is None
    )


def one_flip(count: int, flipping: int) -> ScoredPair:
    old = np.full(count, 0.4)
    new = np.where(np.arange(count) < flipping, 0.6, 0.4)
    ids = tuple(map(str, range(count)))
    return ScoredPair(ids, np.arange(count), "patient", None, old, new)


@pytest.mark.parametrize("flipping", [1, 2, 3, 4])
def test_a_few_flips_are_not_counted_out_anywhere(flipping: int) -> None:
    pair = one_flip(100, flipping)
    told, agreed = flips(pair, 0.5), agreement(pair, threshold=0.5, tolerance=1e-5)
    assert (told["patients"], told["to_yes"], told["to_no"]) == (None, None, None)
    assert agreed["same_class"] is None
    assert agreed["within_tolerance"] is None
    other = one_flip(100, 100 - flipping)
    assert agreement(other, threshold=0.5, tolerance=1e-5)["same_class"] is None


def test_a_direction_with_few_flips_hides_the_other_one_too() -> None:
    old = np.array([0.4] * 10 + [0.6] * 2 + [0.4] * 30)
    new = np.array([0.6] * 10 + [0.4] * 2 + [0.4] * 30)
    pair = ScoredPair(tuple(map(str, range(42))), np.arange(42), "patient", None, old, new)
    told = flips(pair, 0.5)
    assert (told["patients"], told["to_yes"], told["to_no"]) == (12, None, None)


def test_fewer_than_five_patients_have_no_figures_at_all() -> None:
    pair = one_flip(4, 4)
    assert agreement(pair, threshold=0.5, tolerance=1e-5) == {"reason": "fewer than 5 patients"}
    assert set(flips(pair, 0.5).values()) == {None, "fewer than 5 patients"}


def test_small_counts() -> None:
    assert [shown_count(n) for n in (0, 1, 4, 5)] == [0, None, None, 5]
    assert shown_parts(9, 3) == (None, None)
    assert shown_parts(9, 0) == (9, 0)
    assert shown_share(7, 10) is None
    assert shown_share(5, 10) == 0.5


def ranked(count: int = 60, *, seed: int = 3) -> RankedPair:
    rng = np.random.default_rng(seed)
    first = [rng.choice(["OMIM:1", "OMIM:2", "OMIM:3"], count) for _ in range(2)]
    return RankedPair(
        ids=tuple(map(str, range(count))),
        groups=tuple(f"g{n // 2}" for n in range(count)),
        unit="publication",
        old_first=tuple(first[0].tolist()),
        new_first=tuple(first[1].tolist()),
        shared=rng.random(count),
        deltas=rng.random(count),
        old_ranks=rng.integers(1, 20, count),
        new_ranks=rng.integers(1, 20, count),
    )


def test_ranks_are_compared_on_the_same_patients_and_swapping_flips_signs() -> None:
    pair = ranked()
    found = ranked_performance(pair, resamples=200)
    assert found is not None
    assert found["top_1"]["old"][0] == pytest.approx((pair.old_ranks == 1).mean(), abs=1e-6)
    assert found["mrr"]["new"][0] == pytest.approx((1 / pair.new_ranks).mean(), abs=1e-6)
    back = ranked_performance(
        RankedPair(
            pair.ids,
            pair.groups,
            pair.unit,
            pair.new_first,
            pair.old_first,
            pair.shared,
            pair.deltas,
            pair.new_ranks,
            pair.old_ranks,
        ),
        resamples=200,
    )
    assert back is not None
    for name in ("top_1", "top_10", "mrr"):
        value, low, high = found[name]["difference"]
        assert back[name]["difference"] == pytest.approx([-value, -high, -low], abs=1e-6)


def test_patients_without_a_known_disease_do_not_count_in_ranks() -> None:
    pair = ranked(20)
    pair.old_ranks[:17] = 0
    found = ranked_performance(pair, resamples=200)
    assert found == {"reason": "fewer than 5 patients whose disease both models know"}
    pair.old_ranks[:] = 0
    assert ranked_performance(pair, resamples=200) is None
    assert ranked_agreement(pair, tolerance=0.0)["reason"] is None


def test_own_ranks_are_those_of_the_ranking_metrics() -> None:
    rng = np.random.default_rng(4)
    scores, labels = rng.integers(0, 5, (40, 7)).astype(float), rng.integers(0, 7, 40)
    assert own_ranks(scores, labels).tolist() == ranks_of(scores, labels).tolist()
    labels[:3] = -1
    assert own_ranks(scores, labels)[:3].tolist() == [0, 0, 0]


def test_dollar_signs_in_a_models_name_are_no_formula() -> None:
    drawn = calibration_overlay(made(), old="a$b^$c", new="d")
    assert b"a$b^$c" in drawn
