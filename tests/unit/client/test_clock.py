"""The newest moment that a node has seen: kept on disk, never silently set back, put right by a person alone."""

import datetime as dt
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lab import NOW, LabHospital, study_document
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.clock import latest_time, note_time, pass_clock
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.state import VaultState
from solblom_protocol.cli import app
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.result import Result as Update

Solblom = Callable[..., Result]
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def state(hospital: LabHospital) -> Iterator[VaultState]:
    opened = VaultState(hospital.config.state / STATE_FILE)
    yield opened
    opened.close()


@pytest.fixture
def solblom(monkeypatch: pytest.MonkeyPatch) -> Solblom:
    def invoke(*arguments: str | Path) -> Result:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["solblom", *words])
        return CliRunner().invoke(app, words)

    return invoke


def test_a_new_node_has_seen_no_moment(state: VaultState) -> None:
    assert latest_time(state) is None
    pass_clock(state, NOW)
    assert latest_time(state) == NOW


def test_moments_are_noted_once_a_minute_and_never_backwards(state: VaultState) -> None:
    for moment in (NOW, NOW + MINUTE / 2, NOW - MINUTE):
        note_time(state, moment)
        assert latest_time(state) == NOW
    note_time(state, NOW + MINUTE)
    assert latest_time(state) == NOW + MINUTE


def test_five_minutes_behind_is_the_most(state: VaultState) -> None:
    pass_clock(state, NOW)
    pass_clock(state, NOW - 5 * MINUTE)
    with pytest.raises(RefusedError) as caught:
        pass_clock(state, NOW - 5 * MINUTE - MINUTE / 60)
    assert caught.value.code == "SB-206"


def test_a_state_of_before_moments_were_noted_goes_by_its_orders(
    hospital: LabHospital, state: VaultState
) -> None:
    study = study_document()
    hospital.approve(study)
    assert isinstance(hospital.ask(hospital.order(study)), Update)
    with state.transaction():
        state.execute("DELETE FROM meta WHERE key = 'clock'", ())
    assert latest_time(state) == NOW


def test_a_moment_that_cannot_be_read_stops_the_node(state: VaultState) -> None:
    with state.transaction():
        state.execute("INSERT INTO meta VALUES ('clock', 'yesterday')", ())
    with pytest.raises(IntegrityError) as caught:
        pass_clock(state, NOW)
    assert caught.value.code == "SB-402"


def test_a_person_puts_right_a_clock_that_ran_ahead_and_it_is_logged(
    hospital: LabHospital, state: VaultState, solblom: Solblom
) -> None:
    note_time(state, dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
    shown = solblom("node", "clock", hospital.folder, "--json")
    told = json.loads(shown.stdout)
    assert (shown.exit_code, told["behind"], told["seen"]) == (1, True, "2099-01-01T00:00:00Z")
    done = solblom("node", "clock", hospital.folder, "--accept", "--json")
    assert (done.exit_code, json.loads(done.stdout)["accepted"]) == (0, True)
    assert solblom("node", "clock", hospital.folder).exit_code == 0
    entries = [json.loads(line) for line in read_entries(log_place(hospital.config))]
    assert "clock-accepted" in [entry["event"] for entry in entries]
