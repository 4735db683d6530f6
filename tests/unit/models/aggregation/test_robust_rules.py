"""Median, trimmed mean and Krum: by hand, against Flower's own strategies, and where they must not be used."""

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, Krum

from lab import study_document
from solblom_models.aggregation.fold import MAX_ABSOLUTE, Fold
from solblom_models.aggregation.opened_sum import mean_update
from solblom_models.aggregation.robust import (
    BLOCK,
    Comparison,
    nearest_to_others,
    round_of,
    rule_in_words,
    squared_distance,
)
from solblom_protocol.errors import ConfigurationError, IntegrityError, RunError
from solblom_protocol.messages.layout import Float32, to_grid
from solblom_protocol.studies.tables import TrainingTable
from solblom_server.transports.grids.local import LocalGrid, LocalNode

STEP = 2.0**-24
LARGEST = np.float32(MAX_ABSOLUTE)


def training(strategy: str, tolerated: int | None = None) -> TrainingTable:
    changes: dict[str, Any] = {"strategy": strategy}
    if tolerated is not None:
        changes["tolerated"] = tolerated
    return TrainingTable(rounds=1, learning_rate=1.0, expected_batch_size=10.0, **changes)


def combined(settings: TrainingTable, updates: list[Float32]) -> list[float]:
    comparison = round_of(settings, len(updates[0]))
    for update in updates:
        comparison.add(update)
    found: list[float] = comparison.result().tolist()
    return found


def column(*values: float) -> list[Float32]:
    return [np.array([value], dtype=np.float32) for value in values]


@pytest.mark.parametrize(
    ("strategy", "tolerated", "values", "expected"),
    [
        ("median", None, (3, -100, 1), 1.0),
        ("median", None, (3, -100, 1, 2), 1.5),
        ("median", None, (4, 1, 2, 1000, 3), 3.0),
        ("trimmed-mean", 1, (3, -100, 1), 1.0),
        ("trimmed-mean", 1, (3, -100, 1, 2), 1.5),
        ("trimmed-mean", 1, (4, 1, 2, 1000, 3), 3.0),
        ("trimmed-mean", 1, (4, 1, 2, 1000, 6), 4.0),
        ("trimmed-mean", 2, (4, 1, 2, 1000, 6), 4.0),
        ("trimmed-mean", 2, (4, 1, 2, 1000, 6, 8), 5.0),
        ("krum", 1, (0, 1, 2, 3, 1000), 2.0),  # scores 5, 2, 2, 5: of 1 and 2, 2 has smaller bytes
    ],
)
def test_rules_by_hand(
    strategy: str, tolerated: int | None, values: tuple[float, ...], expected: float
) -> None:
    assert combined(training(strategy, tolerated), column(*values)) == [expected]


def test_krum_prefers_a_whole_update_and_never_mixes() -> None:
    updates = [
        np.array(v, dtype=np.float32) for v in ([1, 1], [1, 1.5], [1.5, 1], [1, 1.25], [-9, 9])
    ]
    assert combined(training("krum", 1), updates) == [1.0, 1.25]


def test_of_two_updates_at_one_distance_the_smaller_bytes_win_in_every_order() -> None:
    values = column(0, 1, 2, 3, 1000)
    found = {
        combined(training("krum", 1), list(order))[0] for order in itertools.permutations(values)
    }
    assert len(found) == 1


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean", "krum"])
def test_a_weight_that_all_agree_on_is_theirs(strategy: str) -> None:
    settings = training(strategy, None if strategy == "median" else 1)
    assert combined(settings, column(*[0.25] * 5)) == [0.25]


def random_updates(count: int, size: int, *, seed: int, scale: float = 0.01) -> list[Float32]:
    rng = np.random.default_rng(seed)
    return [to_grid(rng.normal(0.0, scale, size)) for _ in range(count)]


def flowers(strategy: Any, updates: list[Float32]) -> np.ndarray:
    """Return what a strategy of Flower's makes of the same updates."""
    grid = LocalGrid({number: LocalNode(lambda m, c: m, {}) for number in range(len(updates))})
    replies = []
    for number, update in enumerate(updates):
        arrays = ArrayRecord({"weights": Array(update.astype(np.float64))})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1.0})})
        order = grid.create_message(RecordDict(), "train", number, "1")
        replies.append(Message(content, reply_to=order))
    arrays, _ = strategy.aggregate_train(1, replies)
    return np.asarray(arrays["weights"].numpy())


@pytest.mark.parametrize("count", [3, 4, 5, 6, 9, 12])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_median_is_flowers(count: int, seed: int) -> None:
    updates = random_updates(count, 300, seed=seed)
    found = combined(training("median"), updates)
    assert found == pytest.approx(flowers(FedMedian(), updates).tolist(), abs=1e-15)


@pytest.mark.parametrize(("count", "cut"), [(3, 1), (5, 1), (5, 2), (8, 3), (20, 4)])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_trimmed_mean_is_flowers(count: int, cut: int, seed: int) -> None:
    updates = random_updates(count, 300, seed=seed)
    beta = (cut + 0.25) / count  # Flower cuts int(beta * n): a quarter keeps clear of rounding
    theirs = flowers(FedTrimmedAvg(beta=beta), updates)
    assert combined(training("trimmed-mean", cut), updates) == pytest.approx(
        theirs.tolist(), abs=1e-15
    )


