"""The ledger's chain while it is open: what others write is found, and what is new alone is compared otherwise."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from solblom_client.budget.anchor import Anchor
from solblom_client.budget.ledger import Ledger
from solblom_client.state import VaultState, create_state
from solblom_protocol.errors import IntegrityError
from unit.client.test_ledger import LIMITS, NOW, POLICY, open_ledger, request, reserve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    create_state(tmp_path / "state" / "vault.sqlite", Ledger.initial_meta(POLICY))
    return tmp_path / "state" / "vault.sqlite"


@pytest.fixture
def ledger(file: Path) -> Ledger:
    ledger = open_ledger(file)
    for number in range(4):
        ledger.bind(reserve(ledger, f"request-{number}"), "sha256:" + f"{number:064x}")
    return ledger


def change(file: Path, sql: str) -> None:
    """Write to the ledger through another connection, while it is open here."""
    with sqlite3.connect(file) as database:
        database.execute(sql)
    database.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE journal SET entry = replace(entry, 'request-0', 'request-9') WHERE id = 1",
        "UPDATE journal SET head = 'sha256:' || hex(randomblob(32)) WHERE id = 1",
        "DELETE FROM journal WHERE id = 1",
        "DELETE FROM journal WHERE id > 6",
        "UPDATE events SET event = replace(event, '2.0000', '9.0000') WHERE id = 1",
        "UPDATE events SET study = 'another' WHERE id = 1",
        "UPDATE events SET work = NULL WHERE id = 1",
        "DELETE FROM events WHERE id = 1",
        "DELETE FROM events WHERE id = 4",
        "INSERT INTO events SELECT 9, study, run, kind, round, request, work, status, event, reserved_at"
        " FROM events WHERE id = 1",
        "INSERT INTO events SELECT 0, study, run, kind, round, 'free', work, status, event, reserved_at"
        " FROM events WHERE id = 1",
        "INSERT INTO events SELECT -5, study, run, kind, round, 'free', NULL, status, event, reserved_at"
        " FROM events WHERE id = 1",
        "INSERT INTO journal SELECT -5, entry, head FROM journal WHERE id = 1",
        "UPDATE journal SET id = -id",
        "UPDATE events SET id = -id",
    ],
)
def test_what_another_process_changed_in_old_rows_stops_the_next_charge(
    ledger: Ledger, file: Path, sql: str
) -> None:
    change(file, sql)
    with pytest.raises(IntegrityError) as error:
        reserve(ledger, "next")
    assert error.value.code == "SB-402"
    state = VaultState(file)
    assert state.query("SELECT id FROM events WHERE request = 'next'") == []


def test_a_change_that_is_taken_back_lets_the_ledger_go_on(ledger: Ledger, file: Path) -> None:
    change(file, "UPDATE events SET work = work || 'x' WHERE id = 1")
    with pytest.raises(IntegrityError):
        reserve(ledger, "next")
    change(file, "UPDATE events SET work = rtrim(work, 'x') WHERE id = 1")
    assert reserve(ledger, "next").id == 5


def test_a_charge_that_was_undone_is_no_part_of_the_chain(ledger: Ledger) -> None:
    def fails(_: VaultState) -> None:
        ledger.check_anchor()  # takes in the row that is about to be undone
        raise OSError("the disk is full")

    before = ledger.check_anchor()
    with pytest.raises(OSError, match="full"):
        ledger.reserve(request("undone"), policy=POLICY, limits=LIMITS, now=NOW, beside=fails)
    assert ledger.check_anchor() == before
    assert reserve(ledger, "another").id == 5
    assert ledger.check_anchor().count == before.count + 1


def test_charges_of_two_open_ledgers_are_one_chain_and_one_budget(
    ledger: Ledger, file: Path
) -> None:
    other = open_ledger(file)
    for number in range(2):
        reserve((ledger, other)[number], f"more-{number}", study="another")
    assert ledger.check_anchor() == other.check_anchor() == open_ledger(file).check_anchor()
    assert sum(ledger._chain.spending.values()) == sum(other._chain.spending.values()) == 6


def test_a_state_that_was_replaced_under_a_running_node_stops_it(
    ledger: Ledger, file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copy(file, copy)
    copy.replace(file)
    with pytest.raises(IntegrityError, match="replaced"):
        reserve(ledger, "next")


def test_a_charge_below_the_first_row_is_no_charge_that_a_new_node_finds(
    ledger: Ledger, file: Path
) -> None:
    change(
        file,
        "INSERT INTO events SELECT -5, study, run, kind, round, 'free', NULL, 'reserved', event,"
        " reserved_at FROM events WHERE id = 1",
    )
    for opened in (ledger, open_ledger(file)):  # it would be worked on, and cost nothing
        assert opened.find("free") is not None
        with pytest.raises(IntegrityError, match="not those of its chain"):
            opened.confirm()


def without_anchor(file: Path) -> Ledger:
    return Ledger(VaultState(file), Anchor(None))


@pytest.mark.parametrize("charges_since", [1, 3])
def test_a_state_that_was_set_back_in_its_place_stops_a_running_node_without_an_anchor(
    file: Path, charges_since: int
) -> None:
    ledger = without_anchor(file)
    reserve(ledger, "first")
    backup = file.read_bytes()
    for number in range(charges_since):
        reserve(ledger, f"since-{number}", study="another")
    file.write_bytes(backup)
    with pytest.raises(IntegrityError, match="rolled back"):
        reserve(ledger, "next")


def test_a_state_that_was_set_back_and_charged_otherwise_stops_a_running_node(file: Path) -> None:
    ledger = without_anchor(file)
    reserve(ledger, "first")
    backup = file.read_bytes()
    reserve(ledger, "since", study="another")
    file.write_bytes(backup)
    for number in range(2):
        reserve(without_anchor(file), f"otherwise-{number}", study="another")
    with pytest.raises(IntegrityError, match="not the one of what this process put there"):
        reserve(ledger, "next")
