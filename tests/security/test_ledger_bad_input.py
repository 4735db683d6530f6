"""A ledger, anchor, clock or number that cannot be trusted: training stops with a code, and a code is all that leaves.

Each refusal is compared byte for byte in length with an ordinary one, its content is the five members of
a refusal, and no patient row is read. What `tests/unit/client/test_ledger.py`, `test_second_look.py` and
`test_hostile_coordinator.py` show already is not repeated.
"""

import datetime as dt
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import LabHospital, study_document
from security.flower_door import answer
from security.observer import Observer
from security.small_disk import Disk, limited_files, small_file_system
from solblom_client import answers as answers_module
from solblom_client import vault as vault_module
from solblom_client.approvals.approval import approval_folder, approve
from solblom_client.keys import read_node_keys
from solblom_client.log import memory as log_memory
from solblom_client.policy import load_node_config
from solblom_client.vault import Vault
from solblom_protocol.errors import ConfigurationError, IntegrityError, SolblomError
from solblom_protocol.messages.result import Refusal, Result, write_refusal
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.studies.study import STUDY_PAYLOAD_TYPE, StudyDocument


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved, with one round answered and charged."""
    document = study_document()
    observer.hospital.approve(document)
    assert isinstance(observer.hospital.ask(observer.hospital.order(document)), Result)
    return document


def ledger_of(hospital: LabHospital) -> Path:
    return hospital.config.state / "vault.sqlite"


def anchor_of(hospital: LabHospital) -> Path:
    return hospital.config.path(str(hospital.config.node.anchor))


def ordinary_refusal_bytes(hospital: LabHospital) -> int:
    """Return the length of any refusal of an order that could be read."""
    refusal = Refusal(
        schema="solblom.refusal/1",
        site=hospital.site,
        node=hospital.public.key_id,
        order="sha256:" + "0" * 64,
        code="SB-203",
    )
    sealing = hospital.coordinator.public.sealing
    return len(write_refusal(refusal, key=Ed25519PrivateKey.generate(), recipient=sealing))


def assert_stops(observer: Observer, order: bytes, code: str = "SB-214") -> None:
    """Check that the order gets this code and no other word, and that no row was read for it."""
    reads = len(observer.reads)
    assert observer.refusal(order)["code"] == code
    assert len(observer.refusals[-1]) == ordinary_refusal_bytes(observer.hospital)
    assert len(observer.reads) == reads, "patient rows were read"


def lengths(size: int) -> list[int]:
    """Return where a file is cut off: all over, and around the pages' borders."""
    borders = [page + step for page in range(0, size, 4096) for step in (-1, 0, 1, 100)]
    return sorted({n for n in (*range(0, size, 2039), *borders, size - 1) if 0 <= n < size})


# --- The ledger's file


