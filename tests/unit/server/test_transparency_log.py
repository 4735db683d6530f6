"""Claims about the coordinator's log: nothing is lost or doubled, a changed log stops, a hospital can always follow."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.cosignature import cosign, read_cosignature, read_cosigned
from solblom_protocol.logs.merkle import leaf_hash
from solblom_protocol.logs.transparency import head_of, verify_consistency, verify_inclusion
from solblom_server.log.entries import LogEntry, round_closed
from solblom_server.log.report import check_log, export_log
from solblom_server.log.transparency_log import TransparencyLog
from solblom_verify.canonical import parse_canonical

KEY = Ed25519PrivateKey.from_private_bytes(b"C" * 32)
NORTH = Ed25519PrivateKey.from_private_bytes(b"N" * 32)


def entry(number: int) -> LogEntry:
    return round_closed("run-1", number, base="a", result="b", time="2026-11-29T12:00:00Z")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TransparencyLog]:
    opened = TransparencyLog(tmp_path, KEY)
    yield opened
    opened.close()


def fill(log: TransparencyLog, count: int) -> None:
    log.append(*(entry(number) for number in range(count)))


def change(home: Path, sql: str) -> None:
    database = sqlite3.connect(home / "log" / "transparency.sqlite", isolation_level=None)
    database.execute(sql)
    database.close()


def refused(log: TransparencyLog) -> bool:
    with pytest.raises(IntegrityError) as caught:
        log.append(entry(999))
    return caught.value.code == "SB-410"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 65])
def test_the_head_is_that_of_the_entries(log: TransparencyLog, count: int) -> None:
    fill(log, count)
    entries = [text.encode() for text in log.entries()]
    assert len(entries) == count == log.size()
    assert log.head() == head_of(entries)
    for size in range(count + 1):
        assert log.head(size) == head_of(entries[:size])


def test_every_proof_holds_for_every_size(log: TransparencyLog) -> None:
    fill(log, 33)
    leaves = [leaf_hash(text.encode()) for text in log.entries()]
    for size in range(1, 34):
        for index in range(size):
            proof = log.inclusion(index, size)
            assert verify_inclusion(leaves[index], index, log.head(size), proof)
        for old in range(size + 1):
            assert verify_consistency(log.head(old), log.head(size), log.consistency(old, size))


def test_the_same_entry_again_is_not_written_twice(log: TransparencyLog, tmp_path: Path) -> None:
    assert log.append(entry(1), entry(2)) == [0, 1]
    log.close()
    again = TransparencyLog(tmp_path, KEY)
    assert again.append(entry(2), entry(3), entry(3), entry(1)) == [1, 2, 2, 0]
    assert again.size() == 3
    again.close()


def test_a_batch_that_fails_leaves_nothing(log: TransparencyLog) -> None:
    fill(log, 3)
    broken = LogEntry("key", "text", artefact=b"no text")  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        log.append(entry(10), broken)
    assert log.size() == 3
    assert log.append(entry(10)) == [3]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM entries WHERE seq >= 5",
        "DELETE FROM nodes WHERE level = 3",
        "UPDATE nodes SET hash = zeroblob(32) WHERE level = 3",
        "DROP TABLE entries",
    ],
)
def test_a_log_that_is_not_the_one_that_was_shown_stops(
    log: TransparencyLog, tmp_path: Path, sql: str
) -> None:
    fill(log, 8)
    log.show(["north"])
    change(tmp_path, sql)
    assert refused(log)


def test_a_head_that_somebody_else_signed_stops(log: TransparencyLog, tmp_path: Path) -> None:
    fill(log, 8)
    log.show(["north"])
    path = tmp_path / "log" / "checkpoint.txt"
    path.write_text(path.read_text("utf-8").replace("\n8\n", "\n7\n"), encoding="utf-8")
    assert refused(log)


# --- What hospitals are shown


def test_a_hospital_is_shown_one_head_until_it_has_answered(log: TransparencyLog) -> None:
    fill(log, 4)
    first = log.show(["north", "south"])
    assert {s.size for s in first.values()} == {4}
    log.append(entry(10), entry(11), seen={"north": 4})
    second = log.show(["north", "south"])
    assert (second["north"].size, second["south"].size) == (6, 4)
    assert second["south"] == first["south"]
    assert verify_consistency(log.head(4), log.head(6), second["north"].consistency)


def test_there_is_a_proof_from_every_head_that_a_hospital_may_remember(
    log: TransparencyLog,
) -> None:
    """Orders are lost, answers are lost, the coordinator restarts: the hospital can always follow."""
    remembered, entries = log.head(0), 0
    for step in range(60):
        entries += 1
        log.append(entry(entries))
        shown = log.show(["north"])["north"]
        if step % 3 == 0:
            continue  # the order is lost
        head = log.head(shown.size)
        if remembered.size and head != remembered:
            assert verify_consistency(remembered, head, shown.consistency)
        assert head.size >= remembered.size
        remembered = head
        if step % 4 != 0:  # the answer arrives
            log.append(seen={"north": shown.size})


def test_a_head_can_be_asked_for_that_is_not_the_newest(log: TransparencyLog) -> None:
    fill(log, 4)
    size = log.size()
    log.append(entry(20))  # by another run
    assert log.show(["north"], at=size)["north"].size == 4
    log.append(seen={"north": 4})
    assert log.show(["north"], at=size)["north"].size == 4
    assert log.show(["north"])["north"].size == 5


def test_the_newest_head_that_was_shown_is_published_signed(
    log: TransparencyLog, tmp_path: Path
) -> None:
    assert log.published() is None
    fill(log, 3)
    log.show(["north"])
    assert log.published() == log.head(3)
    assert (tmp_path / "log" / "checkpoint.txt").read_text("utf-8") == log.note(3)


# --- Cosignatures, and the check of the whole


def cosigned(log: TransparencyLog, size: int) -> None:
    line = cosign(log.note(size), "north", NORTH, time=1795953600)
    log.add_cosignature(size, read_cosignature(log.note(size), line, "north", NORTH.public_key()))


def test_a_head_is_given_out_with_its_cosignatures(log: TransparencyLog) -> None:
    fill(log, 5)
    cosigned(log, 4)
    found = read_cosigned(
        log.checkpoint(4), log.origin, KEY.public_key(), {"north": NORTH.public_key()}
    )
    assert (found.head, set(found.cosignatures)) == (log.head(4), {"north"})
    assert log.cosigners(4) == {"north": 1795953600}
    assert log.checkpoint(5) == log.note(5)


def test_an_honest_log_holds_and_says_how_much_was_proven(log: TransparencyLog) -> None:
    fill(log, 9)
    log.show(["north"])
    cosigned(log, 7)
    report = check_log(log, {"north": NORTH.public_key()})
    assert report.problems == ()
    assert (report.size, report.shown, report.proofs) == (9, 9, 9 + 2)  # heads over 0 and 7
    assert report.heads[0].cosigned == {"north": "2026-11-29T12:00:00Z"}


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("UPDATE entries SET entry = replace(entry, '\"b\"', '\"c\"') WHERE seq = 4", "kept hashes"),
        ("UPDATE entries SET entry = 'text' WHERE seq = 4", "Entry 4"),
        ("UPDATE entries SET entry = replace(entry, 'round-closed', 'other') WHERE seq = 4", "a kind"),
        ("DELETE FROM entries WHERE seq = 4", "numbered up to 9"),
        ("DELETE FROM entries WHERE seq >= 4", "were shown 9"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND place = 1", "kept hashes"),
        ("UPDATE cosignatures SET line = replace(line, 'north', 'south')", "cosignature"),
        ("UPDATE cosignatures SET size = 6", "cosignature of north does not hold"),
    ],
)  # fmt: skip
def test_whatever_is_changed_in_a_log_is_found(
    log: TransparencyLog, tmp_path: Path, sql: str, words: str
) -> None:
    fill(log, 9)
    log.show(["north"])
    cosigned(log, 7)
    change(tmp_path, sql)
    report = check_log(log, {"north": NORTH.public_key()})
    assert any(words in problem for problem in report.problems), report.problems


def test_a_cosignature_of_nobody_enrolled_is_named_as_not_checked(log: TransparencyLog) -> None:
    fill(log, 5)
    cosigned(log, 5)
    report = check_log(log, {})
    assert report.problems == ()
    assert any("north" in text for text in report.not_checked)


def test_an_export_holds_every_entry_and_the_newest_head(log: TransparencyLog) -> None:
    fill(log, 5)
    value = parse_canonical(export_log(log))
    assert isinstance(value, dict)
    assert set(value) == {"schema", "origin", "checkpoint", "entries"}
    assert value["checkpoint"] == log.note(5)
    assert value["entries"] == [parse_canonical(text.encode()) for text in log.entries()]
