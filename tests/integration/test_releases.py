"""A federation that releases counts: what stands in the artefact, what it costs, and what a silent hospital changes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.federation import SITES, Federation, now
from solblom_client.policy import load_node_config
from solblom_models.study_document import resolve
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import sign_study
from solblom_protocol.studies.tables import EvaluationTable, TableOneTable
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import FinishedRun, evaluate_run
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust


class Releasing(Federation):
    """A federation whose study releases one histogram and a Table 1."""

    def __post_init__(self) -> None:
        approving, self.approving, self.study_epsilon = list(self.approving), [], 6.0
        super().__post_init__()
        study = self.document.study.model_copy(
            update={
                # Its noise changes with every version of the code: with 6, counts stand far above it.
                "privacy": self.document.study.privacy.model_copy(update={"epsilon": 6.0}),
                "evaluation": EvaluationTable(releases=1),
                "table_one": TableOneTable(epsilon=1.0, variables=("male", "disease")),
            }
        )
        self.document = resolve(study, self.document.contract)
        key = read_signing_key(self.home / "researcher" / "researcher.key")
        self.envelope = sign_study(self.document, key)
        for site in approving:
            self.approve(site)


@dataclass
class Finished:
    federation: Releasing
    run: FinishedRun
    report: dict[str, Any]


@pytest.fixture(scope="module")
def finished_releases(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    federation = Releasing(tmp_path_factory.mktemp("releases") / "home")
    run = federation.start()
    report = json.loads((run.path / "evaluation/report.json").read_bytes())
    return Finished(federation, run, report)


def released(report: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(record for record in report["released"] if record["kind"] == kind)


def test_the_released_auroc_agrees_with_the_exact_one_of_the_simulation(
    finished_releases: Finished,
) -> None:
    exact = finished_releases.report["all"]["federated"]["auroc"]
    metrics = released(finished_releases.report, "evaluate")["metrics"]
    low, high = metrics["auroc_interval"]
    assert low <= exact <= high
    assert abs(metrics["auroc"] - exact) < 0.2


def test_table_one_counts_all_patients_within_its_noise(finished_releases: Finished) -> None:
    record = released(finished_releases.report, "describe")
    patients = sum(
        site["training_patients"] + site["test_patients"]
        for site in finished_releases.report["sites"]
    )
    for row in record["table"]:
        cells = len(row["counts"])
        assert (
            abs(sum(row["counts"]) - patients) < 5 * float(record["noise_deviation"]) * cells**0.5
        )


def test_the_reported_epsilon_covers_the_releases_and_keeps_the_promise(
    finished_releases: Finished,
) -> None:
    federation = finished_releases.federation
    report = run_report(federation.home, finished_releases.run.run)
    for site in SITES:
        assert report["epsilon"][site] == federation.spent(site)
        assert 5.8 < float(report["epsilon"][site]) <= 6.0


def test_the_artefact_has_each_releases_receipts_and_verifies(finished_releases: Finished) -> None:
    run = finished_releases.run
    names = {path.name for path in (run.path / "evaluation/receipts").iterdir()}
    assert names == {
        f"{kind}-001-{site}.dsse.json" for kind in ("evaluate", "describe") for site in SITES
    }
    trust = load_trust(finished_releases.federation.home / "trust.json")
    assert verify_artefact(run.path, trust, now=now()).ok


def test_the_card_and_the_statement_name_the_releases(finished_releases: Finished) -> None:
    path = finished_releases.run.path
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "counts with noise of deviation" in card
    assert "Table 1" in card
    statement = json.loads((path / "privacy/statement.json").read_bytes())
    assert "discrete Gaussian" in statement["mechanism"]


def test_no_exact_count_of_one_hospital_stands_in_the_releases(
    finished_releases: Finished,
) -> None:
    for record in finished_releases.report["released"]:
        assert "by_site" not in record
        assert len(record["counts"]) in {20, 5}


def test_a_second_run_of_the_study_gets_no_second_release(finished_releases: Finished) -> None:
    releases = evaluate_run(finished_releases.federation.home, finished_releases.run.run)
    assert [r["status"] for r in releases] == ["released", "released"]
    charges = finished_releases.federation.charges()
    assert all(len(found) == 3 + 2 for found in charges.values())


def test_a_release_that_too_few_answer_leaves_the_model_and_can_be_asked_again(
    tmp_path: Path,
) -> None:
    federation = Releasing(tmp_path / "home")
    config = load_node_config(federation.home / "sites" / "va")
    consent = config.path(config.consent.source)
    everybody = consent.read_text(encoding="utf-8")
    withdrawn = patients_for_testing(federation, "va")[5:]  # fewer than policy.min_patients stay
    consent.write_text(
        everybody + "".join(f"{patient},withdrawn,\n" for patient in withdrawn), encoding="utf-8"
    )
    run = federation.start()
    report = json.loads((run.path / "evaluation/report.json").read_bytes())
    record = released(report, "evaluate")
    assert record["status"] == "not released"
    assert record["refusals"] == {"va": "SB-209"}
    consent.write_text(everybody, encoding="utf-8")
    again = evaluate_run(federation.home, run.run)
    assert [r["status"] for r in again] == ["released", "released"]


def patients_for_testing(federation: Federation, site: str) -> list[str]:
    """Return the ids of a hospital's test patients."""
    from solblom_client.keys import is_test_patient, read_node_keys

    config = load_node_config(federation.home / "sites" / site)
    split = read_node_keys(config.state).split
    table = config.path(config.dataset[0].path).read_text(encoding="utf-8").splitlines()
    column = table[0].split(",").index(config.dataset[0].patient)
    ids = [line.split(",")[column] for line in table[1:]]
    return [patient for patient in ids if is_test_patient(split, patient, 0.3)]