@pytest.mark.parametrize(("count", "faulty"), [(5, 1), (6, 1), (7, 2), (12, 3)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_krum_chooses_whom_flower_chooses(count: int, faulty: int, seed: int) -> None:
    updates = random_updates(count, 300, seed=seed)
    updates[seed] = to_grid(updates[seed].astype(np.float64) * -50)
    theirs = flowers(Krum(num_malicious_nodes=faulty), updates)
    assert combined(training("krum", faulty), updates) == theirs.tolist()


def test_flowers_distances_of_far_models_are_not_ours() -> None:
    """Why its formula is not used: |x|^2 + |y|^2 - 2xy loses the difference of two near vectors far from zero."""
    from flwr.serverapp.strategy.multikrum import compute_distances

    near = [np.full(4, 1000.0 + step / 64, dtype=np.float32) for step in (0, 1, 3)]
    records = [ArrayRecord({"weights": Array(update)}) for update in near]
    theirs, ours = compute_distances(records), squared_distance(near[0], near[1]) * STEP**2
    assert ours == 4 / 64**2
    assert theirs[0, 1] != pytest.approx(ours, rel=0.5)


@pytest.mark.parametrize("values", [(LARGEST, -LARGEST), (LARGEST, 0), (STEP, -STEP), (0, 0)])
@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1])
def test_squared_distances_are_exact_up_to_the_largest_updates(
    values: tuple[float, float], size: int
) -> None:
    one, other = (np.full(size, value, dtype=np.float32) for value in values)
    difference = int((float(values[0]) - float(values[1])) / STEP)
    assert squared_distance(one, other) == squared_distance(other, one) == size * difference**2


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean"])
def test_the_largest_updates_do_not_overflow_the_middle(strategy: str) -> None:
    settings = training(strategy, None if strategy == "median" else 1)
    assert combined(settings, column(*[float(LARGEST)] * 9)) == [float(LARGEST)]


def test_weights_beyond_one_block_are_compared_like_the_first() -> None:
    size = 2 * BLOCK + 3
    updates = random_updates(5, size, seed=4)
    found = combined(training("median"), updates)
    assert found == np.median(np.stack(updates).astype(np.float64), axis=0).tolist()


@pytest.mark.parametrize(
    ("strategy", "tolerated", "needed"),
    [
        ("median", None, 3),
        ("trimmed-mean", 1, 3),
        ("trimmed-mean", 2, 5),
        ("krum", 1, 5),
        ("krum", 2, 7),
    ],
)
def test_too_few_updates_are_refused_with_both_numbers(
    strategy: str, tolerated: int | None, needed: int
) -> None:
    settings = training(strategy, tolerated)
    with pytest.raises(
        RunError, match=f"needs {needed} updates .* there are {needed - 1}"
    ) as caught:
        combined(settings, column(*range(needed - 1)))
    assert caught.value.code == "SB-501"
    combined(settings, column(*range(needed)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), STEP / 2, 2 * MAX_ABSOLUTE])
def test_what_the_fold_refuses_is_refused_here_too(bad: float) -> None:
    comparison = Comparison(1, training("median"))
    with pytest.raises(IntegrityError) as caught:
        comparison.add(np.array([bad], dtype=np.float32))
    assert (caught.value.code, comparison.count) == ("SB-404", 0)


def test_an_update_that_changes_after_it_was_taken_changes_nothing() -> None:
    given = np.array([0.5], dtype=np.float32)
    comparison = Comparison(1, training("median"))
    for _ in range(3):
        comparison.add(given)
    given[0] = 9.0
    assert comparison.result().tolist() == [0.5]


def test_a_minus_zero_counts_as_zero() -> None:
    assert np.array(combined(training("krum", 1), column(*[-0.0] * 5))).tobytes() == bytes(8)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam", "fedyogi"])
def test_strategies_of_sums_keep_their_fold(strategy: str) -> None:
    assert isinstance(round_of(training(strategy), 4), Fold)
    assert rule_in_words(training(strategy)) == "plain mean"


def test_a_rule_holds_a_rounds_updates_and_little_more() -> None:
    size, count = 400_000, 7
    updates = random_updates(count, size, seed=1)
    tracemalloc.start()
    try:
        combined_size = Comparison(size, training("trimmed-mean", 1))
        for update in updates:
            combined_size.add(update)
        combined_size.result()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * size * count + 8 * size + 6_000_000  # updates, the result, and a few blocks


def test_an_opened_sum_is_never_a_mean_under_a_robust_name() -> None:
    from unit.models.test_shared_noise import study as shared_study

    document = shared_study()
    study = document.study
    robust = study.model_copy(
        update={"training": study.training.model_copy(update={"strategy": "median"})}
    )
    forged = document.model_copy(update={"study": robust})
    with pytest.raises(ConfigurationError, match="cannot be opened into a median"):
        mean_update(forged, np.zeros(4, dtype=np.int64), hospitals=3)


def test_the_choice_of_krum_is_a_place_among_the_updates() -> None:
    assert nearest_to_others(column(5, 1, 1.5, 1.25, -70), 1) == 3
    assert study_document().study.training.tolerated is None
