"""Ranks and what they come to: scipy and scikit-learn are the oracles."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score

from solblom_models.ranking import ranking_metrics, ranks_of
from solblom_models.released_metrics import released_rank_metrics

SEED = 5


def sample(patients: int = 60, diseases: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(SEED)
    labels = generator.integers(0, diseases, patients)
    scores = generator.normal(size=(patients, diseases))
    scores[np.arange(patients), labels] += 1.0
    return scores, labels


def test_ranks_are_those_of_scipy_with_ties_against_the_model() -> None:
    scores, labels = sample()
    scores = np.round(scores)  # many ties
    expected = [
        rankdata(-row, method="max")[label] for row, label in zip(scores, labels, strict=True)
    ]
    assert ranks_of(scores, labels).tolist() == expected


def test_a_model_that_cannot_tell_ranks_everybody_last() -> None:
    assert ranks_of(np.zeros((3, 7)), np.array([0, 3, 6])).tolist() == [7, 7, 7]


def test_a_score_that_is_not_a_number_ranks_last() -> None:
    scores = np.array([[np.nan, 0.0, -1.0], [5.0, np.nan, 1.0]])
    assert ranks_of(scores, np.array([0, 0])).tolist() == [3, 1]


@pytest.mark.parametrize(("shape", "label"), [((2, 3), 3), ((2, 3), -1), ((3, 3), 0)])
def test_labels_outside_the_label_space_are_refused(shape: tuple[int, int], label: int) -> None:
    with pytest.raises(ValueError, match=r"label|row"):
        ranks_of(np.zeros(shape), np.array([0, label]))


def test_recall_is_scikit_learns_top_k_accuracy_without_ties() -> None:
    scores, labels = sample()
    found = ranking_metrics(ranks_of(scores, labels), labels, [str(n) for n in range(60)])
    for top in (1, 5, 10):
        oracle = top_k_accuracy_score(labels, scores, k=top, labels=np.arange(12))
        assert found[f"top_{top}"][0] == pytest.approx(oracle, abs=1e-6)
    truth = np.eye(12)[labels]
    assert found["mrr"][0] == pytest.approx(
        label_ranking_average_precision_score(truth, scores), abs=1e-6
    )


def test_macro_recall_gives_every_disease_the_same_weight() -> None:
    ranks = np.array([1] * 90 + [11] * 10)
    labels = np.array([0] * 90 + [1] * 10)
    found = ranking_metrics(ranks, labels, [str(n) for n in range(100)], rare=frozenset({1}))
    assert found["top_1"][0] == pytest.approx(0.9)
    assert found["macro_top_1"][0] == pytest.approx(0.5)
    assert found["rare_top_1"][0] == 0.0
    assert found["diseases"] == 2


def test_patients_of_one_publication_make_intervals_wider() -> None:
    generator = np.random.default_rng(SEED)
    by_paper = generator.random(20) < 0.6  # all patients of a paper stand or fall together
    ranks = np.where(np.repeat(by_paper, 10), 1, 20)
    labels = np.zeros(200, dtype=np.int64)
    apart = ranking_metrics(ranks, labels, [str(n) for n in range(200)])["top_1"]
    together = ranking_metrics(ranks, labels, [str(n // 10) for n in range(200)])["top_1"]
    assert together[0] == apart[0]
    assert together[2] - together[1] > 2 * (apart[2] - apart[1])


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(SEED)
    inside, repeats = 0, 200
    for _ in range(repeats):
        ranks = np.where(generator.random(80) < 0.7, 1, 5)
        _, low, high = ranking_metrics(
            ranks, np.zeros(80, dtype=np.int64), [str(n) for n in range(80)], resamples=300
        )["top_1"]
        inside += low <= 0.7 <= high
    assert 0.88 <= inside / repeats <= 0.99


def test_the_same_patients_give_the_same_intervals() -> None:
    scores, labels = sample()
    groups = [str(n) for n in range(60)]
    first, again = (ranking_metrics(ranks_of(scores, labels), labels, groups) for _ in range(2))
    assert first == again


def test_nobody_gives_no_figures() -> None:
    assert ranking_metrics(np.zeros(0, np.int64), np.zeros(0, np.int64), []) == {"patients": 0}


def test_a_released_histogram_gives_recall_with_an_interval_that_knows_of_the_noise() -> None:
    counts = np.array([500, 60, 40, 30, 20, 15, 10, 10, 10, 5, 300])
    exact = released_rank_metrics(counts, deviation=0.5)
    assert exact["top_1"] == pytest.approx(0.5)
    assert exact["top_5"] == pytest.approx(0.65)
    assert exact["top_10"] == pytest.approx(0.7)
    noisy = released_rank_metrics(counts, deviation=20.0)
    low, high = exact["top_1_interval"]
    assert noisy["top_1_interval"][0] < low < 0.5 < high < noisy["top_1_interval"][1]


def test_counts_that_noise_alone_could_make_up_are_not_shown() -> None:
    found = released_rank_metrics(np.array([3] + [0] * 10), deviation=4.0)
    assert found["top_1"] is None
    assert "fewer than 40 patients" in found["reason"]
