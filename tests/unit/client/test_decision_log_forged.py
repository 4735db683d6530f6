"""Claims about a log that somebody cut, set back, added to or removed: it is found, and the node stops."""

import datetime as dt
import shutil
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.log.check import is_logged
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import DecisionLog, LogPlace, read_entries
from solblom_client.state import create_state
from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.transparency import subtrees
from unit.client.decision_lab import KEY, NOW, ORDER, change, cut, fill, log_place_in, problems


@pytest.fixture
def place(tmp_path: Path) -> LogPlace:
    return log_place_in(tmp_path)


@pytest.fixture
def log(place: LogPlace) -> DecisionLog:
    return DecisionLog(place, KEY)


@pytest.mark.parametrize("has_state", [True, False])
def test_a_cut_log_with_emptied_checkpoints_stops_the_node(
    log: DecisionLog, place: LogPlace, has_state: bool
) -> None:
    place = place if has_state else LogPlace(place.folder, place.site, place.anchor)
    log = DecisionLog(place, KEY)
    fill(log, 9)
    cut(place, 4)
    for path in place.checkpoints:
        path.write_text("")
    assert problems(place)
    with pytest.raises(IntegrityError) as error:
        fill(log, 1)
    assert error.value.code == "SB-406"


def test_a_cut_log_with_both_checkpoints_of_then_stops_the_node(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 4)
    older = {path: path.read_bytes() for path in place.checkpoints}
    fill(log, 5)
    cut(place, 4)
    for path, data in older.items():
        path.write_bytes(data)
    assert problems(place) == ("The log has 4 entries, the vault's state 9: it was cut",)
    with pytest.raises(IntegrityError, match="4 entries; 9 were signed"):
        fill(log, 1)


def test_a_log_that_was_removed_with_its_copy_does_not_begin_anew(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 5)
    log.close()
    shutil.rmtree(place.folder)
    place.checkpoints[1].unlink()
    assert problems(place) == ("There is no log; 5 entries were signed",)
    with pytest.raises(IntegrityError, match="0 entries; 5 were signed"):
        fill(log, 1)


def test_an_empty_log_beside_charges_stops_the_node(log: DecisionLog, place: LogPlace) -> None:
    assert place.state is not None
    state = sqlite3.connect(place.state)
    with state:
        state.execute(
            "INSERT INTO events VALUES (1, 's', 'r', 'train', 1, 'q', NULL, 'spent', '{}', 'now')"
        )
    state.close()
    assert problems(place) == ("There is no log, and the ledger has charges",)
    with pytest.raises(IntegrityError, match="the ledger has charges"):
        fill(log, 1)


def test_a_copy_beside_the_anchor_that_is_gone_stops_the_node(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 5)
    place.checkpoints[1].unlink()
    assert any("no checkpoint" in problem for problem in problems(place))
    with pytest.raises(IntegrityError, match="gone"):
        fill(log, 1)


def test_an_anchor_that_is_named_later_gets_its_copy(place: LogPlace) -> None:
    fill(DecisionLog(LogPlace(place.folder, place.site, None, place.state), KEY), 3)
    assert problems(place) == ()
    fill(DecisionLog(place, KEY), 1)
    assert place.checkpoints[1].is_file()
    assert problems(place) == ()


@pytest.mark.parametrize("has_state", [True, False])
def test_an_entry_that_nobody_signed_is_found_and_never_signed(
    place: LogPlace, tmp_path: Path, has_state: bool
) -> None:
    place = place if has_state else LogPlace(place.folder, place.site, place.anchor)
    log = DecisionLog(place, KEY)
    fill(log, 4)
    log.close()
    forger = LogPlace(place.folder, place.site, None)
    (tmp_path / "kept").write_bytes(place.checkpoints[0].read_bytes())
    forged = Decision("manual-release", work=ORDER, by="Dr Forged")
    DecisionLog(forger, KEY).append(forged, now=NOW)  # the same tables, whole; its checkpoint goes
    place.checkpoints[0].write_bytes((tmp_path / "kept").read_bytes())
    assert any("1 entries stand after" in p or "longer" in p for p in problems(place))
    with pytest.raises(IntegrityError, match="5 entries; 4 were signed"):
        fill(log, 1)


def test_a_note_in_the_state_that_this_key_did_not_sign_stops_the_node(
    log: DecisionLog, place: LogPlace, tmp_path: Path
) -> None:
    fill(log, 4)
    assert place.state is not None
    create_state(tmp_path / "other.sqlite", {})
    other = LogPlace(tmp_path / "other", place.site, None, tmp_path / "other.sqlite")
    fill(DecisionLog(other, Ed25519PrivateKey.generate()), 4)
    shutil.copy(tmp_path / "other.sqlite", place.state)
    assert any("does not hold" in problem for problem in problems(place))
    with pytest.raises(IntegrityError, match="does not hold"):
        fill(log, 1)


def test_oldest_entries_that_are_gone_without_pruned_are_found(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 9)
    change(place, "DELETE FROM entries WHERE seq < 5")
    change(place, "INSERT INTO facts VALUES ('first', 5)")
    for level in range(4):
        for at in range(5 >> level):
            if (level, at) not in subtrees(5):
                change(place, "DELETE FROM nodes WHERE level = ? AND place = ?", level, at)
    assert problems(place) == ("The oldest 5 entries are gone; by the log, 0 were pruned",)
    with pytest.raises(IntegrityError, match="oldest entries"):
        fill(log, 1)


def test_more_than_was_pruned_may_not_be_gone(log: DecisionLog, place: LogPlace) -> None:
    fill(log, 3, days=-500)
    fill(log, 5)
    log.prune(NOW - dt.timedelta(days=400), now=NOW)
    assert problems(place) == ()
    change(place, "DELETE FROM entries WHERE seq < 4")
    change(place, "DELETE FROM nodes WHERE level = 0 AND place = 2")
    change(place, "UPDATE facts SET value = 4")
    assert any("4 entries are gone; by the log, 3" in problem for problem in problems(place))


@pytest.mark.parametrize("old", [0, 1, 5, 6, 7, 8])
def test_what_is_logged_is_found_and_what_was_changed_is_not(
    log: DecisionLog, place: LogPlace, old: int
) -> None:
    fill(log, old, days=-500)
    for number in range(7):
        work = f"sha256:{number:064x}"
        log.append(Decision("manual-reject", work=work), now=NOW)
    log.prune(NOW - dt.timedelta(days=400), now=NOW)
    for number in range(7):
        work = f"sha256:{number:064x}"
        assert is_logged(place, "manual-reject", work)
        assert not is_logged(place, "manual-release", work)
    change(place, "UPDATE entries SET entry = replace(entry, 'manual-reject', 'manual-release')")
    assert not is_logged(place, "manual-release", f"sha256:{3:064x}")


def test_a_newest_batch_that_was_cut_with_both_checkpoints_is_put_back(
    log: DecisionLog, place: LogPlace
) -> None:
    fill(log, 4)
    older = {path: path.read_bytes() for path in place.checkpoints}
    log.append(Decision("manual-release", work=ORDER, by="Kari Nordmann"), now=NOW)
    cut(place, 4)
    for path, data in older.items():
        path.write_bytes(data)
    fill(log, 1)
    assert is_logged(place, "manual-release", ORDER)
    assert len(read_entries(place)) == 6
    assert problems(place) == ()
