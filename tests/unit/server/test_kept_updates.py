"""Keeping for replay: on disk before a reply counts, the same after a restart, and nothing without noise."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from lab import study_document
from replay_lab import record, write_run
from solblom_models.replay import replay
from solblom_models.replay_files import GRADE_A, INITIAL, update_name, why_not_kept
from solblom_protocol.errors import RunError
from solblom_protocol.messages.layout import pack
from solblom_server.database import Database
from solblom_server.registry.release import checked_receipts, replies_by_round
from solblom_server.rounds.exchange import RunContext
from solblom_server.rounds.kept_updates import KeptUpdates, files_of_run, remove_kept
from solblom_server.rounds.rounds import run_rounds
from solblom_verify.canonical import digest
from unit.server.house import HONEST, SITES, House, local_grid, refuse


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "home", {})


def kept(house: House) -> Path:
    return house.coordinator.home / "runs" / house.run_id


def test_each_update_is_kept_byte_for_byte_as_its_receipt_names_it(house: House) -> None:
    house.run()
    nodes = {site: hospital.public for site, hospital in house.hospitals.items()}
    for number, replies in replies_by_round(house.database, house.run_id).items():
        receipts = checked_receipts(nodes, replies)
        assert sorted(receipts) == sorted(SITES)
        for site, (_, receipt) in receipts.items():
            data = (kept(house) / update_name(number, site)).read_bytes()
            assert digest(data) == receipt.update
            assert data == pack([HONEST])
    assert (kept(house) / INITIAL).is_file()


def file_of(handle: int) -> str:
    return Path(f"/proc/self/fd/{handle}").resolve().name


def is_update(name: str) -> bool:
    return re.fullmatch(r"\.[0-9]{3}-[a-z]+\.bin\.partial", name) is not None


def test_an_update_is_synced_before_its_reply_counts_as_taken(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    add, sync = Database.add_reply, os.fsync

    def added(database: Database, run: str, reply: object) -> None:
        seen.append("reply")
        add(database, run, reply)  # type: ignore[arg-type]

    def synced(handle: int) -> None:
        name = file_of(handle)
        seen.append("update" if is_update(name) else "folder" if name == "updates" else "other")
        sync(handle)

    monkeypatch.setattr(Database, "add_reply", added)
    monkeypatch.setattr(os, "fsync", synced)
    house.run()
    assert [what for what in seen if what != "other"] == ["update", "folder", "reply"] * 6


@pytest.mark.parametrize(
    ("privacy", "training", "reason"),
    [
        ({"epsilon": "off"}, {}, "epsilon is off"),
        ({"epsilon": "off"}, {"keep_updates": True}, "epsilon is off"),
        ({}, {"keep_updates": False}, "keep_updates = false"),
    ],
)
def test_nothing_is_kept_without_noise_or_where_the_study_says_so(
    tmp_path: Path,
    privacy: dict[str, str],
    training: dict[str, bool],
    reason: str,
) -> None:
    """privacy.md rule 10: nothing is stored where epsilon is off."""
    house = House(tmp_path / "home", {})
    cohort = {"min_nodes": 3, "quorum": 2}
    house.document = study_document(
        training={"rounds": 2} | training, privacy=privacy, cohort=cohort
    )
    for hospital in house.hospitals.values():
        hospital.study = house.document
    state = house.run()
    assert list(kept(house).rglob("*.bin")) == []
    assert reason in write_run(house, state, tmp_path / "model")
    assert reason in str(why_not_kept(house.document))
    assert list((tmp_path / "model").rglob("*.bin")) == []


def test_a_study_that_was_signed_before_keeps_nothing() -> None:
    training = study_document().study.training.model_copy(update={"keep_updates": None})
    before = study_document()
    old = before.model_copy(
        update={"study": before.study.model_copy(update={"training": training})}
    )
    assert "signed before" in str(why_not_kept(old))
    assert not old.keeps_updates


class Dies(BaseException):
    """The coordinator's process is gone."""