def test_a_ledger_cut_off_at_any_length_never_opens(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, file = observer.hospital, ledger_of(observer.hospital)
    hospital.vault.close()
    whole = file.read_bytes()
    for length in lengths(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(IntegrityError) as error:
            hospital.open_vault()
        assert error.value.code == "SB-402", length
    file.write_bytes(whole)
    hospital.vault = hospital.open_vault()
    assert hospital.charges() == 1


def test_a_ledger_cut_off_at_any_length_under_a_running_node_trains_nothing(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, file = observer.hospital, ledger_of(observer.hospital)
    order, whole = hospital.order(study, round=2), file.read_bytes()
    for length in lengths(len(whole)):
        with file.open("r+b") as stream:
            stream.truncate(length)
        assert_stops(observer, order)
        hospital.vault.close()
        file.with_name("vault.sqlite-journal").unlink(missing_ok=True)
        file.write_bytes(whole)
        hospital.vault = hospital.open_vault()
    assert hospital.charges() == 1


def test_a_node_with_a_ledger_that_is_cut_off_tells_flower_a_code_alone(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, file = observer.hospital, ledger_of(observer.hospital)
    order = hospital.order(study, round=2)
    file.write_bytes(file.read_bytes()[:10_000])
    message = answer(hospital, order)
    assert not message.has_content()
    assert (message.error.code, message.error.reason) == (0, "SB-214")
    assert len(observer.reads) == 1  # that of the round before


def _remove(file: Path) -> None:
    file.unlink()


def _replace_by_a_copy(file: Path) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)


def _put_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("happens", [_remove, _replace_by_a_copy, _put_a_folder])
def test_a_ledger_that_is_taken_away_under_a_running_node_trains_nothing(
    observer: Observer, study: StudyDocument, happens: Any
) -> None:
    hospital = observer.hospital
    happens(ledger_of(hospital))
    assert_stops(observer, hospital.order(study, round=2))


def test_a_ledger_and_anchor_rolled_back_together_stop_at_the_receipt_that_they_forgot(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    files = (ledger_of(hospital), anchor_of(hospital))
    before = [file.read_bytes() for file in files]
    newest = hospital.ask(hospital.order(study, round=2))
    assert isinstance(newest, Result)
    hospital.vault.close()
    for file, data in zip(files, before, strict=True):
        file.write_bytes(data)
    hospital.vault = hospital.open_vault()
    order = hospital.order(study, round=3, last_receipt=newest.receipt_digest)
    assert_stops(observer, order, "SB-208")
    assert hospital.charges() == 1


# --- The anchor


def test_an_anchor_cut_off_at_any_length_trains_nothing(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, anchor = observer.hospital, anchor_of(observer.hospital)
    order, whole = hospital.order(study, round=2), anchor.read_bytes()
    for length in range(len(whole)):
        anchor.write_bytes(whole[:length])
        assert_stops(observer, order)
    anchor.write_bytes(whole)
    assert isinstance(hospital.ask(order), Result)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 3},
        {"count": 2**53 - 1},
        {"count": 1},  # older, but with the newest head
        {"count": 2, "head": "sha256:" + "7" * 64},
        {"count": -1},
        {"count": "2"},
        {"count": True},
        {"head": "sha256:" + "0" * 64},
        {"head": None},
        {"schema": "solblom.ledger-anchor/2"},
        {"more": 1},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_an_anchor_that_is_newer_older_or_another_trains_nothing(
    observer: Observer, study: StudyDocument, change: dict[str, Any]
) -> None:
    hospital, anchor = observer.hospital, anchor_of(observer.hospital)
    members = json.loads(anchor.read_bytes())
    assert members["count"] == 2  # a charge, and the work it is for
    text = json.dumps(members | change, separators=(",", ":"), sort_keys=True)
    anchor.write_text(text, encoding="utf-8")
    assert_stops(observer, hospital.order(study, round=2))
    assert hospital.charges() == 1


def test_a_folder_in_the_place_of_the_anchor_trains_nothing(
    observer: Observer, study: StudyDocument
) -> None:
    anchor = anchor_of(observer.hospital)
    anchor.unlink()
    anchor.mkdir()
    assert_stops(observer, observer.hospital.order(study, round=2))


# --- A full disk


@pytest.fixture(params=[small_file_system, limited_files], ids=lambda way: way.__name__)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that can be filled."""
    with request.param(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def on_disk(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    """A hospital on that disk, with the laboratory's study approved."""
    watched = Observer(LabHospital(disk.folder / "north"))
    watched.watch(monkeypatch)
    watched.hospital.approve(study_document())
    yield watched
    disk.free()
    watched.hospital.vault.close()


def fill_before(
    monkeypatch: pytest.MonkeyPatch, disk: Disk, name: str, *, module: Any = vault_module
) -> None:
    """Let the disk be full from the moment that the vault calls a function on."""
    real = getattr(module, name)

    def then_full(*args: Any, **kwargs: Any) -> Any:
        disk.fill()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, then_full)


def test_a_full_disk_trains_nothing_and_charges_nothing(disk: Disk, on_disk: Observer) -> None:
    hospital, study = on_disk.hospital, study_document()
    order = hospital.order(study)
    disk.fill()
    for _ in range(3):
        assert_stops(on_disk, order)
    disk.free()
    assert hospital.charges() == 0
    assert isinstance(hospital.ask(order), Result)


def test_a_disk_that_fills_up_during_training_lets_no_update_out_and_keeps_the_charge(
    disk: Disk, on_disk: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, study = on_disk.hospital, study_document()
    with monkeypatch.context() as meanwhile:
        fill_before(meanwhile, disk, "export_update", module=answers_module)
        assert on_disk.refusal(hospital.order(study))["code"] == "SB-209"
        assert len(on_disk.refusals[-1]) == ordinary_refusal_bytes(hospital)
    disk.free()
    assert [entry.status for entry in hospital.vault.ledger.entries()] == ["reserved"]
    hospital.vault.clear_strikes(study.digest)
    assert isinstance(hospital.ask(hospital.order(study, attempt=2)), Result)
    assert [entry.status for entry in hospital.vault.ledger.entries()] == ["spent"]


def test_a_strike_that_a_full_disk_does_not_take_stops_the_study_in_this_process(
    disk: Disk, on_disk: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, study = on_disk.hospital, study_document()
    hospital.write_rows(hospital.rows[:3])
    with monkeypatch.context() as meanwhile:
        fill_before(meanwhile, disk, "open_source")
        assert on_disk.refusal(hospital.order(study))["code"] == "SB-209"
    disk.free()
    hospital.write_rows(hospital.rows)
    assert on_disk.strikes(study.digest) == 0
    assert_stops(on_disk, hospital.order(study, attempt=2), "SB-210")
    assert_stops(on_disk, hospital.order(study, run="another"), "SB-210")


def test_an_unwritten_strike_stops_its_own_study_alone_and_until_a_person_has_looked(
    disk: Disk, on_disk: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital, study = on_disk.hospital, study_document()
    other = study_document(study={"title": "Another study"})
    hospital.approve(other)
    hospital.write_rows(hospital.rows[:3])
    with monkeypatch.context() as meanwhile:
        fill_before(meanwhile, disk, "open_source")
        on_disk.refusal(hospital.order(study))
    disk.free()
    hospital.write_rows(hospital.rows)
    assert isinstance(hospital.ask(hospital.order(other, run="other")), Result)
    hospital.vault.clear_strikes(study.digest)
    assert isinstance(hospital.ask(hospital.order(study, attempt=2)), Result)


def test_a_full_disk_under_the_anchor_alone_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_file_system(tmp_path / "disk") as disk:
        hospital = LabHospital(tmp_path / "north", anchor=str(disk.folder / "anchor.json"))
        observer = Observer(hospital)
        observer.watch(monkeypatch)
        study = study_document()
        hospital.approve(study)
        disk.fill()
        for attempt in (1, 2):
            assert_stops(observer, hospital.order(study, attempt=attempt))
        disk.free()
        assert isinstance(hospital.ask(hospital.order(study, attempt=3)), Result)
        assert hospital.charges() == 1


def test_a_commit_that_a_reader_holds_up_is_undone_and_the_next_order_works(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = observer.hospital
    hospital.vault._state._connection.execute("PRAGMA busy_timeout = 50")
    monkeypatch.setattr(log_memory, "WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(ledger_of(hospital), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        assert_stops(observer, hospital.order(study, round=2))
    assert hospital.charges() == 1
    assert isinstance(hospital.ask(hospital.order(study, round=2, attempt=2)), Result)


# --- The clock


def test_a_clock_that_went_back_stops_a_running_node_even_for_an_answered_order(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    order = hospital.order(study)
    hospital.clock.advance(minutes=-5, seconds=-1)
    assert_stops(observer, order, "SB-206")
    hospital.clock.advance(seconds=1)
    assert isinstance(hospital.ask(order), Result)


def test_a_clock_far_ahead_is_remembered_when_it_is_set_right(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    hospital.clock.advance(days=30)
    assert isinstance(hospital.ask(hospital.order(study, round=2)), Result)
    hospital.clock.advance(days=-30)
    hospital.restart()
    assert_stops(observer, hospital.order(study, round=3), "SB-206")
    hospital.clock.now += dt.timedelta(days=30)
    assert isinstance(hospital.ask(hospital.order(study, round=3)), Result)


# --- Epsilon and delta out of range

OUT_OF_RANGE = [
    ("epsilon", "0.0"),
    ("epsilon", "-1.0"),
    ("epsilon", "100.5"),
    ("epsilon", "1e308"),
    ("epsilon", "1e999"),
    ("epsilon", "NaN"),
    ("epsilon", "Infinity"),
    ("epsilon", "null"),
    ("epsilon", '"2.0"'),
    ("epsilon", "true"),
    ("delta", "0.0"),
    ("delta", "-1e-05"),
    ("delta", "0.0101"),
    ("delta", "1.0"),
    ("delta", "NaN"),
    ("delta", "null"),
]
NUMBERS = pytest.mark.parametrize(("name", "number"), OUT_OF_RANGE)


def signed_with(hospital: LabHospital, name: str, number: str) -> bytes:
    """Return the study as its own researcher would sign it with a number that no study file may have."""
    payload = study_document().payload()
    old = {"epsilon": b'"epsilon":2,', "delta": b'"delta":0.00001,'}[name]
    assert payload.count(old) == 1
    changed = payload.replace(old, f'"{name}":{number},'.encode())
    return sign_envelope(changed, STUDY_PAYLOAD_TYPE, [hospital.researcher])


@NUMBERS
def test_a_signed_study_with_a_number_out_of_range_is_not_approved(
    observer: Observer, name: str, number: str
) -> None:
    hospital = observer.hospital
    keys = read_node_keys(hospital.config.state)
    with pytest.raises(SolblomError):
        approve(hospital.config, keys, signed_with(hospital, name, number), now=hospital.clock())
    assert not (hospital.config.state / "approvals").exists()


@NUMBERS
def test_an_approved_study_whose_number_left_the_range_trains_nothing(
    observer: Observer, study: StudyDocument, name: str, number: str
) -> None:
    hospital = observer.hospital
    folder = approval_folder(hospital.config, study.digest)
    (folder / "study.dsse.json").write_bytes(signed_with(hospital, name, number))
    assert_stops(observer, hospital.order(study, round=2))
    assert hospital.charges() == 1


@pytest.mark.parametrize(
    "line",
    [
        "epsilon_budget = 0",
        "epsilon_budget = -8.0",
        "epsilon_budget = nan",
        "study_epsilon = inf",
        "study_epsilon = 0.0",
        "delta = 0",
        "delta = 1.0",
        "delta = nan",
    ],
)
def test_a_node_whose_own_numbers_left_the_range_does_not_start_and_tells_flower_a_code_alone(
    observer: Observer, study: StudyDocument, line: str
) -> None:
    hospital = observer.hospital
    order = hospital.order(study, round=2)
    hospital.vault.close()
    path = hospital.folder / "node.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[policy]", f"[policy]\n{line}"), encoding="utf-8")
    with pytest.raises(ConfigurationError) as error:
        Vault.open(hospital.folder)
    assert error.value.code == "SB-103"
    message = answer(hospital, order)
    assert not message.has_content()
    assert (message.error.code, message.error.reason) == (0, "SB-214")
    path.write_text(text, encoding="utf-8")
    hospital.vault = Vault(load_node_config(hospital.folder), clock=hospital.clock)
    assert hospital.charges() == 1
    assert len(observer.reads) == 1  # that of the round before


def test_a_budget_that_was_lowered_below_what_is_spent_trains_nothing(
    observer: Observer, study: StudyDocument
) -> None:
    observer.edit_config("[policy]", "[policy]\nepsilon_budget = 0.001")
    assert_stops(observer, observer.hospital.order(study, round=2), "SB-204")
