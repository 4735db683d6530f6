"""A run in which one hospital's answers wait for a person: it waits too, asks again, and takes the same bytes."""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from integration.federation import ROUNDS, Federation
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.keys import read_node_keys
from solblom_client.log.decision_log import open_decisions
from solblom_client.outbox.outbox import Outbox, reject, release
from solblom_client.policy import load_node_config
from solblom_client.state import VaultState
from solblom_protocol.errors import RunError
from solblom_server.database import Database
from solblom_server.rounds import exchange
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import FinishedRun

CAREFUL = "va"


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Three hospitals, of which one releases by hand; the coordinator asks it again soon."""
    monkeypatch.setattr(exchange, "FIRST_REST_SECONDS", 0.2)
    monkeypatch.setattr(exchange, "LONGEST_REST_SECONDS", 0.5)
    federation = Federation(tmp_path / "home")
    toml = federation.home / "sites" / CAREFUL / "node.toml"
    text = toml.read_text("utf-8")
    toml.write_text(text.replace('release = "automatic"', 'release = "manual"'), "utf-8")
    return federation


@contextmanager
def person(federation: Federation, *, says_yes: bool) -> Iterator[list[str]]:
    """Somebody at the hospital who decides about what waits, a moment after it does."""
    config = load_node_config(federation.home / "sites" / CAREFUL)
    keys, ended, decided = read_node_keys(config.state), threading.Event(), []

    def look() -> None:
        while not ended.wait(0.3):
            for held in [h for h in Outbox.of(config).all() if h.status == "waiting"]:
                log, state = open_decisions(config, keys), VaultState(config.state / STATE_FILE)
                now = dt.datetime.now(dt.UTC)
                with state.exclusive():
                    if says_yes:
                        release(config, keys, log, held.request, by="Kari Nordmann", now=now)
                    else:
                        reject(config, log, held.request, state=state, by="Kari Nordmann", now=now)
                decided.append(f"{held.kind} {held.round}")
                log.close()
                state.close()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield decided
    finally:
        ended.set()
        thread.join()


def test_a_run_waits_for_the_person_and_ends_with_the_same_model(
    waiting: Federation, finished: FinishedRun
) -> None:
    with person(waiting, says_yes=True) as decided:
        done = waiting.start()
    weights = "model/weights.safetensors"
    assert (done.path / weights).read_bytes() == (finished.path / weights).read_bytes()
    assert decided[:ROUNDS] == [f"train {number}" for number in range(1, ROUNDS + 1)]
    rows = run_report(waiting.home, done.run)["rounds"]
    assert all(CAREFUL in row["results"] and row["refusals"] == {} for row in rows)
    assert waiting.charges()[CAREFUL] == [(n, "spent") for n in range(1, ROUNDS + 1)]


def test_a_rejected_answer_is_a_refusal_by_name(waiting: Federation) -> None:
    with person(waiting, says_yes=False), pytest.raises(RunError) as error:
        waiting.start()
    assert error.value.code == "SB-507"
    assert f"{CAREFUL} refused (SB-220)" in error.value.message


def test_a_hospital_that_says_nothing_is_named_when_the_deadline_has_passed(
    waiting: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    quick = SimpleNamespace(
        monotonic=lambda: began + 600 * (time.monotonic() - began), sleep=time.sleep
    )
    monkeypatch.setattr(exchange, "time", quick)
    with pytest.raises(RunError) as error:
        waiting.start()
    assert error.value.code == "SB-501"
    assert f"{CAREFUL} has not said yes or no (SB-219)" in error.value.message
    database = Database(waiting.home / "coordinator.sqlite")
    (run,) = database.runs()
    database.close()
    assert run_report(waiting.home, run.id)["rounds"][0]["refusals"] == {CAREFUL: "SB-219"}
