"""Runs with a secure sum, end to end with real vaults: what comes out, what it costs, and who has to be there."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from integration.federation import ROUNDS, SITES, now
from integration.shared_noise import SharedFederation
from solblom_client.masks.key_file import ERASED
from solblom_models.accountant import pld_epsilon
from solblom_protocol.errors import RunError
from solblom_server.rounds.runs import FinishedRun, start_run
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SharedFederation:
    return SharedFederation(tmp_path_factory.mktemp("shared") / "home")


@pytest.fixture(scope="module")
def run(federation: SharedFederation) -> FinishedRun:
    return federation.start()


@pytest.fixture(scope="module")
def statement(run: FinishedRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / "privacy/statement.json").read_bytes())
    return found


def test_a_model_of_masked_updates_verifies(federation: SharedFederation, run: FinishedRun) -> None:
    verdict = verify_artefact(run.path, load_trust(federation.home / "trust.json"), now=now())
    assert verdict.ok, [check for check in verdict.checks if not check.ok]


def test_the_statement_says_what_holds_alone_and_in_two_hospitals(
    federation: SharedFederation, statement: dict[str, Any]
) -> None:
    assert statement["trust"].startswith(
        "Shared: vectors of 3 hospitals add up under masks, at least 3"
    )
    for figures in statement["sites"].values():
        assert float(figures["epsilon"]) <= 6.0
        assert float(figures["epsilon"]) < float(figures["epsilon_alone"])
        assert float(figures["epsilon"]) < float(figures["epsilon_in_two_hospitals"])


def test_every_hospital_pays_what_the_study_promised_and_no_more(
    federation: SharedFederation, run: FinishedRun
) -> None:
    expected = pld_epsilon(federation.document.all_events, 1e-5)
    assert expected <= 6.0
    for site in SITES:
        assert [e.kind for e in federation.ledger(site).entries()] == [
            *["train"] * ROUNDS,
            "evaluate",
            "describe",
        ]
        assert float(federation.spent(site)) == pytest.approx(expected, abs=2e-3)


def test_released_counts_are_the_sum_of_all_hospitals_with_the_noise_that_is_stated(
    federation: SharedFederation, run: FinishedRun
) -> None:
    report = json.loads((run.path / "evaluation/report.json").read_bytes())
    table = next(r for r in report["released"] if r["kind"] == "describe")
    tables = (federation.home / "sites").glob("*/patients.csv")
    exact = sum(len(path.read_text(encoding="utf-8").splitlines()) - 1 for path in tables)
    for row in table["table"]:
        deviation = float(table["noise_deviation"]) * math.sqrt(len(row["counts"]))
        assert abs(sum(row["counts"]) - exact) < 5 * deviation
    assert table["sites"] == sorted(SITES)


def test_the_same_work_gives_the_same_model_under_other_masks(
    federation: SharedFederation, run: FinishedRun, tmp_path: Path
) -> None:
    """What leaves a hospital is uniform noise to the coordinator; only the sum is the same again."""
    twin = SharedFederation(tmp_path / "home").start()
    weights, updates = zip(*(weights_and_updates(r) for r in (run, twin)), strict=True)
    assert weights[0] == weights[1]
    assert not updates[0] & updates[1]


def test_files_carry_a_secure_sum_to_the_same_model(
    federation: SharedFederation, run: FinishedRun, tmp_path: Path
) -> None:
    by_file = SharedFederation(tmp_path / "home")
    carried = start_run(by_file.home, by_file.envelope, transport_name="simulated-files", now=now())
    assert weights_and_updates(carried)[0] == weights_and_updates(run)[0]


def weights_and_updates(run: FinishedRun) -> tuple[bytes, set[str]]:
    rounds = json.loads((run.path / "manifest.json").read_bytes())["training"]["rounds"]
    updates = {update for record in rounds for update in record["updates"].values()}
    return (run.path / "model/weights.safetensors").read_bytes(), updates


def test_mask_keys_are_erased_when_the_run_has_all_it_may_get(
    federation: SharedFederation, run: FinishedRun
) -> None:
    for site in SITES:
        keys = list((federation.home / "sites" / site / "state/approvals").glob("*/mask-*.key"))
        assert keys
        assert ERASED in [key.read_bytes() for key in keys]


def test_a_missing_hospital_is_named_and_the_run_goes_on_when_it_is_back(tmp_path: Path) -> None:
    federation = SharedFederation(
        tmp_path / "home", approving=SITES[:2], releases=False, ring_bits=64
    )
    with pytest.raises(RunError, match="va refused") as caught:
        federation.start()
    assert caught.value.code in ("SB-501", "SB-507")
    assert all(not federation.ledger(site).entries() for site in SITES)  # keys come before patients
    federation.approve("va")
    run = federation.resume(federation_run(federation))
    assert verify_artefact(run.path, load_trust(federation.home / "trust.json"), now=now()).ok


def federation_run(federation: SharedFederation) -> str:
    from solblom_server.coordinator import Coordinator

    database = Coordinator.open(federation.home).database()
    try:
        return database.runs()[-1].id
    finally:
        database.close()
