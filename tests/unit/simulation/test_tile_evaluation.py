"""Exact evaluation of tiles and slides: thresholds never see a test tile, and intervals are over patients."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score

from bag_lab import DIM, bag_study, contract, write_patients
from remembered import forget, remembered_fits
from solblom_models.decision_metrics import (
    Curve,
    best_threshold,
    patient_bootstrap,
    sensitivity_at_specificity,
)
from solblom_models.metrics import auroc
from solblom_models.slide_mil.bags import BagIndex, read_bags
from solblom_models.task import find_task
from solblom_models.tile_classification.tiles import TileUnits
from solblom_protocol.messages.layout import pack
from solblom_simulation import decision_report
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.decision_report import Answers, by_scanner, together
from solblom_simulation.slide_evaluation import evaluate_slides
from solblom_simulation.table_evaluation import SiteData
from solblom_simulation.tile_evaluation import TileData, evaluate_tiles

STUDY = bag_study(
    task={"name": "tile-classification", "model": {"kind": "linear"}},
    bags=contract(target={"column": "labels"}),
)
WEIGHTS = pack([np.array([1.0, 0.2, 0, 0, 0, 0, -0.5], dtype=np.float32)])
KINDS = ("local", "federated", "pooled")
DECISIONS = ("sensitivity_at_95_specificity", "balanced_accuracy", "f1", "kappa")


def made(seed: int, patients: int, *, tiles: int = 12, healthy: int = 8) -> TileUnits:
    """Return patients, the first `healthy` of them without a positive tile; a patient's tiles are alike."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(patients):
        labels = rng.integers(0, 2, tiles) * (number >= healthy)
        values = rng.normal(size=(tiles, DIM)) + 0.5 * rng.normal(size=DIM)
        values[:, 0] += 1.5 * labels
        parts.append((values.astype(np.float32), labels))
    return TileUnits.of([f"p{seed}-{n}" for n in range(patients)], parts)


FEW_RESAMPLES = partial(patient_bootstrap, resamples=100)


@pytest.fixture(scope="module", autouse=True)
def small_bootstrap_and_one_fit_of_each_baseline() -> Iterator[None]:
    """These tests are about what is resampled and who is fitted on, not about how often."""
    with pytest.MonkeyPatch.context() as patch, remembered_fits():
        patch.setattr(decision_report, "patient_bootstrap", FEW_RESAMPLES)
        yield


@pytest.fixture(scope="module")
def sites() -> list[TileData]:
    return [TileData(s, made(n, 30), made(n + 10, 24)) for n, s in enumerate(("north", "south"))]


@pytest.fixture(scope="module")
def report(sites: list[TileData]) -> dict[str, Any]:
    return evaluate_tiles(STUDY, WEIGHTS, sites)


def federated_scores(units: TileUnits) -> np.ndarray:
    net = np.frombuffer(WEIGHTS, dtype="<f4").astype(np.float64)
    return np.asarray(1 / (1 + np.exp(-(units.tiles.astype(np.float64) @ net[:DIM] + net[DIM]))))


def flipped(units: TileUnits) -> TileUnits:
    return replace(units, tile_labels=1 - units.tile_labels)


def test_every_hospital_has_every_kind_of_model_and_says_what_is_counted(
    report: dict[str, Any],
) -> None:
    assert [site["site"] for site in report["sites"]] == ["north", "south"]
    assert all(set(site["metrics"]) == set(KINDS) for site in report["sites"])
    assert report["measure"] == "tiles"
    assert report["kind"].startswith("exact: one machine holds all data")
    first = report["sites"][0]
    counts = [
        first[f"{part}_{of}"] for part in ("training", "test") for of in ("patients", "tiles")
    ]
    assert counts == [30, 360, 24, 288]
    assert first["apart_from_others"]["distance"] > 0


def test_the_federated_figures_are_those_of_the_weights_on_the_test_tiles(
    sites: list[TileData], report: dict[str, Any]
) -> None:
    training, test = sites[0].training, sites[0].test
    told, scores = report["sites"][0]["metrics"]["federated"], federated_scores(test)
    labels = test.tile_labels
    threshold = best_threshold(training.tile_labels, federated_scores(training))
    yes = scores >= threshold
    assert told["threshold"] == pytest.approx(threshold, abs=2e-6)
    assert told["auroc"] == pytest.approx(auroc(labels, scores), abs=2e-6)
    expected = (
        sensitivity_at_specificity(labels, scores),
        balanced_accuracy_score(labels, yes),
        f1_score(labels, yes),
        cohen_kappa_score(labels, yes),
    )
    assert [told[name][0] for name in DECISIONS] == pytest.approx(expected, abs=2e-6)
    for name in DECISIONS:
        value, low, high = told[name]
        assert low <= value <= high


