"""Rare diseases by family, end to end with real vaults: what the simulation expects is what the vaults add up."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration.test_ranking_runs import Federation, federation, now, release, sums_of
from solblom_client.cohorts.families import Families
from solblom_models.accountant import format_epsilon, patient_epsilon, pld_epsilon
from solblom_models.phenotype.settings import COUNT_WEIGHT, noise_deviation
from solblom_models.recomputed_epsilon import recomputed
from solblom_models.statement import FAMILIES
from solblom_server.rounds.runs import FinishedRun
from solblom_verify.artefact import verify_artefact
from solblom_verify.canonical import canonical_json
from solblom_verify.trust import load_trust

__all__ = ["release"]

SPLIT = {"by": "family", "test_fraction": 0.3}
OF = 3  # patients of each family, one of each disease


def by_family(folder: Path, release: Path, **changes: Any) -> Federation:
    tables = {"privacy": {"unit": "family"}, "evaluation": {"split": SPLIT}}
    merged = {name: tables.get(name, {}) | changes.get(name, {}) for name in {*tables, *changes}}
    return federation(folder, release, papers_of=1, families_of=OF, **merged)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, release: Path) -> Federation:
    return by_family(tmp_path_factory.mktemp("kin"), release)


@pytest.fixture(scope="module")
def exact_run(exact: Federation) -> FinishedRun:
    return exact.start()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, release: Path) -> Federation:
    return by_family(
        tmp_path_factory.mktemp("private"),
        release,
        privacy={"epsilon": 6.0, "noise": "shared"},
        secure_sum={"roster": "roster.json"},
        evaluation={"releases": 1, "epsilon": 2.0},
    )


@pytest.fixture(scope="module")
def private_run(private: Federation) -> FinishedRun:
    return private.start()


def expected_sum(made: Federation, like: np.ndarray) -> np.ndarray:
    """Return the mean member of each family, added up over families and hospitals."""
    total = np.zeros_like(like)
    for site in made.sites():
        rows = np.pad(site.training.dense(), ((0, 0), (0, 1)), constant_values=COUNT_WEIGHT)
        for family in Families.of(site.training).members:
            for index in family:
                total[site.training.labels[index]] += rows[index] / len(family)
    return total


def test_the_federated_sum_is_the_sum_of_mean_members(
    exact: Federation, exact_run: FinishedRun
) -> None:
    found = sums_of(exact_run)
    # Updates travel on a grid of 2^-24, and torch adds up in float32.
    assert np.abs(found - expected_sum(exact, found)).max() < 2e-5
    families = sum(len(Families.of(site.training).members) for site in exact.sites())
    assert (found[:, -1] / COUNT_WEIGHT).sum() == pytest.approx(families, abs=1e-3)


def test_the_simulation_agrees_exactly_with_the_vaults(exact_run: FinishedRun) -> None:
    report = exact_run.evaluation or {}
    assert report["all"]["federated"] == report["all"]["pooled"]


def test_noise_on_the_sums_is_that_of_patients(tmp_path: Path, release: Path) -> None:
    made = by_family(tmp_path, release, privacy={"epsilon": 6.0, "noise": "local"})
    found = sums_of(made.start())
    left = found - expected_sum(made, found)
    # chi-squared with 27 degrees of freedom lies within these bounds but once in ten thousand
    assert 0.55 < float(np.sqrt((left**2).mean())) / noise_deviation(made.document) < 1.5


def test_statement_and_card_say_family(private_run: FinishedRun) -> None:
    folder = private_run.path
    statement = json.loads((folder / "privacy/statement.json").read_bytes())
    assert statement["unit"].startswith("One family as the hospital's data set names it")
    assert statement["neighbours"] == "Data sets that differ by adding or removing one family"
    assert "One contribution per family and round" in statement["mechanism"]
    assert "all families in every round" in statement["sampling"]
    assert "Whether or not one family took part" in statement["reading"]
    assert set(FAMILIES) <= set(statement["not_covered"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Unit: one family." in card
    assert "| hospital | epsilon | delta | epsilon of one patient |" in card
    assert "averaged within the family" in card


def test_the_statement_gives_both_figures_and_the_verifier_works_them_out(
    private: Federation, private_run: FinishedRun
) -> None:
    folder, trust = private_run.path, load_trust(private.home / "trust.json")
    assert verify_artefact(folder, trust, now=now()).ok
    checks, _ = recomputed(folder)
    assert all(check.ok for check in checks), checks
    document, statement = private.document, folder / "privacy/statement.json"
    figures = json.loads(statement.read_bytes())["sites"]["a-hospital"]
    events, delta = document.all_events, document.study.privacy.delta
    assert figures["epsilon"] == format_epsilon(pld_epsilon(events, delta))
    assert figures["epsilon_of_one_patient"] == format_epsilon(patient_epsilon(events, delta))
    assert float(figures["epsilon_of_one_patient"]) > float(figures["epsilon"])


def test_a_statement_that_understates_what_one_patient_pays_is_found(
    private_run: FinishedRun, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(private_run.path, folder)
    statement = json.loads((folder / "privacy/statement.json").read_bytes())
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for sites in (statement["sites"], manifest["privacy"]["sites"]):
        sites["a-hospital"]["epsilon_of_one_patient"] = sites["a-hospital"]["epsilon"]
    (folder / "privacy/statement.json").write_bytes(canonical_json(statement))
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    checks, _ = recomputed(folder)
    failed = {check.name: check.reason for check in checks if not check.ok}
    assert "epsilon_of_one_patient" in failed["epsilon"]


def test_families_stay_whole_at_every_hospital(exact: Federation) -> None:
    for site in exact.sites():
        sides = [set(part.groups["family"]) for part in (site.training, site.test)]
        assert not sides[0] & sides[1]
