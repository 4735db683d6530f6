"""What a hospital changes under its running vault holds from the next order on: rules, keys, log, clock and dates."""

import datetime as dt
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import LabCoordinator, LabHospital, study_document
from security.observer import Observer
from solblom_client import vault as vault_module
from solblom_client.keys import read_node_keys
from solblom_client.log.decision_log import LOG_FILE, log_place, open_decisions, read_entries
from solblom_client.outbox.outbox import Outbox, release
from solblom_client.policy import load_node_config
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.result import Refusal, Result, read_reply
from vault_process import hospital_of_today, running_vault, short_folder

STUDY = study_document()


@pytest.fixture
def north(observer: Observer) -> Observer:
    observer.hospital.approve(STUDY)
    return observer


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a file so that neither its size nor its time tells."""
    before, text = path.stat(), path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tighten(hospital: LabHospital) -> None:
    """Let a person release every answer from now on."""
    rewrite(hospital.folder / "node.toml", "[policy]", '[policy]\nrelease = "manual"')


def during_training(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once the answer is made, and before it leaves."""
    honest = vault_module.Answers.to

    def train_and_more(self: object, *arguments: object) -> object:
        answer = honest(self, *arguments)  # type: ignore[arg-type]
        happens()
        return answer

    monkeypatch.setattr(vault_module.Answers, "to", train_and_more)


# --- node.toml and the coordinator's key


def test_a_rule_that_was_tightened_under_a_running_vault_holds_at_once(north: Observer) -> None:
    hospital = north.hospital
    tighten(hospital)
    north.assert_refused(hospital.order(STUDY), "SB-219")
    hospital.config = load_node_config(hospital.folder)
    hospital.restart()
    waiting = hospital.ask(hospital.order(STUDY))
    assert isinstance(waiting, Refusal)
    assert [held.status for held in Outbox.of(hospital.config).all()] == ["waiting"]


def test_a_change_that_neither_size_nor_time_tells_is_seen(north: Observer) -> None:
    hospital = north.hospital
    rewrite(hospital.folder / "node.toml", "10000000", "10000001")
    north.assert_refused(hospital.order(STUDY), "SB-219")
    rewrite(hospital.folder / "node.toml", "10000001", "10000000")
    assert isinstance(hospital.ask(hospital.order(STUDY)), Result)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_hospital_that_left_answers_its_old_coordinator_no_more(
    north: Observer, how: str
) -> None:
    key = north.hospital.folder / "coordinator.pub"
    if how == "removed":  # as `node leave` does
        key.unlink()
    else:
        key.write_bytes(LabCoordinator().public.to_bytes())
    north.assert_refused(north.hospital.order(STUDY), "SB-219")
    north.assert_refused(north.hospital.order(STUDY, kind="evaluate"), "SB-219")