def test_the_likeliest_tile_stands_for_the_patient(
    sites: list[TileData], report: dict[str, Any]
) -> None:
    test = sites[1].test
    highest = federated_scores(test).reshape(24, 12).max(axis=1)
    told = report["sites"][1]["metrics"]["federated"]["likeliest_tile"]
    assert told["auroc"] == pytest.approx(auroc(test.labels, highest), abs=2e-6)


def test_intervals_of_tiles_resample_patients_and_are_wider_than_those_over_tiles(
    sites: list[TileData], report: dict[str, Any]
) -> None:
    test = sites[0].test
    measures = {"x": Curve(test.tile_labels, federated_scores(test)).auroc}
    found = [
        FEW_RESAMPLES(measures, test.tile_labels, of, positive="", negative="")["x"].estimate
        for of in (np.repeat(np.arange(24), 12), np.arange(24 * 12))
    ]
    assert found[0] is not None
    assert found[1] is not None
    told = report["sites"][0]["metrics"]["federated"]["auroc_interval"]
    assert told == pytest.approx([found[0].low, found[0].high], abs=2e-6)
    assert told[1] - told[0] > 1.1 * (found[1].high - found[1].low)


def test_no_threshold_and_no_baseline_sees_a_test_label(
    sites: list[TileData], report: dict[str, Any]
) -> None:
    after = evaluate_tiles(
        STUDY, WEIGHTS, [TileData(s.site, s.training, flipped(s.test)) for s in sites]
    )
    for before, turned in zip(report["sites"], after["sites"], strict=True):
        for kind in KINDS:
            mine, theirs = before["metrics"][kind], turned["metrics"][kind]
            assert mine["threshold"] == theirs["threshold"]
            assert mine["auroc"] == pytest.approx(1 - theirs["auroc"], abs=2e-6)
            right, wrong = mine["balanced_accuracy"][0], theirs["balanced_accuracy"][0]
            assert right + wrong == pytest.approx(1, abs=2e-6)


def test_a_local_model_depends_on_its_hospital_alone_and_a_pooled_one_on_all(
    sites: list[TileData], report: dict[str, Any]
) -> None:
    turned = [sites[0], TileData("south", flipped(sites[1].training), sites[1].test)]
    first, second = (
        r["sites"][0]["metrics"] for r in (report, evaluate_tiles(STUDY, WEIGHTS, turned))
    )
    assert first["local"] == second["local"]
    assert first["pooled"] != second["pooled"]


def test_the_gain_is_the_difference_of_what_stands_beside_it(report: dict[str, Any]) -> None:
    for site in report["sites"]:
        ours, theirs = site["metrics"]["federated"], site["metrics"]["local"]
        gain = site["federated_minus_local"]
        assert gain["reason"] is None
        assert gain["auroc"][0] == pytest.approx(ours["auroc"] - theirs["auroc"], abs=3e-6)
        for name in DECISIONS:
            assert gain[name][0] == pytest.approx(ours[name][0] - theirs[name][0], abs=3e-6)
            assert gain[name][1] <= gain[name][0] <= gain[name][2]


def test_the_same_evaluation_gives_the_same_figures(
    sites: list[TileData], report: dict[str, Any]
) -> None:
    forget()
    assert evaluate_tiles(STUDY, WEIGHTS, sites) == report


def test_few_patients_are_a_reason_and_many_tiles_do_not_help(sites: list[TileData]) -> None:
    few = TileData("north", sites[0].training, made(5, 12, healthy=8, tiles=200))
    found = evaluate_tiles(STUDY, WEIGHTS, [few])["sites"][0]
    told = found["metrics"]["federated"]
    assert (told["auroc"], told["reason"]) == (None, "4 patients with a positive tile")
    assert told["kappa"] is None
    assert told["likeliest_tile"]["reason"] == "4 patients with a positive tile"
    assert found["federated_minus_local"]["reason"] == "4 patients with a positive tile"


def test_folds_of_a_baseline_never_split_a_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    from solblom_simulation import baselines

    units, seen = made(3, 20), []

    def noting(*_: Any, cv: Any, **__: Any) -> np.ndarray:
        seen.append(cv)
        return np.zeros(1)

    monkeypatch.setattr(baselines, "cross_val_score", noting)
    whose = np.repeat(np.arange(20), 12)
    fit_tuned(units.tiles, units.tile_labels, seed=1, patients=whose)
    assert seen
    for training, test in seen[0]:
        assert not set(whose[training]) & set(whose[test])


@pytest.mark.parametrize("ill", [1, 2])
def test_a_baseline_is_trained_where_one_or_two_patients_have_positive_tiles(ill: int) -> None:
    units = made(4, 10, healthy=10 - ill)
    whose = np.repeat(np.arange(10), 12)
    scores = predict(fit_tuned(units.tiles, units.tile_labels, seed=1, patients=whose), units.tiles)
    assert ((scores > 0) & (scores < 1)).all()


