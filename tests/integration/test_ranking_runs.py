"""Studies that rank diseases, end to end with real vaults: one sum, and what may leave besides it."""

import base64
import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from couriers.test_conformance import open_with
from ranking_lab import contract_tables, study_tables, write_cases, write_release
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_models.artefact import load
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.phenotype.net import Prototypes
from solblom_models.phenotype.settings import COUNT_WEIGHT, noise_deviation
from solblom_models.phenotype.task import PhenotypeRanking
from solblom_models.ranking import ranks_of
from solblom_models.study_document import resolve
from solblom_protocol.errors import DataError
from solblom_protocol.keys.key_files import read_signing_key
from solblom_protocol.studies.study import StudyDocument, load_study, sign_study
from solblom_protocol.sums.secure_sum import Roster, write_roster
from solblom_server.commands.run import release_line
from solblom_server.coordinator import Coordinator
from solblom_server.rounds.runs import FinishedRun, start_run
from solblom_simulation.evaluation import read_any_site
from solblom_simulation.hospitals import (
    CASES,
    SimulationPolicy,
    approve_everywhere,
    create_federation,
    node_files,
)
from solblom_simulation.ranking_baselines import joined
from solblom_simulation.ranking_evaluation import CaseData
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust

SITES = ("a-hospital", "b-hospital", "c-hospital")
SEED = 11
TASK = PhenotypeRanking()


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Federation:
    """Three hospitals with made-up cases, and one study."""

    home: Path
    document: StudyDocument
    envelope: bytes

    def start(self) -> FinishedRun:
        return start_run(self.home, self.envelope, transport_name="local", now=now())

    def sites(self) -> list[CaseData]:
        found = [read_any_site(node, self.document) for node in node_files(self.home)]
        assert all(isinstance(site, CaseData) for site in found)
        return [site for site in found if isinstance(site, CaseData)]


def federation(
    folder: Path,
    release: Path,
    *,
    papers_of: int = 2,
    families_of: int = 0,
    **changes: dict[str, Any],
) -> Federation:
    """Make hospitals and let all of them approve the study."""
    home, shared = folder / "home", changes.get("privacy", {}).get("noise") == "shared"
    files = {
        site: write_cases(
            folder / f"{site}.jsonl",
            90,
            first=1000 * number,
            papers_of=papers_of,
            families_of=families_of,
        )
        for number, site in enumerate(SITES)
    }
    policy = SimulationPolicy(
        study_epsilon=8.0,
        epsilon_budget=50.0,
        allow_privacy_off=changes.get("privacy", {}).get("epsilon", "off") == "off",
        shared_noise=shared,
        min_honest_nodes=2,
        alone_epsilon=50.0,
    )
    create_federation(home, seed=SEED, tables=files, policy=policy, kind=CASES)
    study = home / "studies" / "study.toml"
    study.parent.mkdir()
    study.write_text(tomli_w.dumps(study_tables(**changes)), encoding="utf-8")
    (study.parent / "contract.toml").write_text(
        tomli_w.dumps(contract_tables(release)), encoding="utf-8"
    )
    if shared:
        roster = write_roster(Roster.of(Coordinator.open(home).nodes()))
        (study.parent / "roster.json").write_bytes(roster)
    document = resolve(*load_study(study))
    key = read_signing_key(home / "researcher" / "researcher.key")
    envelope = sign_study(document, key)
    approve_everywhere(home, envelope, seed=SEED, now=now())
    return Federation(home, document, envelope)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield write_release(tmp_path_factory.mktemp("hpo") / "release", patch)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, release: Path) -> Federation:
    return federation(tmp_path_factory.mktemp("exact"), release)


@pytest.fixture(scope="module")
def exact_run(exact: Federation) -> FinishedRun:
    return exact.start()


def sums_of(run: FinishedRun) -> np.ndarray:
    net = load(run.path).net
    assert isinstance(net, Prototypes)
    return net.sums.weight.detach().double().numpy()


