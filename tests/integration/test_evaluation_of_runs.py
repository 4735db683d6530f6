"""What an artefact of a simulation says about hospitals and tasks that cannot be evaluated, and that there is one."""

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import pytest

from integration.federation import ROUNDS, SITES, Federation, progress
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.task import TabularClassification
from solblom_server.rounds.runs import FinishedRun
from solblom_simulation import evaluation, table_evaluation
from solblom_simulation.evaluation import evaluate_nodes
from solblom_simulation.hospitals import node_files
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust


def read(run: FinishedRun, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run.path / name).read_bytes())
    return value


def verifies(federation: Federation, run: FinishedRun) -> bool:
    trust = load_trust(federation.home / "trust.json")
    return verify_artefact(run.path, trust, now=dt.datetime.now(dt.UTC)).ok


def make_consent_stale(federation: Federation, site: str) -> None:
    os.utime(federation.home / "sites" / site / "consent.csv", (0, 0))


def after_the_last_round(federation: Federation, act: Any) -> FinishedRun:
    """Run the study; something happens at a hospital between its last update and the evaluation."""
    with progress(lambda number, rounds, text: act() if number == ROUNDS else None):
        return federation.start()


class OtherUnits:
    """Patients who are no table."""

    def __init__(self, table: TableUnits) -> None:
        self.ids, self.labels = table.ids, table.labels


def evaluated(federation: Federation, sites: tuple[str, ...] = SITES) -> dict[str, Any]:
    weights = bytes(4 * 23)
    return evaluate_nodes(node_files(federation.home), federation.document, weights, sites, {})


def test_every_hospital_that_took_part_is_evaluated(finished: FinishedRun) -> None:
    report = read(finished, "evaluation/report.json")
    assert [site["site"] for site in report["sites"]] == list(SITES)
    assert report["left_out"] == []


def test_a_hospital_that_refused_is_named_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path / "home", quorum=2, approving=("cleveland", "va"))
    real, opened = evaluation.open_source, []

    def noting(config: Any, *rest: Any) -> Any:
        opened.append(config.node.site)
        return real(config, *rest)

    monkeypatch.setattr(evaluation, "open_source", noting)
    run = federation.start()
    report = read(run, "evaluation/report.json")
    assert opened == ["cleveland", "va"] == [site["site"] for site in report["sites"]]
    assert all(site["apart_from_others"]["distance"] > 0 for site in report["sites"])
    assert report["left_out"] == [{"site": "hungarian", "reason": "refused (SB-203)"}]
    assert "Left out: hungarian, refused (SB-203)." in (run.path / "README.md").read_text("utf-8")
    assert verifies(federation, run)


def test_a_hospital_whose_consents_became_stale_is_left_out_with_the_reason(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path / "home")
    run = after_the_last_round(federation, lambda: make_consent_stale(federation, "va"))
    report = read(run, "evaluation/report.json")
    assert [site["site"] for site in report["sites"]] == ["cleveland", "hungarian"]
    assert report["left_out"] == [{"site": "va", "reason": "cannot be evaluated now (SB-308)"}]
    assert verifies(federation, run)


def test_a_task_whose_patients_are_no_table_is_released_without_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, real = Federation(tmp_path / "home"), TabularClassification.read_units

    def others(self: Any, source: Any, document: Any) -> Any:
        return OtherUnits(real(self, source, document))

    def turn() -> None:
        monkeypatch.setattr(TabularClassification, "read_units", others)

    run = after_the_last_round(federation, turn)
    report = read(run, "evaluation/report.json")
    assert (report["kind"], report["sites"]) == ("not done", [])
    assert "are neither tables, cases, bags nor tiles" in report["reason"]
    assert read(run, "manifest.json")["evaluation"]["kind"] == "simulation, not done"
    assert f"Not evaluated: {report['reason']}." in (run.path / "README.md").read_text("utf-8")
    assert verifies(federation, run)


def test_an_evaluation_that_fails_is_said_by_its_kind_and_not_by_its_words(
    federation: Federation, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("PATIENT=secret42")

    monkeypatch.setattr(table_evaluation, "fit_tuned", fail)
    report = evaluated(federation)
    assert report["reason"] == "the evaluation failed (ValueError)"
    assert "secret42" not in json.dumps(report)


def test_no_hospital_that_can_be_evaluated_is_an_evaluation_not_done(
    federation: Federation, finished: FinishedRun
) -> None:
    report = evaluated(federation, sites=())
    assert report["reason"] == "no hospital that took part can be evaluated now"
