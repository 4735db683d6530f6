"""Studies of slides and of labelled tiles, end to end with real vaults: exact figures, and where scanners may stand."""

import csv
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_lab import DIM, bag_study, contract, write_bag
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import sign_study
from solblom_server.rounds.runs import FinishedRun, start_run
from solblom_simulation.demo_slides import lines, print_slides
from solblom_simulation.hospitals import (
    DataKind,
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust

SITES = ("north", "south")
SCANNERS = ("made-up-AT2", "made-up-P1000")
SEED = 5
MODELS = {"tile-classification": {"kind": "linear"}, "slide-mil": {"kind": "mean"}}
MEASURES = {"tile-classification": "tiles", "slide-mil": "slides"}


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def write_patients(folder: Path, count: int, *, seed: int) -> Path:
    """Write one slide a patient, each tile with a label; half of the patients have no positive tile."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        ill = number % 2
        labels = rng.integers(0, 2, 6) * ill
        values = rng.normal(size=(6, DIM))
        values[:, 0] += 2 * labels
        name = f"bags/{number}.h5"
        write_bag(folder / name, values.astype(np.float32), labels=labels)
        rows.append((f"p{seed}-{number}", name, str(ill), SCANNERS[number % 3 > 0]))
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("patient_id", "file", "label", "scanner"), *rows])
    return folder / "index.csv"


@dataclass(frozen=True)
class Finished:
    """A run of one task, and its folder."""

    task: str
    home: Path
    run: FinishedRun

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run.path / "evaluation/report.json").read_bytes())
        return found


@pytest.fixture(scope="module", params=sorted(MODELS))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    task = str(request.param)
    base = tmp_path_factory.mktemp(task)
    home = base / "home"
    files = {s: write_patients(base / s, 60, seed=n) for n, s in enumerate(SITES)}
    create_federation(
        home,
        seed=SEED,
        tables=files,
        policy=SimulationPolicy(),
        kind=DataKind(task, "bags", "slides", "index.csv"),
    )
    for number, site in enumerate(SITES):
        write_patients(home / "sites" / site, 60, seed=number)
    column = "labels" if task == "tile-classification" else "label"
    document = bag_study(
        bags=contract(target={"column": column}),
        task={"name": task, "model": MODELS[task]},
        cohort={"min_nodes": 2, "min_patients": 10, "quorum": 2},
        evaluation={"split": {"by": "patient", "test_fraction": 0.4}},
    )
    envelope = sign_study(document, read_signing_key(home / "researcher" / "researcher.key"))
    approve_everywhere(home, envelope, seed=SEED, now=now())
    return Finished(task, home, start_run(home, envelope, transport_name="local", now=now()))


def test_a_run_has_an_exact_report_and_verifies(finished: Finished) -> None:
    report = finished.report()
    assert report["kind"] == "exact: one machine holds all data; outside epsilon"
    assert report["measure"] == MEASURES[finished.task]
    assert [site["site"] for site in report["sites"]] == list(SITES)
    assert report["left_out"] == []
    for site in report["sites"]:
        for kind in ("local", "federated", "pooled"):
            figures = site["metrics"][kind]
            low, high = figures["auroc_interval"]
            assert low <= figures["auroc"] <= high
            assert 0 < figures["balanced_accuracy"][0] <= 1
        assert len(site["federated_minus_local"]["auroc"]) == 3
    trust = load_trust(finished.home / "trust.json")
    assert verify_artefact(finished.run.path, trust, now=now()).ok


def test_the_card_says_per_patient_or_per_tile(finished: Finished) -> None:
    card = (finished.run.path / "README.md").read_text(encoding="utf-8")
    words = {"tiles": "per tile, intervals over patients", "slides": "per patient"}
    assert words[MEASURES[finished.task]] in card
    assert "Not evaluated" not in card


def test_a_scanner_stands_in_a_simulations_report_and_card_and_nowhere_else(
    finished: Finished,
) -> None:
    groups = finished.report()["subgroups"]["scanner"]
    assert set(groups) == set(SCANNERS)
    assert sum(group["patients"] for group in groups.values()) == sum(
        site["test_patients"] for site in finished.report()["sites"]
    )
    named = {
        file.name
        for file in finished.home.rglob("*")
        if file.is_file() and any(code.encode() in file.read_bytes() for code in SCANNERS)
    }
    assert named == {"index.csv", "report.json", "README.md"}


def test_the_terminal_shows_it_within_110_columns(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    report = finished.report()
    data = {
        "sites": [
            {
                "site": site["site"],
                "patients": site["training_patients"],
                "test_patients": site["test_patients"],
                "epsilon": "2.98",
                "delta": "1e-5",
                "metrics": site["metrics"],
            }
            for site in report["sites"]
        ],
        "metrics": report["all"],
    }
    print_slides("SIMULATION: made-up hospitals", data, report)
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 110
    assert "sensitivity at 95 % specificity" in printed
    assert "balanced accuracy" in printed
    assert f"{report['sites'][0]['metrics']['federated']['auroc']:.3f} [" in printed
    assert all(scanner in printed for scanner in SCANNERS)


def test_a_group_too_small_and_a_figure_not_shown_say_so(finished: Finished) -> None:
    report = finished.report()
    report["subgroups"] = {"scanner": {"rare": {"patients": 1}}}
    report["all"]["local"]["balanced_accuracy"] = None
    told = "\n".join(lines(report))
    assert "rare  1 test patient, too few to show" in told
    assert "not shown" in told


def test_every_hospital_is_a_simulated_node(finished: Finished) -> None:
    assert [node.parent.name for node in node_files(finished.home)] == list(SITES)
