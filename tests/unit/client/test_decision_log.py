"""Claims about the log of decisions: what is written stays, what is changed is found, what repeats is counted."""

import datetime as dt
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.log.check import verify_log
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import LOG_FILE, DecisionLog, LogPlace, read_entries
from solblom_client.log.memory import LogMemory
from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.transparency import head_of, read_checkpoint
from unit.client.decision_lab import KEY, NOW, ORDER, change, cut, fill, log_place_in, problems


@pytest.fixture
def place(tmp_path: Path) -> LogPlace:
    return log_place_in(tmp_path)


@pytest.fixture
def log(place: LogPlace) -> DecisionLog:
    return DecisionLog(place, KEY)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 20])
def test_the_root_is_that_of_the_entries_as_they_stand(place: LogPlace, count: int) -> None:
    log = DecisionLog(place, KEY)
    fill(log, count)
    entries = [entry.encode() for entry in read_entries(place)]
    assert len(entries) == count
    report = verify_log(place, KEY.public_key())
    assert report.problems == ()
    assert report.root == head_of(entries).text
    if count:
        for path in place.checkpoints:
            head = read_checkpoint(path.read_text("utf-8"), place.origin, KEY.public_key())
            assert head == head_of(entries)


def test_entries_are_numbered_and_hold_what_was_decided(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 2)
    assert [json.loads(entry) for entry in read_entries(place)] == [
        {"seq": n, "time": f"2026-11-22T12:0{n}:00Z", "event": "accepted", "order": ORDER, "round": n + 1}
        for n in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize("seq", [0, 3, 6])
def test_a_changed_entry_is_found(log: DecisionLog, place: LogPlace, seq: int) -> None:
    fill(log, 7)
    change(place, "UPDATE entries SET entry = replace(entry, 'accepted', 'released') WHERE seq = ?", seq)  # fmt: skip
    assert any("not those" in problem for problem in problems(place))


@pytest.mark.parametrize("seq", [0, 3])
def test_a_removed_entry_is_found(log: DecisionLog, place: LogPlace, seq: int) -> None:
    fill(log, 7)
    change(place, "DELETE FROM entries WHERE seq = ?", seq)
    assert any("missing" in problem for problem in problems(place))


def test_entries_that_are_moved_up_to_close_the_gap_are_found(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 7)
    change(place, "DELETE FROM entries WHERE seq = 3")
    for seq in (4, 5, 6):
        change(place, "UPDATE entries SET seq = ? WHERE seq = ?", seq - 1, seq)
    assert problems(place)


def test_a_log_that_was_cut_is_found_and_stops_the_node(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 7)
    change(place, "DELETE FROM entries WHERE seq = 6")
    assert any("it was cut" in problem for problem in problems(place))
    with pytest.raises(IntegrityError, match="6 entries; 7 were signed") as error:
        fill(log, 1)
    assert error.value.code == "SB-406"


def test_a_log_rolled_back_with_its_checkpoint_is_found_by_the_copy_beside_the_anchor(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 5)
    log.close()
    before = {path: path.read_bytes() for path in place.folder.iterdir()}
    fill(log, 2)
    log.close()
    for path, data in before.items():
        path.write_bytes(data)
    assert any("anchor.json.log" in problem for problem in problems(place))
    with pytest.raises(IntegrityError):
        fill(log, 1)


def test_a_restored_log_goes_on_once_a_person_has_said_so(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 5)
    log.close()
    backup = {path: path.read_bytes() for path in place.folder.iterdir()}
    fill(log, 2)
    log.close()
    for path, data in backup.items():
        path.write_bytes(data)
    place.checkpoints[1].unlink()
    with pytest.raises(IntegrityError, match="5 entries; 7 were signed"):
        fill(log, 1)
    log.accept(by="Kari Nordmann", now=NOW)
    fill(log, 1)
    assert problems(place) == ()
    entries = [json.loads(entry) for entry in read_entries(place)]
    assert len(entries) == 7
    assert (entries[5]["event"], entries[5]["by"]) == ("log-accepted", "Kari Nordmann")


def test_a_log_that_is_gone_is_found(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 5)
    (place.folder / LOG_FILE).unlink()  # while it is open
    assert problems(place)
    with pytest.raises(IntegrityError):
        fill(log, 1)


def test_a_checkpoint_that_is_gone_stops_the_node(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 5)
    place.checkpoints[0].unlink()
    with pytest.raises(IntegrityError, match="gone"):
        fill(log, 1)


def test_a_checkpoint_of_another_key_is_found(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 5)
    assert verify_log(place, Ed25519PrivateKey.generate().public_key()).problems


def test_a_changed_hash_of_a_subtree_is_found(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 7)
    change(place, "UPDATE nodes SET hash = ? WHERE level = 2 AND place = 0", b"\0" * 32)
    assert problems(place)
    with pytest.raises(IntegrityError):
        DecisionLog(place, KEY).append(Decision("paused"), now=NOW)


# --- A crash


class PowerCutError(Exception):
    """The machine stops here."""


def dies_at(
    monkeypatch: pytest.MonkeyPatch, step: str, log: DecisionLog, before: Any = lambda *_: None
) -> None:
    """Append two entries, and stop at a step of the log's module, once `before` was done."""

    def dies(*words: Any) -> None:
        before(*words)
        raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(f"solblom_client.log.decision_log.{step}", dies)
        with pytest.raises(PowerCutError):
            log.append(Decision("received"), Decision("accepted", order=ORDER), now=NOW)


def test_an_entry_without_its_checkpoint_after_a_crash_is_no_fault(
    log: DecisionLog, place: LogPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 4)
    dies_at(monkeypatch, "DecisionLog._publish", log)
    assert len(read_entries(place)) == 6
    assert problems(place) == ()
    log = DecisionLog(place, KEY)
    for _ in range(2):  # a second crash at the same place
        dies_at(monkeypatch, "LogMemory.write", log)
    fill(log, 1)
    assert problems(place) == ()
    assert len(read_entries(place)) == 7


def test_a_batch_that_was_noted_before_a_crash_is_put_in_by_the_next_append(
    log: DecisionLog, place: LogPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 4)
    dies_at(monkeypatch, "LogMemory.write", log, before=LogMemory.write)
    assert len(read_entries(place)) == 4
    assert problems(place) == ()
    DecisionLog(place, KEY).append(Decision("paused"), now=NOW)
    events = [json.loads(entry)["event"] for entry in read_entries(place)]
    assert events[4:] == ["received", "accepted", "paused"]
    assert problems(place) == ()


class StateGoneError(Exception):
    """The transaction of a charge did not come about."""


def charge(log: DecisionLog, state: VaultState, *, fails: bool = False) -> None:
    """Log a charge in a transaction of the state, as the ledger does."""
    decisions = Decision("received", order=ORDER), Decision("reserved", order=ORDER)
    with log.with_charge(*decisions, now=NOW) as note, state.transaction():
        state.execute("INSERT INTO meta VALUES ('charge', 'made')", ())
        note(state)
        if fails:
            raise StateGoneError


def three_entries_and_a_charge(log: DecisionLog, place: LogPlace) -> None:
    """Publish three entries, then log a charge of two, and let go of the files."""
    fill(log, 3)
    state = VaultState(place.state or Path())
    charge(log, state)
    state.close()
    log.close()


def charges(state: VaultState) -> int:
    return len(state.query("SELECT value FROM meta WHERE key = 'charge'"))


def test_a_charge_and_its_entries_stand_together(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 3)
    state = VaultState(place.state or Path())
    charge(log, state)
    assert charges(state) == 1
    assert len(read_entries(place)) == 5
    assert problems(place) == ()
    fill(log, 1)
    for path in place.checkpoints:
        head = read_checkpoint(path.read_text("utf-8"), place.origin, KEY.public_key())
        assert head == head_of([entry.encode() for entry in read_entries(place)])
    state.close()


def test_a_charge_that_does_not_come_about_is_not_logged(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 3)
    state = VaultState(place.state or Path())
    with pytest.raises(StateGoneError):
        charge(log, state, fails=True)
    assert (charges(state), len(read_entries(place)), problems(place)) == (0, 3, ())
    fill(log, 1)
    assert problems(place) == ()
    state.close()


def test_a_charge_whose_entries_are_not_noted_is_refused(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 3)
    unnoted = log.with_charge(Decision("reserved", order=ORDER), now=NOW)
    with pytest.raises(IntegrityError, match="without its entries"), unnoted:
        pass
    assert len(read_entries(place)) == 3


@pytest.mark.parametrize("kept", [3, 4, 5])
def test_entries_of_a_charge_that_a_crash_kept_out_are_put_in_again(
    log: DecisionLog, place: LogPlace, kept: int
) -> None:
    three_entries_and_a_charge(log, place)
    cut(place, kept)
    assert problems(place) == ()
    DecisionLog(place, KEY).append(Decision("paused"), now=NOW)
    events = [json.loads(entry)["event"] for entry in read_entries(place)]
    assert events[3:] == ["received", "reserved", "paused"]
    assert problems(place) == ()


def test_a_charge_that_is_the_first_entry_lets_the_node_go_on(
    log: DecisionLog, place: LogPlace
) -> None:
    state = VaultState(place.state or Path())
    charge(log, state)  # whoever approved the study died before that was logged
    state.close()
    log.append(Decision("paused"), now=NOW)
    events = [json.loads(entry)["event"] for entry in read_entries(place)]
    assert events == ["received", "reserved", "paused"]
    assert problems(place) == ()


def test_entries_of_a_charge_are_synced_before_a_checkpoint_signs_them(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 3)
    state = VaultState(place.state or Path())
    charge(log, state)  # its own commit is not synced
    journal = place.folder / f"{LOG_FILE}-wal"
    before = journal.stat().st_size
    assert DecisionLog(place, KEY).prune(NOW - dt.timedelta(days=9), now=NOW) == 0
    note = place.checkpoints[0].read_text("utf-8")
    assert read_checkpoint(note, place.origin, KEY.public_key()).size == 5
    assert journal.stat().st_size > before  # SQLite syncs no commit that writes nothing
    state.close()


@pytest.mark.parametrize("kept", [1, 2])
def test_a_cut_below_what_was_published_stops_the_node_after_a_charge_too(
    log: DecisionLog, place: LogPlace, kept: int
) -> None:
    three_entries_and_a_charge(log, place)
    cut(place, kept)
    assert problems(place) != ()
    with pytest.raises(IntegrityError):
        fill(DecisionLog(place, KEY), 1)


def test_an_entry_of_a_charge_that_was_changed_stops_the_node(
    log: DecisionLog, place: LogPlace
) -> None:
    three_entries_and_a_charge(log, place)
    change(place, "UPDATE nodes SET hash = ? WHERE level = 0 AND place = 4", bytes(32))
    with pytest.raises(IntegrityError):
        fill(DecisionLog(place, KEY), 1)


def test_a_crash_before_the_tables_are_made_stops_nothing(
    log: DecisionLog, place: LogPlace
) -> None:
    place.folder.mkdir()
    database = sqlite3.connect(place.folder / LOG_FILE, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.close()
    fill(log, 1)
    assert problems(place) == ()


def test_a_checkpoint_is_synced_file_and_folder_before_an_append_returns(
    log: DecisionLog, place: LogPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(log, 1)
    synced, real = set(), os.fsync

    def note(number: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{number}").readlink()))
        real(number)

    monkeypatch.setattr(os, "fsync", note)
    fill(log, 1)
    for path in place.checkpoints:
        assert {str(path.parent), str(path.with_name(f".{path.name}.partial"))} <= synced


# --- Only codes and digests


@pytest.mark.parametrize(
    "text",
    ["north-patient-0001", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "/data/slides/12345678901.svs", ""],
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["study", "order", "request", "work", "receipt", "code", "outside"]
)
def test_no_other_text_than_digests_and_codes_can_be_logged(
    log: DecisionLog, place: LogPlace, name: str, text: str
) -> None:
    with pytest.raises(IntegrityError, match="cannot stand in the log") as error:
        log.append(Decision("refused", **{name: text}), now=NOW)  # type: ignore[arg-type]
    assert text not in error.value.message or not text
    assert read_entries(place) == []


@pytest.mark.parametrize("name", ["Kari Nordmann", "Åse Ødegård-Øye", "O'Hara, P."])
def test_a_person_who_decides_is_named(log: DecisionLog, place: LogPlace, name: str) -> None:
    log.append(Decision("manual-release", by=name), now=NOW)
    assert json.loads(read_entries(place)[0])["by"] == name
    assert problems(place) == ()


@pytest.mark.parametrize("name", ["", "12345678901", "a\nb", "a" * 81, "<b>", "\x1b[31mRed"])
def test_a_name_that_is_none_is_refused(log: DecisionLog, name: str) -> None:
    with pytest.raises(IntegrityError):
        log.append(Decision("manual-release", by=name), now=NOW)


# --- What repeats


def test_what_repeats_within_an_hour_is_counted(log: DecisionLog, place: LogPlace) -> None:
    for _ in range(50):
        log.append(Decision("refused", code="SB-201", outside="SB-201"), now=NOW, often=True)
    assert len(read_entries(place)) == 1
    log.append(Decision("paused"), now=NOW + dt.timedelta(hours=1), often=True)
    counted, paused = (json.loads(entry) for entry in read_entries(place)[1:])
    assert (counted["event"], counted["what"], counted["code"], counted["times"]) == (
        "counted", "refused", "SB-201", 49,
    )  # fmt: skip
    assert paused["event"] == "paused"


def test_a_flood_of_different_orders_is_bounded(log: DecisionLog, place: LogPlace) -> None:
    for number in range(300):
        order = f"sha256:{number:064x}"
        log.append(Decision("received", order=order), now=NOW, often=True)
    assert len(read_entries(place)) == 200
    log.append(Decision("paused"), now=NOW + dt.timedelta(hours=2), often=True)
    counted = json.loads(read_entries(place)[200])
    assert (counted["what"], counted["times"]) == ("others", 100)


def test_bytes_that_left_again_are_named_after_any_flood(
    log: DecisionLog, place: LogPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solblom_client.log.repeats.MOST_KINDS", 9)
    for number in range(20):
        order = f"sha256:{number:064x}"
        log.append(Decision("received", order=order), now=NOW, often=True)
    for number in range(20):
        order = f"sha256:{number:064x}"
        log.append(Decision("again", order=order, request=ORDER), now=NOW, often=True)
    events = [json.loads(entry)["event"] for entry in read_entries(place)]
    assert events == ["received"] * 9 + ["again"]
    log.append(Decision("paused"), now=NOW + dt.timedelta(hours=1), often=True)
    counted = [json.loads(entry) for entry in read_entries(place)[10:-1]]
    assert [(c["what"], c["times"]) for c in counted] == [("again", 19), ("others", 11)]


# --- Retention


@pytest.mark.parametrize("old", [1, 2, 3, 6, 7, 8, 13])
@pytest.mark.parametrize("new", [0, 1, 5])
def test_a_pruned_log_still_verifies_and_goes_on(
    log: DecisionLog, place: LogPlace, old: int, new: int
) -> None:
    fill(log, old, days=-500)
    fill(log, new)
    assert log.prune(NOW - dt.timedelta(days=400), now=NOW) == old
    report = verify_log(place, KEY.public_key())
    assert (report.problems, report.first, report.size) == ((), old, old + new + 1)
    fill(log, 3)
    assert problems(place) == ()
    change(place, "UPDATE entries SET entry = replace(entry, 'accepted', 'released') WHERE seq > ?", old)  # fmt: skip
    assert problems(place)


def test_nothing_young_is_pruned(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 3)
    assert log.prune(NOW - dt.timedelta(days=400), now=NOW) == 0
    assert len(read_entries(place)) == 3


def test_a_pruned_log_that_is_pruned_again_keeps_its_root(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 5, days=-900)
    fill(log, 6, days=-500)
    log.prune(NOW - dt.timedelta(days=800), now=NOW - dt.timedelta(days=500))
    log.prune(NOW - dt.timedelta(days=400), now=NOW)
    report = verify_log(place, KEY.public_key())
    assert (report.problems, report.first) == ((), 12)