def begin_and_die(house: House, context: RunContext, *, after: int) -> None:
    """Run until this many replies of the run were taken, then die."""
    real, taken = Database.add_reply, [0]

    def add_reply(database: Database, run: str, reply: object) -> None:
        real(database, run, reply)  # type: ignore[arg-type]
        taken[0] += 1
        if taken[0] == after:
            raise Dies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "add_reply", add_reply)
        with pytest.raises(Dies):
            run_rounds(context)


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6])
def test_a_run_that_died_at_any_reply_replays_after_it_was_resumed(
    house: House, tmp_path: Path, after: int
) -> None:
    context = house.begin(local_grid(house))
    begin_and_die(house, context, after=after)
    state = run_rounds(context)
    assert write_run(house, state, tmp_path / "model") == GRADE_A
    assert replay(tmp_path / "model").updates == 6


def test_a_hospital_that_answered_before_a_crash_and_refuses_after_it_is_in_no_round_twice_or_falsely(
    house: House, tmp_path: Path
) -> None:
    """Its update is not in the sum, so neither its receipt nor its bytes may say that it was."""
    context = house.begin(local_grid(house))
    begin_and_die(house, context, after=3)
    assert (kept(house) / update_name(1, "west")).is_file()
    house.hospitals["west"].answer = refuse
    state = run_rounds(context)
    assert not (kept(house) / update_name(1, "west")).exists()
    assert write_run(house, state, tmp_path / "model") == GRADE_A
    found = replay(tmp_path / "model")
    assert found.updates == 4  # east and north, twice
    kinds = {(r.site, r.kind) for r in house.database.replies(house.run_id) if r.round == 1}
    assert ("west", "late") in kinds
    assert ("west", "result") not in kinds


def test_other_bytes_after_a_crash_take_the_place_of_the_first(
    house: House, tmp_path: Path
) -> None:
    """A changed cohort gives a second answer (docs/adr/0006): the newest receipt and its bytes belong together."""
    context = house.begin(local_grid(house))
    begin_and_die(house, context, after=3)
    house.hospitals["north"].answer = lambda h, o: h.result(o, 2 * HONEST)
    state = run_rounds(context)
    assert write_run(house, state, tmp_path / "model") == GRADE_A
    assert replay(tmp_path / "model").updates == 6
    assert (kept(house) / update_name(1, "north")).read_bytes() == pack([2 * HONEST])


def test_a_full_disk_stops_the_round_by_name_and_the_run_goes_on_later(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, sync = house.begin(local_grid(house)), os.fsync

    def full(handle: int) -> None:
        if is_update(file_of(handle)):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError) as caught:
            run_rounds(context)
    assert (caught.value.code, caught.value.exit_status) == ("SB-440", 3)
    assert not house.database.replies(house.run_id)
    state = run_rounds(context)
    assert write_run(house, state, tmp_path / "model") == GRADE_A


def grade(house: House) -> str:
    nodes = {site: hospital.public for site, hospital in house.hospitals.items()}
    replies = replies_by_round(house.database, house.run_id)
    records = [
        record(row.round, row.base, checked_receipts(nodes, replies[row.round]))
        for row in house.database.rounds(house.run_id)
    ]
    return files_of_run(kept(house), house.document, house.database, house.run_id, records).grade


@pytest.mark.parametrize("name", [INITIAL, *(update_name(2, site) for site in SITES)])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_the_release_compares_each_kept_file_with_what_was_received(
    house: House, name: str, damage: str
) -> None:
    house.run()
    assert grade(house) == GRADE_A
    path = kept(house) / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert grade(house).startswith(f"not kept: {name}")


def test_the_runs_own_copies_go_when_its_model_is_registered(house: House) -> None:
    house.run()
    remove_kept(kept(house))
    assert not list(kept(house).rglob("*.bin"))
    assert (kept(house) / "checkpoints").is_dir()


def test_closing_a_round_touches_no_other_round(tmp_path: Path) -> None:
    files = KeptUpdates(tmp_path, keeps=True)
    for number in (1, 10, 100):
        for site in ("a", "b"):
            files.keep_update(number, site, b"x")
    files.close(10, {"a"})
    left = sorted(path.name for path in tmp_path.rglob("*.bin"))
    assert left == ["001-a.bin", "001-b.bin", "010-a.bin", "100-a.bin", "100-b.bin"]


def test_rounds_without_keeping_touch_no_disk(tmp_path: Path) -> None:
    files = KeptUpdates(tmp_path, keeps=False)
    files.keep_initial(b"x")
    files.keep_update(1, "a", b"x")
    files.keep_sum(1, np.zeros(3, dtype=np.int64))
    assert list(tmp_path.iterdir()) == []
