"""Updates that stand apart are named, and only those."""

import numpy as np
import pytest

from solblom_models.metrics import Estimate
from solblom_server.steward.drawing import forget
from solblom_server.steward.figures import Row, forest, participation, scatter
from solblom_server.steward.screening import screen_round

SITES = ("a", "b", "c", "d", "e")


def updates(seed: int, **changed: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    common = random.normal(size=50)
    return {s: (common + 0.3 * random.normal(size=50)) * changed.get(s, 1.0) for s in SITES}


@pytest.mark.parametrize("factor", [10.0, 0.05, -10.0])
def test_an_update_of_another_size_is_flagged_and_no_other(factor: float) -> None:
    for seed in range(20):
        found = screen_round(1, updates(seed, c=factor))
        assert [one.site for one in found if one.is_flagged] == ["c"]


def test_an_update_against_the_others_has_a_negative_cosine() -> None:
    found = {one.site: one.cosine for one in screen_round(1, updates(1, b=-1.0))}
    assert found["b"] is not None
    assert found["b"] < -0.8
    assert all(found[s] is not None and found[s] > 0.3 for s in SITES if s != "b")


def test_two_hospitals_are_never_flagged() -> None:
    found = screen_round(1, {"a": np.ones(4), "b": 1000 * np.ones(4)})
    assert not any(one.is_flagged for one in found)


def test_equal_updates_are_not_flagged_for_a_rounding_error() -> None:
    found = screen_round(1, {s: np.full(4, 1.0 + 1e-9 * i) for i, s in enumerate(SITES)})
    assert not any(one.is_flagged for one in found)


def test_nothing_at_all_has_no_direction() -> None:
    found = screen_round(1, {"a": np.zeros(4), "b": np.zeros(4), "c": np.zeros(4)})
    assert [(one.norm, one.cosine, one.is_flagged) for one in found] == [(0.0, None, False)] * 3


def test_the_same_figures_are_the_same_picture() -> None:
    def once() -> bytes:
        rows = [
            Row("north", {"federated": Estimate(0.8, 0.7, 0.9)}),
            Row("south", {"federated": None}),
        ]
        return forest(rows, {"federated": "federated"}, axis="AUROC", hidden="too few", title="t")

    first = once()
    forget()
    assert once() == first
    assert b"<script" not in first
    assert b"20" + b"26-" not in first


def test_ten_thousand_rounds_are_a_small_picture() -> None:
    sites, rounds = ["a", "b", "c", "d"], list(range(1, 10_001))
    random = np.random.default_rng(3)
    states = np.where(random.random((4, 10_000)) < 0.02, "refused", "trained")
    cells = {(s, n): (str(states[i, n - 1]), "") for i, s in enumerate(sites) for n in rounds}
    words = {"trained": "trained", "refused": "refused"}
    drawn = participation(sites, rounds, cells, words, axis="round", title="t")
    assert len(drawn) < 600_000
    values = {s: [(n, float(n % 7), False) for n in rounds] for s in sites}
    lines = scatter(sites, values, axis="norm", rounds_axis="round", flagged="", title="t")
    assert len(lines) < 3_000_000


def test_dollar_signs_in_a_name_are_no_formula() -> None:
    name = "a$b^$c"
    words = {"federated": name, "trained": name}
    forest(
        [Row(name, {"federated": Estimate(0.8, 0.7, 0.9)})], words, axis=name, hidden="", title=name
    )
    participation([name], [1], {(name, 1): ("trained", "")}, words, axis=name, title=name)
    values = {name: [(1, 0.5, False), (2, 0.5, True)]}
    scatter([name], values, axis=name, rounds_axis=name, flagged=name, title=name)
