"""The coordinator's database: what was done stands in it once, in order, and survives a restart."""

import datetime as dt
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import NOW
from solblom_protocol.errors import RunError
from solblom_server.database import Database, ReplyRow, RunRow
from solblom_server.transports.network import waiting_for
from solblom_verify.canonical import digest

STUDY = digest(b"study")
LATER = NOW + dt.timedelta(minutes=5)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "folder" / "coordinator.sqlite")
    yield opened
    opened.close()


def new_run(database: Database, **changes: Any) -> RunRow:
    values: dict[str, Any] = {
        "study": STUDY,
        "name": "asthma",
        "envelope": b"signed",
        "roster": "north,south",
        "transport": "local",
        "simulation": True,
        "now": NOW,
    }
    return database.create_run(**(values | changes))


def reply(number: int, site: str, kind: str = "result", **changes: Any) -> ReplyRow:
    values: dict[str, Any] = {
        "order_digest": digest(f"order-{number}-{site}".encode()),
        "code": None,
        "receipt": digest(f"receipt-{number}-{site}".encode()),
        "envelope": b"receipt",
        "arrived": "2026-11-22T12:00:00Z",
        "seconds": 0.5,
    }
    return ReplyRow(round=number, site=site, kind=kind, **(values | changes))


def test_a_run_is_named_by_study_and_number(database: Database) -> None:
    names = [new_run(database).id for _ in range(2)]
    assert names == [f"asthma-1-{STUDY[7:15]}", f"asthma-2-{STUDY[7:15]}"]


def test_a_lost_database_names_the_same_run_again(database: Database, tmp_path: Path) -> None:
    first = new_run(database).id
    other = Database(tmp_path / "other.sqlite")
    assert new_run(other).id == first
    other.close()


def test_a_new_run_is_open(database: Database) -> None:
    run = new_run(database)
    assert (run.status, run.ended, run.simulation) == ("open", None, True)


def test_an_unknown_run_is_refused(database: Database) -> None:
    with pytest.raises(RunError) as caught:
        database.run("nowhere")
    assert caught.value.code == "SB-502"


def test_the_end_of_a_run_is_kept_with_its_reason(database: Database) -> None:
    run = new_run(database)
    database.end_run(run.id, "stopped", "too few", now=LATER)
    ended = database.run(run.id)
    assert (ended.status, ended.reason, ended.ended) == (
        "stopped",
        "too few",
        "2026-11-22T12:05:00Z",
    )


def test_an_open_round_stays_as_it_was_opened(database: Database) -> None:
    run = new_run(database).id
    database.open_round(run, 1, digest(b"a"), now=NOW)
    database.open_round(run, 1, digest(b"b"), now=LATER)
    (row,) = database.rounds(run)
    assert (row.base, row.opened, row.status) == (digest(b"a"), "2026-11-22T12:00:00Z", "open")


def test_a_closed_round_names_its_model(database: Database) -> None:
    run = new_run(database).id
    database.open_round(run, 1, digest(b"a"), now=NOW)
    database.close_round(run, 1, digest(b"b"), now=LATER)
    (row,) = database.rounds(run)
    assert (row.result, row.closed, row.status) == (digest(b"b"), "2026-11-22T12:05:00Z", "closed")


def test_attempts_are_counted_by_site_and_round(database: Database) -> None:
    run = new_run(database).id
    database.add_order(digest(b"1"), run, 1, "north", 1, now=NOW)
    attempts = [
        database.next_attempt(run, n, s) for n, s in ((1, "north"), (1, "south"), (2, "north"))
    ]
    assert attempts == [2, 1, 1]


def test_an_order_is_known_to_its_run_round_and_site_alone(database: Database) -> None:
    run = new_run(database).id
    order = digest(b"1")
    database.add_order(order, run, 1, "north", 1, now=NOW)
    assert database.is_order(order, run, 1, "north")
    assert not database.is_order(order, run, 1, "south")
    assert not database.is_order(order, run, 2, "north")
    assert not database.is_order(order, "other", 1, "north")


def test_the_same_attempt_cannot_be_recorded_twice(database: Database) -> None:
    run = new_run(database).id
    database.add_order(digest(b"1"), run, 1, "north", 1, now=NOW)
    with pytest.raises(sqlite3.IntegrityError):
        database.add_order(digest(b"2"), run, 1, "north", 1, now=NOW)