def test_a_rule_that_was_tightened_during_training_keeps_the_answer_inside(
    north: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, order = north.hospital, north.hospital.order(STUDY)
    with monkeypatch.context() as patch:
        during_training(patch, lambda: tighten(hospital))
        assert north.refusal(order)["code"] == "SB-219"
    assert (hospital.charges(), north.strikes(STUDY.digest)) == (1, 0)
    hospital.config = load_node_config(hospital.folder)
    hospital.restart()
    assert north.refusal(order)["code"] == "SB-219"
    assert [held.status for held in Outbox.of(hospital.config).all()] == ["waiting"]
    assert hospital.charges() == 1


def test_rules_with_a_fault_open_no_vault_and_let_nothing_out(north: Observer) -> None:
    hospital = north.hospital
    path = hospital.folder / "node.toml"
    honest = path.read_bytes()
    path.write_bytes(honest[: len(honest) // 2])
    assert not hospital.vault.rules.others_are_ready
    north.assert_refused(hospital.order(STUDY), "SB-219")
    path.write_bytes(honest + b"\n")
    assert hospital.vault.rules.others_are_ready
    north.assert_refused(hospital.order(STUDY), "SB-219")


@pytest.mark.parametrize("by_hand", [False, True])
def test_bytes_that_are_sealed_to_a_coordinator_of_before_do_not_leave_again(
    north: Observer, by_hand: bool
) -> None:
    hospital, before = north.hospital, north.hospital.coordinator
    if by_hand:
        north.edit_config("[policy]", '[policy]\nrelease = "manual"')
    first = hospital.vault.process(hospital.order(STUDY))
    hospital.coordinator = LabCoordinator()
    (hospital.folder / "coordinator.pub").write_bytes(hospital.coordinator.public.to_bytes())
    hospital.restart()
    if by_hand:
        (held,) = Outbox.of(hospital.config).all()
        assert held.destination == before.public.key_id
        keys = read_node_keys(hospital.config.state)
        log = open_decisions(hospital.config, keys)
        with pytest.raises(RefusedError, match="bytes"):
            release(
                hospital.config, keys, log, held.request, by="Kari Nordmann", now=hospital.clock()
            )
        log.close()
        north.assert_refused(hospital.order(STUDY, attempt=2), "SB-219")
        return
    again = hospital.ask(hospital.order(STUDY, attempt=2))
    assert isinstance(again, Result)
    was = read_reply(first, key=before.sealing, node=hospital.public.signing)
    assert isinstance(was, Result)
    assert (
        again.update == was.update
    )  # the same work: the same noise, as after a reply that was lost


# --- The log of decisions


def test_a_log_that_was_replaced_under_a_running_vault_stops_it(north: Observer) -> None:
    hospital = north.hospital
    assert isinstance(hospital.ask(hospital.order(STUDY)), Result)
    path = hospital.config.state / "log" / LOG_FILE
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)
    read_entries(
        log_place(hospital.config)
    )  # SQLite then takes the journal that belongs to the other file
    north.assert_refused(hospital.order(STUDY, round=2), "SB-214")
    assert "SB-406" in str(north.log()[-1])
    hospital.restart()
    reply = hospital.ask(hospital.order(STUDY, round=2))
    left = "".join(read_entries(log_place(hospital.config))).count('"event":"released"')
    assert left == 1 + isinstance(
        reply, Result
    )  # nothing leaves of which the log on disk knows nothing


def test_an_older_log_that_was_put_under_a_running_vault_lets_nothing_out(north: Observer) -> None:
    hospital = north.hospital
    path = hospital.config.state / "log" / LOG_FILE
    shutil.copy(path, path.with_suffix(".copy"))
    assert isinstance(hospital.ask(hospital.order(STUDY)), Result)
    path.with_suffix(".copy").replace(path)
    charges = hospital.charges()
    assert isinstance(hospital.ask(hospital.order(STUDY, round=2)), Refusal)
    assert hospital.charges() == charges
    assert isinstance(hospital.ask(hospital.order(STUDY)), Refusal)


# --- Clock and dates


def test_a_clock_that_is_set_back_during_training_revives_no_consent(
    north: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = north.hospital
    long_ago = (hospital.clock() - dt.timedelta(days=20)).timestamp()
    os.utime(hospital.folder / "consent.csv", (long_ago, long_ago))
    during_training(monkeypatch, lambda: hospital.clock.advance(days=-10))
    assert north.refusal(hospital.order(STUDY))["code"] == "SB-209"


def test_a_study_that_ends_during_training_gives_no_answer(
    north: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = north.hospital
    hospital.clock.now = dt.datetime(2027, 12, 31, 23, 59, tzinfo=dt.UTC)
    hospital.write_consent([])
    during_training(monkeypatch, lambda: hospital.clock.advance(minutes=2))
    assert north.refusal(hospital.order(STUDY))["code"] == "SB-209"


# --- The vault as a process


def test_the_vaults_process_ends_when_there_are_new_rules_to_open_it_with() -> None:
    with short_folder() as folder:
        hospital, _ = hospital_of_today(folder)
        path = folder / "node.toml"
        honest = path.read_bytes()
        with running_vault(folder) as vault:
            vault.wait_until_ready()
            path.write_bytes(honest[: len(honest) // 2])  # somebody is still writing
            time.sleep(3)
            assert vault.process.poll() is None
            path.write_bytes(honest)
            tighten(hospital)
            assert vault.wait() == 75  # whoever supervises starts it again
