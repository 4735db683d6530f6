"""Runs whose sums open without every hospital, end to end with real vaults."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from couriers.test_conformance import open_with
from integration.federation import ROUNDS, now, progress
from integration.shared_noise import SharedFederation
from solblom_client.vault import Vault
from solblom_models.accountant import pld_epsilon
from solblom_protocol.errors import ConfigurationError, RunError
from solblom_protocol.messages.order import Order
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database
from solblom_server.rounds.runs import FinishedRun
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust

FOUR = ("cleveland", "hungarian", "second", "va")


def droppable(home: Path, **changes: Any) -> SharedFederation:
    """Four hospitals, of which three are enough."""
    values: dict[str, Any] = {"approving": FOUR, "sites": FOUR, "threshold": 3}
    return SharedFederation(home, **(values | changes))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SharedFederation:
    return droppable(tmp_path_factory.mktemp("droppable") / "home")


@pytest.fixture(scope="module")
def run(federation: SharedFederation) -> FinishedRun:
    return federation.start()


def test_a_run_in_which_all_answer_gives_a_model_that_verifies(
    federation: SharedFederation, run: FinishedRun
) -> None:
    verdict = verify_artefact(run.path, load_trust(federation.home / "trust.json"), now=now())
    assert verdict.ok, [check for check in verdict.checks if not check.ok]
    report: dict[str, Any] = json.loads((run.path / "evaluation/report.json").read_bytes())
    assert [r["status"] for r in report["released"]] == ["released", "released"]
    assert not list((federation.home / "runs" / run.run / "vectors").glob("*"))


def test_files_carry_a_sum_that_needs_four_orders(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real files, vaults and exchanges, in one process; in test_shared_noise.py each hospital has its own."""
    federation = droppable(tmp_path / "home", releases=False)
    open_with(monkeypatch, "files", lambda grid: grid)
    assert weights(federation.start()) == whole


class Silent:
    """Makes chosen hospitals fail at chosen steps, in the real vault, before it does anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: set[tuple[str, str]] = set()
        answer = Vault._answer

        def failing(vault: Vault, order: Order) -> bytes:
            if (order.header.site, order.header.kind) in self.at:
                raise RuntimeError("the machine is gone")
            return answer(vault, order)

        monkeypatch.setattr(Vault, "_answer", failing)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Silent:
    return Silent(monkeypatch)


def watched(federation: SharedFederation) -> tuple[FinishedRun, list[str]]:
    """Run and return what was said after each round."""
    said: list[str] = []
    with progress(lambda number, rounds, words: said.append(words)):
        return federation.start(), said


def weights(run: FinishedRun) -> bytes:
    return (run.path / "model/weights.safetensors").read_bytes()


def run_of(federation: SharedFederation) -> str:
    database = Coordinator.open(federation.home).database()
    try:
        return database.runs()[-1].id
    finally:
        database.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights when nobody drops out."""
    return weights(droppable(tmp_path_factory.mktemp("whole") / "home", releases=False).start())


@pytest.mark.parametrize("step", ["agree", "open"])
def test_whoever_sent_a_vector_and_then_drops_out_is_in_the_sum(
    tmp_path: Path, silent: Silent, whole: bytes, step: str
) -> None:
    federation = droppable(tmp_path / "home", releases=False)
    silent.at = {("hungarian", step)}
    run, said = watched(federation)
    assert said == ["4 of 4 hospitals"] * ROUNDS
    assert weights(run) == whole


@pytest.mark.parametrize("step", ["setup", "train"])
def test_whoever_sends_no_vector_is_left_out_and_pays_nothing(
    tmp_path: Path, silent: Silent, whole: bytes, step: str
) -> None:
    federation = droppable(tmp_path / "home", releases=False)
    silent.at = {("hungarian", step)}
    run, said = watched(federation)
    assert said == ["3 of 4 hospitals"] * ROUNDS
    assert weights(run) != whole
    assert federation.charges()["hungarian"] == []
    assert len(federation.charges()["va"]) == ROUNDS
    statement = json.loads((run.path / "privacy/statement.json").read_bytes())
    assert float(statement["sites"]["va"]["epsilon"]) <= 6.0


def test_a_hospital_that_comes_back_takes_part_again(tmp_path: Path, silent: Silent) -> None:
    federation = droppable(tmp_path / "home", releases=False)
    silent.at = {("hungarian", "train")}
    said: list[str] = []

    def after(number: int, rounds: int, words: str) -> None:
        said.append(words)
        silent.at = set()

    with progress(after):
        federation.start()
    assert said == ["3 of 4 hospitals", *["4 of 4 hospitals"] * (ROUNDS - 1)]


@pytest.mark.parametrize("step", ["train", "agree", "open"])
def test_below_the_threshold_the_round_stops_by_name_and_goes_on_later(
    tmp_path: Path, silent: Silent, whole: bytes, step: str
) -> None:
    federation = droppable(tmp_path / "home", releases=False)
    silent.at = {("hungarian", step), ("va", step)}
    with pytest.raises(RunError) as caught:
        federation.start()
    assert re.search(r"hungarian refused .*va refused", caught.value.message)
    silent.at = set()
    assert weights(federation.resume(run_of(federation))) == whole
    assert all(len(charges) == ROUNDS for charges in federation.charges().values())


def test_whose_vectors_a_sum_has_does_not_change_after_somebody_was_asked_to_sign(
    tmp_path: Path, silent: Silent
) -> None:
    """Otherwise two sums of one round would differ by what one hospital sent."""
    federation = droppable(tmp_path / "home", releases=False)
    silent.at = {("va", "train"), *((site, "agree") for site in FOUR)}
    with pytest.raises(RunError, match="Survivors 1"):
        federation.start()
    silent.at = set()
    said: list[str] = []
    with progress(lambda number, rounds, words: said.append(words)):
        federation.resume(run_of(federation))
    assert said == ["3 of 4 hospitals", *["4 of 4 hospitals"] * (ROUNDS - 1)]


def test_a_smaller_threshold_needs_more_noise_of_each(federation: SharedFederation) -> None:
    document = federation.document
    assert document.honest_nodes == 2
    assert pld_epsilon(document.all_events, 1e-5) <= 6.0
    noise = document.round_event
    assert float(noise.noise_multiplier) == pytest.approx(
        2**0.5 * float(noise.alone_noise_multiplier or 0), rel=1e-3
    )


@pytest.mark.parametrize(("threshold", "colluders"), [(2, 1), (3, 2)])
def test_a_threshold_that_lets_two_sums_open_is_refused(
    tmp_path: Path, threshold: int, colluders: int
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        droppable(tmp_path / "home", threshold=threshold, colluders=colluders)
    assert caught.value.code == "SB-103"


def test_a_coordinator_that_dies_after_it_opened_a_sum_opens_the_same_again(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = droppable(tmp_path / "home", releases=False)
    close, died = Database.close_round, [False]

    def dies(database: Database, *words: Any, **more: Any) -> None:
        if not died[0]:
            died[0] = True
            raise KeyboardInterrupt
        close(database, *words, **more)

    monkeypatch.setattr(Database, "close_round", dies)
    with pytest.raises(KeyboardInterrupt):
        federation.start()
    assert not list((federation.home / "runs" / run_of(federation) / "vectors").glob("*"))
    assert weights(federation.resume(run_of(federation))) == whole
    assert all(len(charges) == ROUNDS for charges in federation.charges().values())
