"""Exact evaluation: the same test patients for every model, and baselines that never see them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_lab import bag_study, contract, write_patients
from lab import patient_rows, study_document, write_table
from remembered import remembered_fits
from solblom_models.metrics import auroc
from solblom_models.slide_mil.bags import BagIndex, read_bags
from solblom_models.tabular.data import TableUnits, read_units
from solblom_models.tabular.table_file import read_csv
from solblom_models.tabular.table_one import cells_of
from solblom_protocol.messages.layout import pack
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.table_evaluation import SiteData, evaluate

STUDY = study_document()


def units(folder: Path, site: str, count: int, seed: int) -> TableUnits:
    path = folder / f"{site}-{seed}.csv"
    write_table(path, patient_rows(count, site=site, seed=seed))
    return read_units(read_csv(path, id_column="patient_id"), STUDY.contract)


@pytest.fixture
def remembering() -> Iterator[None]:
    """Fit what was fitted on the very same patients before only once."""
    with remembered_fits():
        yield


remembers = pytest.mark.usefixtures("remembering")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[SiteData]:
    folder = tmp_path_factory.mktemp("sites")
    return [
        SiteData(s, units(folder, s, 60, seed=1), units(folder, s, 40, seed=2))
        for s in ("north", "south")
    ]


@pytest.fixture(scope="module")
def report(sites: list[SiteData]) -> dict[str, Any]:
    with remembered_fits():
        return evaluate(STUDY, WEIGHTS, sites)


STUDY_SEED = STUDY.study.training.seed % 2**32
WEIGHTS = pack([np.array([0.9, 0.4, 0.0, 0.0, 0.0, -0.2], dtype=np.float32)])


def flipped(found: TableUnits) -> TableUnits:
    return TableUnits(found.ids, found.features, 1 - found.labels)


def test_a_report_has_every_kind_of_model_at_every_hospital(report: dict[str, Any]) -> None:
    assert [site["site"] for site in report["sites"]] == ["north", "south"]
    kinds = {"federated", "local", "own_intercept", "pooled"}
    assert all(set(site["metrics"]) == kinds for site in report["sites"])
    assert not {"measure", "thresholds"} & set(report)  # those are of slides and tiles


def test_the_federated_area_is_that_of_the_weights_on_the_test_patients(
    sites: list[SiteData], report: dict[str, Any]
) -> None:
    told = report["sites"][0]["metrics"]["federated"]["auroc"]
    net = np.frombuffer(WEIGHTS, dtype="<f4").astype(np.float64)
    scores = sites[0].test.features @ net[:5] + net[5]
    assert told == pytest.approx(auroc(sites[0].test.labels, scores), abs=1e-6)


@remembers
def test_baselines_never_see_a_test_label(sites: list[SiteData], report: dict[str, Any]) -> None:
    turned = [SiteData(s.site, s.training, flipped(s.test)) for s in sites]
    after = evaluate(STUDY, WEIGHTS, turned)
    for kind in ("local", "pooled", "federated"):
        there = report["sites"][0]["metrics"][kind]["auroc"]
        back = after["sites"][0]["metrics"][kind]["auroc"]
        assert there == pytest.approx(1 - back, abs=2e-6)


@remembers
def test_the_local_baseline_of_one_hospital_does_not_depend_on_the_others(
    sites: list[SiteData], report: dict[str, Any]
) -> None:
    turned = [sites[0], SiteData("south", flipped(sites[1].training), sites[1].test)]
    first, second = (r["sites"][0]["metrics"] for r in (report, evaluate(STUDY, WEIGHTS, turned)))
    assert first["local"] == second["local"]
    assert first["pooled"] != second["pooled"]


def test_the_same_evaluation_gives_the_same_figures(
    sites: list[SiteData], report: dict[str, Any]
) -> None:
    assert evaluate(STUDY, WEIGHTS, sites) == report


def test_a_baseline_is_trained_where_a_class_has_one_patient(sites: list[SiteData]) -> None:
    found = sites[0].training
    rare = int(np.flatnonzero(found.labels == 1)[0])
    chosen = [*np.flatnonzero(found.labels == 0).tolist(), rare]
    few = found.select(chosen)
    model = fit_tuned(few.features, few.labels, seed=1)
    scores = predict(model, few.features)
    assert ((scores > 0) & (scores < 1)).all()


@remembers
def test_an_own_intercept_changes_no_area_and_fits_where_the_shared_one_does_not(
    sites: list[SiteData],
) -> None:
    shifted = np.frombuffer(WEIGHTS, dtype="<f4").copy()
    shifted[5] += 2.0
    found = evaluate(STUDY, pack([shifted]), sites)
    for site in found["sites"]:
        shared, own = site["metrics"]["federated"], site["metrics"]["own_intercept"]
        assert own["auroc"] == shared["auroc"]
        assert own["brier"] < shared["brier"]


@remembers
def test_an_own_intercept_never_sees_a_test_label(sites: list[SiteData]) -> None:
    turned = [SiteData(s.site, s.training, flipped(s.test)) for s in sites]
    before, after = evaluate(STUDY, WEIGHTS, sites), evaluate(STUDY, WEIGHTS, turned)
    for one, other in zip(before["sites"], after["sites"], strict=True):
        right, wrong = (r["metrics"]["own_intercept"]["accuracy"] for r in (one, other))
        assert right + wrong == pytest.approx(1)


@remembers
def test_what_all_others_reach_at_a_hospital_does_not_depend_on_its_own_training(
    sites: list[SiteData], report: dict[str, Any]
) -> None:
    turned = [SiteData(s.site, flipped(s.training), s.test) for s in sites[:1]] + sites[1:]
    after = evaluate(STUDY, WEIGHTS, turned)
    told = [r["sites"][0]["without_this_hospital"] for r in (report, after)]
    assert told[0] == told[1]
    others = fit_tuned(sites[1].training.features, sites[1].training.labels, seed=STUDY_SEED)
    expected = auroc(sites[0].test.labels, predict(others, sites[0].test.features))
    assert told[0]["auroc"] == pytest.approx(expected, abs=1e-6)
    alone = evaluate(STUDY, WEIGHTS, sites[:1])
    assert alone["sites"][0]["without_this_hospital"] is None


@remembers
def test_subgroups_are_those_of_the_federated_model_and_small_ones_are_counted_only(
    sites: list[SiteData],
) -> None:
    study = study_document(evaluation={"subgroups": ["smoker"]})
    grouped = [
        replace(s, cells={"smoker": ("yes",) * 3 + ("no",) * (len(s.test.ids) - 3)}) for s in sites
    ]
    found = evaluate(study, WEIGHTS, grouped)["subgroups"]["smoker"]
    assert found["yes"] == {"patients": 6}
    assert found["no"]["patients"] == 74
    net = np.frombuffer(WEIGHTS, dtype="<f4").astype(np.float64)
    labels = np.concatenate([s.test.labels[3:] for s in sites])
    features = np.concatenate([s.test.features[3:] for s in sites])
    assert found["no"]["auroc"] == pytest.approx(auroc(labels, features @ net[:5]), abs=1e-6)
    assert evaluate(STUDY, WEIGHTS, grouped)["subgroups"] == {}


def test_cells_of_patients_are_those_of_table_one_in_their_order(tmp_path: Path) -> None:
    rows = patient_rows(5, site="north")
    for row, age in zip(rows, ("30", "50", "70", "", "?"), strict=True):
        row["age"] = age
    write_table(tmp_path / "t.csv", rows)
    table = read_csv(tmp_path / "t.csv", id_column="patient_id")
    found = cells_of(table, table.ids[::-1], STUDY, ["age"])
    assert found["age"] == ("missing", "missing", "65 or more", "45 to 55", "below 35")


def test_bags_are_evaluated_and_baselines_see_their_means(tmp_path: Path) -> None:
    study, found = bag_study(), []
    for number, site in enumerate(("north", "south")):
        units = read_bags(BagIndex(write_patients(tmp_path / site, 60, seed=number)), contract())
        found.append(SiteData(site, units.select(range(40)), units.select(range(40, 60))))
    weights = np.array([1.0, 0, 0, 0, 0, 0, -0.5], dtype=np.float32)
    report = evaluate(study, pack([weights]), found)
    test = found[0].test
    told = report["sites"][0]["metrics"]["federated"]["auroc"]
    assert told == pytest.approx(auroc(test.labels, test.features[:, 0].astype(float)), abs=1e-6)
    assert "mean of each patient's tiles" in report["baselines"]