def test_scanners_are_told_apart_and_small_groups_are_counted_only(sites: list[TileData]) -> None:
    named = replace(sites[0].test, scanners=("AT2",) * 4 + ("P1000",) * 20)
    found = evaluate_tiles(STUDY, WEIGHTS, [TileData("north", sites[0].training, named), sites[1]])
    groups = found["subgroups"]["scanner"]
    assert groups["AT2"] == {"patients": 4}
    assert set(groups) == {"AT2", "P1000", "not said"}
    rows = np.arange(4 * 12, 24 * 12)
    area = auroc(named.tile_labels[rows], federated_scores(named)[rows])
    assert groups["P1000"]["patients"] == 20
    assert groups["P1000"]["auroc"] == pytest.approx(area, abs=2e-6)


@pytest.mark.parametrize(
    ("side", "named"), [(50, "solblom-texture-1's features"), (8, "mean and spread of the colours")]
)
def test_a_net_on_pixels_is_evaluated_beside_baselines_on_features(side: int, named: str) -> None:
    bags = contract(
        target={"column": "labels"}, encoder={"kind": "pixels", "dim": 3 * side**2, "tile_px": side}
    )
    task = {"name": "tile-classification", "model": {"kind": "cnn", "channels": [2]}}
    study, rng = bag_study(task=task, bags=bags), np.random.default_rng(1)
    sites = []
    for site in ("north", "south"):
        parts = []
        for number in range(12):
            labels = rng.integers(0, 2, 3) * (number > 5)
            pixels = rng.integers(0, 200, (3, 3, side, side)) + 50 * labels[:, None, None, None]
            parts.append((pixels.reshape(3, -1).astype(np.uint8), labels))
        units = TileUnits.of([f"{site}{n}" for n in range(12)], parts, encoder=bags.encoder)
        sites.append(TileData(site, units, units))
    net = find_task("tile-classification").build(study)
    weights = pack([p.detach().numpy() for p in net.parameters()])
    found = evaluate_tiles(study, weights, sites)
    assert named in found["baselines"]
    assert found["all"]["pooled"]["auroc"] > 0.9  # a positive tile is brighter
    assert found["all"]["federated"]["auroc"] == 0.5  # the net has just begun


def test_without_scanners_there_is_no_table_of_them(report: dict[str, Any]) -> None:
    assert report["subgroups"] == {}


def test_patients_of_two_hospitals_are_never_one() -> None:
    rows = np.zeros(3)
    part = Answers(rows.astype(np.int64), rows, rows > 0, np.array([0, 0, 1]))
    both = together([part, part])
    assert both.patients.tolist() == [0, 0, 1, 2, 2, 3]
    counted = by_scanner(both, [(("a", "b"), 2), ((), 2)], lambda group: {})
    assert counted == {"a": {"patients": 1}, "b": {"patients": 1}, "not said": {"patients": 2}}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[SiteData]:
    folder, found = tmp_path_factory.mktemp("slides"), []
    for number, site in enumerate(("north", "south")):
        units = read_bags(BagIndex(write_patients(folder / site, 70, seed=number)), contract())
        units = replace(units, scanners=("AT2",) * 40 + ("P1000",) * 22 + ("several",) * 8)
        found.append(SiteData(site, units.select(range(40)), units.select(range(40, 70))))
    return found


def test_slides_have_a_tables_figures_and_those_of_a_yes_per_patient(
    slides: list[SiteData],
) -> None:
    study = bag_study()
    weights = np.array([1.0, 0, 0, 0, 0, 0, -0.5], dtype=np.float32)
    found = evaluate_slides(study, pack([weights]), slides)
    assert found["measure"] == "slides"
    told, test = found["sites"][0]["metrics"]["federated"], slides[0].test
    scores = 1 / (1 + np.exp(0.5 - test.features[:, 0].astype(np.float64)))
    training = 1 / (1 + np.exp(0.5 - slides[0].training.features[:, 0].astype(np.float64)))
    yes = scores >= best_threshold(slides[0].training.labels, training)
    assert told["auroc"] == pytest.approx(auroc(test.labels, scores), abs=2e-6)
    assert told["kappa"][0] == pytest.approx(cohen_kappa_score(test.labels, yes), abs=2e-6)
    assert told["brier"] < 0.3
    gain = found["sites"][1]["federated_minus_local"]
    assert gain["auroc"][1] <= gain["auroc"][0] <= gain["auroc"][2]
    assert "kappa" not in found["all"]["own_intercept"]  # an intercept moves scores and threshold
    scanners = found["subgroups"]["scanner"]
    assert scanners["P1000"]["patients"] == 44
    assert scanners["P1000"]["f1"][0] > 0
    assert scanners["several"]["patients"] == 16