def pooled(sites: list[CaseData]) -> CaseUnits:
    return joined([site.training for site in sites])


def test_the_federated_sum_is_the_pooled_sum(exact: Federation, exact_run: FinishedRun) -> None:
    units = pooled(exact.sites())
    expected = np.zeros_like(sums_of(exact_run))
    np.add.at(
        expected,
        units.labels,
        np.pad(units.dense(), ((0, 0), (0, 1)), constant_values=COUNT_WEIGHT),
    )
    # Updates travel on a grid of 2^-24, and torch adds up in float32.
    assert np.abs(sums_of(exact_run) - expected).max() < 2e-5
    counts = sums_of(exact_run)[:, -1] / COUNT_WEIGHT
    assert np.allclose(counts, np.bincount(units.labels, minlength=3), atol=1e-4)


def test_the_artefact_verifies_and_ranks(exact: Federation, exact_run: FinishedRun) -> None:
    verdict = verify_artefact(exact_run.path, load_trust(exact.home / "trust.json"), now=now())
    assert verdict.ok, [check for check in verdict.checks if not check.ok]
    test = joined([site.test for site in exact.sites()])
    ranks = ranks_of(TASK.rankings(load(exact_run.path).net, test), test.labels)
    assert (ranks == 1).mean() > 0.9


def test_the_report_has_all_four_models_side_by_side(exact_run: FinishedRun) -> None:
    report = exact_run.evaluation or {}
    assert report["measure"] == "ranking"
    assert set(report["all"]) == {"prior", "local", "federated", "pooled"}
    assert report["all"]["federated"] == report["all"]["pooled"]
    assert report["all"]["federated"]["top_1"][0] > report["all"]["prior"]["top_1"][0]
    assert all(site["without_this_hospital"]["patients"] > 0 for site in report["sites"])
    assert report["unseen_diseases"] == 0
    assert set(report["subgroups"]["sex"]) == {"MALE", "FEMALE"}
    assert report["notes"]["a-hospital"]["documents"] == 90


def test_the_card_shows_recall_and_not_auroc(exact_run: FinishedRun) -> None:
    card = (exact_run.path / "README.md").read_text(encoding="utf-8")
    assert "public knowledge alone" in card
    assert "AUROC" not in card


def test_publications_stay_whole_in_the_nodes_own_split(exact: Federation) -> None:
    for site in exact.sites():
        training, test = (set(part.groups["publication"]) for part in (site.training, site.test))
        assert training
        assert test
        assert not training & test


def test_a_study_that_splits_published_cases_by_patient_is_not_approved(
    tmp_path: Path, release: Path
) -> None:
    by_patient = {"split": {"by": "patient", "test_fraction": 0.3}}
    with pytest.raises(DataError) as caught:
        federation(tmp_path, release, evaluation=by_patient)
    assert caught.value.code == "SB-310"


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_noise_on_the_sums_is_as_large_as_the_study_says(
    tmp_path: Path, release: Path, noise: str
) -> None:
    """The patients' sum is known here, so what is left is the noise: 27 entries and three counts."""
    changes: dict[str, Any] = {"privacy": {"epsilon": 3.0, "noise": noise}}
    if noise == "shared":
        changes["secure_sum"] = {"roster": "roster.json"}
    made = federation(tmp_path, release, **changes)
    run = made.start()
    units = pooled(made.sites())
    expected = np.zeros_like(sums_of(run))
    np.add.at(
        expected,
        units.labels,
        np.pad(units.dense(), ((0, 0), (0, 1)), constant_values=COUNT_WEIGHT),
    )
    left = sums_of(run) - expected
    claimed = noise_deviation(made.document)
    # chi-squared with 27 degrees of freedom lies within these bounds but once in ten thousand
    assert 0.55 < float(np.sqrt((left**2).mean())) / claimed < 1.5
    assert json.loads((run.path / "privacy/statement.json").read_bytes())["sites"]["a-hospital"]