def test_the_last_answer_of_a_site_is_its_newest_result(database: Database) -> None:
    run = new_run(database).id
    for number in (1, 2):
        database.add_reply(run, reply(number, "north"))
    database.add_reply(run, reply(3, "north", "refusal", code="SB-204", receipt=None))
    assert database.last_answered(run, "north") == (
        reply(2, "north").order_digest,
        reply(2, "north").receipt,
    )


def test_a_site_that_never_answered_has_no_last_answer(database: Database) -> None:
    assert database.last_answered(new_run(database).id, "north") == (None, None)


def test_a_new_run_remembers_a_sites_receipt_but_none_of_its_orders(database: Database) -> None:
    database.add_reply(new_run(database).id, reply(1, "north"))
    second = new_run(database).id
    assert database.last_answered(second, "north") == (None, reply(1, "north").receipt)


def test_the_same_answer_twice_is_recorded_once(database: Database) -> None:
    run = new_run(database).id
    for _ in range(2):
        database.add_reply(run, reply(1, "north"))
    assert len(database.replies(run)) == 1


def test_a_reply_of_an_unknown_kind_is_not_recorded(database: Database) -> None:
    run = new_run(database).id
    with pytest.raises(sqlite3.IntegrityError):
        database.add_reply(run, reply(1, "north", "gossip"))


def test_versions_count_by_name_and_a_run_keeps_its_version(database: Database) -> None:
    runs = ["a", "b", "a"]
    assert [database.reserve_version("asthma", run, now=NOW) for run in runs] == [1, 2, 1]
    assert database.reserve_version("heart", "c", now=NOW) == 1


def test_a_model_is_listed_with_its_digest(database: Database) -> None:
    database.reserve_version("asthma", "a", now=NOW)
    database.set_model_digest("a", digest(b"model"))
    assert database.models() == [("asthma", 1, "a", digest(b"model"), "2026-11-22T12:00:00Z")]


def test_everything_stands_there_after_a_restart(database: Database, tmp_path: Path) -> None:
    run = new_run(database)
    database.open_round(run.id, 1, digest(b"a"), now=NOW)
    database.add_reply(run.id, reply(1, "north"))
    database.close()
    again = Database(tmp_path / "folder" / "coordinator.sqlite")
    assert again.runs() == [run]
    assert again.replies(run.id) == [reply(1, "north")]
    assert [row.round for row in again.rounds(run.id)] == [1]
    again.close()


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    run = new_run(database).id
    with pytest.raises(RuntimeError):
        delete_and_crash(database)
    assert database.run(run).id == run


def test_every_commit_is_synced(database: Database) -> None:
    assert database._connection.execute("PRAGMA synchronous").fetchone()[0] >= 2


def delete_and_crash(database: Database) -> None:
    with database.transaction():
        database._connection.execute("DELETE FROM runs")
        raise RuntimeError("crash")


def test_a_sites_newest_answer_is_found_without_reading_those_of_others(database: Database) -> None:
    run, steps = new_run(database).id, []

    def work() -> int:
        steps.clear()
        database._connection.set_progress_handler(lambda: steps.append(1) and 0, 1)
        found = database.last_answered(run, "south")
        database._connection.set_progress_handler(None, 1)
        assert found == (digest(b"order-1-south"), digest(b"receipt-1-south"))
        return len(steps)

    database.add_reply(run, reply(1, "south"))
    alone = work()
    for number in range(300):
        database.add_reply(run, reply(1, f"site-{number}"))
    assert work() == alone


def test_a_database_made_before_there_was_an_index_gets_it(tmp_path: Path) -> None:
    for _ in range(2):
        opened = Database(tmp_path / "coordinator.sqlite")
        names = opened._connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        assert ("replies_of_site",) in names.fetchall()
        opened._connection.execute("DROP INDEX replies_of_site")
        opened.close()


def test_a_hospital_that_has_not_said_yes_or_no_is_waited_for_by_name(database: Database) -> None:
    run = new_run(database)
    for site in ("north", "south"):
        database.add_link(site, f"key of {site}", route="network")
    database.add_reply(run.id, reply(1, "north"))
    database.add_reply(run.id, reply(1, "south", "refusal", code="SB-219", receipt=None))
    told = waiting_for(database, database.run(run.id), 1)
    assert told == "round 1 waits for south (SB-219: it has not said yes or no yet)"
    database.add_reply(run.id, reply(1, "south"))
    assert waiting_for(database, database.run(run.id), 1) == "round 1"
