"""The anchor outside the state folder: a ledger that was rolled back or altered stops the node."""

import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from lab import LabHospital, study_document
from solblom_client.budget.anchor import EMPTY_HEAD, Anchor, LedgerHead
from solblom_protocol import durable_file
from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.result import Refusal, Result


@pytest.fixture
def anchored(tmp_path: Path) -> LabHospital:
    return LabHospital(tmp_path / "north", anchor="../anchor.json")


def test_a_state_folder_restored_from_a_backup_stops_the_node(anchored: LabHospital) -> None:
    study = study_document()
    anchored.approve(study)
    backup = anchored.folder / "backup"
    shutil.copytree(anchored.config.state, backup)
    assert isinstance(anchored.ask(anchored.order(study)), Result)
    anchored.vault.close()
    shutil.rmtree(anchored.config.state)
    shutil.copytree(backup, anchored.config.state)
    anchored.vault = anchored.open_vault()
    refusal = anchored.ask(anchored.order(study, round=2))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "SB-214"
    with pytest.raises(IntegrityError, match="rolled back"):
        anchored.vault.ledger.check_anchor()


def test_a_crash_between_charge_and_anchor_is_no_rollback(anchored: LabHospital) -> None:
    study = study_document()
    anchored.approve(study)
    anchored.ask(anchored.order(study))
    anchor = anchored.folder.parent / "anchor.json"
    old = anchor.read_bytes()
    anchored.ask(anchored.order(study, round=2))
    anchor.write_bytes(old)
    assert isinstance(anchored.ask(anchored.order(study, round=3)), Result)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events WHERE id = 1",
        "UPDATE events SET event = replace(event, '\"steps\":1', '\"steps\":0') WHERE id = 1",
        "UPDATE events SET study = 'sha256:' || substr(hex(randomblob(32)), 1, 64) WHERE id = 1",
    ],
    ids=["removed", "changed", "moved to another study"],
)
def test_a_charge_that_was_tampered_with_is_noticed(anchored: LabHospital, sql: str) -> None:
    study = study_document()
    anchored.approve(study)
    anchored.ask(anchored.order(study))
    anchored.ask(anchored.order(study, round=2))
    anchored.vault.close()
    with sqlite3.connect(anchored.config.state / "vault.sqlite") as database:
        database.execute(sql)
    database.close()
    anchored.vault = anchored.open_vault()
    with pytest.raises(IntegrityError):
        anchored.vault.ledger.check_anchor()


def test_writers_at_once_leave_the_newest_head(tmp_path: Path) -> None:
    path = tmp_path / "anchor.json"
    heads = [LedgerHead(count, "sha256:" + f"{count:064x}") for count in range(1, 41)]
    barrier, failed = threading.Barrier(8), []

    def write(part: list[LedgerHead]) -> None:
        barrier.wait()
        try:
            for head in part:
                Anchor(path).write(head)
        except IntegrityError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(heads[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert Anchor(path).read() == heads[-1]


def test_an_older_head_never_replaces_a_newer_one(tmp_path: Path) -> None:
    anchor, newer = Anchor(tmp_path / "a.json"), LedgerHead(2, "sha256:" + "2" * 64)
    anchor.write(newer)
    anchor.write(LedgerHead(1, "sha256:" + "1" * 64))
    assert anchor.read() == newer


def test_the_first_anchor_stands_under_its_name_after_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, sync = list[bool](), os.fsync

    def noting(handle: int) -> None:
        folders.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "fdatasync", noting)
    anchor = Anchor(tmp_path / "anchor" / "anchor.json")
    anchor.write(LedgerHead(0, EMPTY_HEAD))
    assert folders == [False, True]
    anchor.write(LedgerHead(1, "sha256:" + "1" * 64))  # without its name, the one before stands
    assert folders == [False, True, False]
    assert anchor.read() == LedgerHead(1, "sha256:" + "1" * 64)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_each_head_stands_whole_whether_or_not_names_can_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(durable_file, "_renameat2", lambda: None)
    anchor = Anchor(tmp_path / "anchor.json")
    for count in (1, 9, 10, 99_999, 100_000):  # longer than the one whose place on disk it takes
        anchor.write(LedgerHead(count, "sha256:" + f"{count:064x}"))
        assert Anchor(tmp_path / "anchor.json").read() == LedgerHead(
            count, "sha256:" + f"{count:064x}"
        )


def test_a_link_in_the_place_of_the_next_anchor_is_not_followed(tmp_path: Path) -> None:
    anchor, elsewhere = Anchor(tmp_path / "anchor.json"), tmp_path / "elsewhere"
    anchor.write(LedgerHead(1, "sha256:" + "1" * 64))
    elsewhere.write_bytes(b"kept")
    (tmp_path / "anchor.partial").unlink(missing_ok=True)
    (tmp_path / "anchor.partial").symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="cannot be written"):
        anchor.write(LedgerHead(2, "sha256:" + "2" * 64))
    assert elsewhere.read_bytes() == b"kept"