def test_ranks_of_test_patients_leave_as_one_noisy_histogram(tmp_path: Path, release: Path) -> None:
    changes: dict[str, Any] = {
        "privacy": {"epsilon": 8.0},
        "evaluation": {
            "split": {"by": "publication", "test_fraction": 0.3},
            "releases": 1,
            "epsilon": 4.0,
        },
    }
    made = federation(tmp_path, release, **changes)
    run = made.start()
    (released,) = (run.evaluation or {})["released"]
    test = joined([site.test for site in made.sites()])
    ranks = ranks_of(TASK.rankings(load(run.path).net, test), test.labels)
    exact = np.bincount(np.minimum(ranks, 11) - 1, minlength=11)
    noise = np.array(released["counts"]) - exact
    deviation = float(released["noise_deviation"])
    assert 0 < np.abs(noise).max() < 6 * deviation
    assert released["metrics"]["top_1"] == pytest.approx((ranks == 1).mean(), abs=0.2)
    assert "disease first" in release_line(released)
    assert "disease among the first 10" in (run.path / "README.md").read_text(encoding="utf-8")


def test_a_vault_never_puts_a_term_into_its_log(exact: Federation, exact_run: FinishedRun) -> None:
    """No HPO term, disease or publication in what a node writes or sends besides sealed bytes."""
    for node in node_files(exact.home):
        config = load_node_config(node)
        read_node_keys(config.state)
        for log in (config.state / "log").glob("*"):
            text = log.read_text(encoding="utf-8", errors="replace")
            assert not any(word in text for word in ("HP:", "OMIM", "PMID", "patient-")), log


def seen_by_the_coordinator(home: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file outside the hospitals' own folders, and what signed envelopes in it hold."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and "sites" not in path.relative_to(home).parts:
            data = path.read_bytes()
            yield path, data
            for payload in re.findall(rb'"payload":"([A-Za-z0-9+/=]+)"', data):
                yield path, base64.b64decode(payload)


def test_nothing_that_the_coordinator_holds_names_a_patient_a_term_or_a_paper(
    tmp_path: Path, release: Path
) -> None:
    """Updates, receipts, counts, database and model: all that left, opened as far as the coordinator can."""
    changes: dict[str, Any] = {
        "privacy": {"epsilon": 8.0},
        "evaluation": {
            "split": {"by": "publication", "test_fraction": 0.3},
            "releases": 1,
            "epsilon": 2.0,
        },
        "table_one": {"epsilon": 1.0, "variables": ["disease", "sex"]},
    }
    made = federation(tmp_path, release, **changes)
    made.start()
    told = re.compile(rb"patient-[0-9]|case-[0-9]|PMID:[0-9]|HP:[0-9]")
    held = list(seen_by_the_coordinator(made.home))
    assert any(b"solblom.receipt/1" in data for _, data in held)  # envelopes were opened
    assert [path for path, data in held if told.search(data)] == []
    own = made.home / "sites" / "a-hospital" / "cases.jsonl"
    assert told.search(own.read_bytes())  # the pattern finds what must stay


def test_two_couriers_give_the_same_sum(
    tmp_path: Path, release: Path, exact_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_with(monkeypatch, "files", lambda grid: grid)
    again = federation(tmp_path, release).start()
    assert again.digest == exact_run.digest


def test_a_linear_ranker_is_trained_over_rounds_from_public_knowledge(
    tmp_path: Path, release: Path
) -> None:
    changes: dict[str, Any] = {
        "task": {"model": {"kind": "linear"}},
        "training": {
            "rounds": 6,
            "local_steps": 3,
            "learning_rate": 20.0,
            "server_learning_rate": 1.0,
        },
        "privacy": {"epsilon": "off", "clipping_norm": 10.0},
    }
    report = federation(tmp_path, release, **changes).start().evaluation or {}
    shares = {kind: report["all"][kind]["top_1"][0] for kind in ("prior", "federated", "pooled")}
    assert shares["federated"] > shares["prior"] + 0.2
    assert shares["federated"] > shares["pooled"] - 0.1
