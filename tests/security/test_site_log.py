"""Who sends garbage, or the same order again and again, fills no disk and hides no reason from the hospital."""

import json
from typing import Any

import pytest

from lab import LabCoordinator, LabHospital, study_document
from security.observer import Observer, forge
from solblom_client.site_log import MOST_KINDS
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved."""
    document = study_document()
    observer.hospital.approve(document)
    return document


def refused_lines(observer: Observer) -> list[dict[str, Any]]:
    return [line for line in observer.log() if line["event"].startswith("refused")]


def counted(observer: Observer) -> dict[str, int]:
    return {line["what"]: line["times"] for line in observer.log() if line["event"] == "repeated"}


def test_garbage_is_written_once_an_hour_and_counted(observer: Observer) -> None:
    hospital = observer.hospital
    for number in range(200):
        hospital.vault.process(f"garbage {number}".encode() * 20)
    assert len(observer.log()) == 1
    hospital.clock.advance(hours=1)
    hospital.vault.process(b"garbage")
    assert counted(observer) == {"refused SB-202: RefusedError": 199}
    assert len(observer.log()) == 3


def test_a_stranger_who_signs_with_a_new_key_each_time_is_written_once(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    header = hospital.header(study, b"").model_dump(mode="json", by_alias=True)
    for _ in range(30):
        key = LabCoordinator().signing  # another key: another text in the error
        hospital.vault.process(forge(header, b"", key=key, recipient=hospital.public.sealing))
    assert [line["event"] for line in observer.log()] == ["refused SB-201"]


def test_an_answered_order_that_is_played_again_is_written_once_an_hour(
    observer: Observer, study: StudyDocument
) -> None:
    order = observer.hospital.order(study)
    assert isinstance(observer.hospital.ask(order), Result)
    for _ in range(20):
        observer.hospital.vault.process(order)
    assert [line["event"] for line in observer.log()].count("reply-again") == 1


def test_an_old_order_that_is_played_again_is_written_once_an_hour(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, first = observer.hospital, observer.hospital.order(study)
    assert isinstance(hospital.ask(first), Result)
    assert isinstance(hospital.ask(hospital.order(study, round=2)), Result)
    for _ in range(20):
        hospital.vault.process(first)
    assert [line["event"] for line in refused_lines(observer)] == ["refused SB-207"]


def test_a_coordinator_with_ever_new_orders_writes_a_bounded_number_of_lines(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    for number in range(1, 3 * MOST_KINDS):
        hospital.vault.process(hospital.order(study, round=1000 + number))
    assert len(refused_lines(observer)) == MOST_KINDS
    hospital.clock.advance(hours=1)
    hospital.vault.process(hospital.order(study, round=999))
    assert counted(observer) == {"others": 2 * MOST_KINDS - 1}


def test_another_reason_within_the_hour_is_written_with_its_trace(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    for rows in (hospital.rows[:5], [{**row, "age": "old"} for row in hospital.rows]):
        hospital.write_rows(rows)
        hospital.ask(hospital.order(study, attempt=1 + len(observer.log())))
    traces = [line["trace"] for line in refused_lines(observer)]
    assert len(traces) == 2
    assert "fewer than policy.min_patients" in traces[0]
    assert "`age` is not a number" in traces[1]


def test_a_count_outlives_a_restart(observer: Observer) -> None:
    hospital: LabHospital = observer.hospital
    for _ in range(10):
        hospital.vault.process(b"garbage")
        hospital.restart()
    assert len(observer.log()) == 1
    hospital.clock.advance(hours=2)
    hospital.vault.process(b"garbage")
    assert counted(observer) == {"refused SB-202: RefusedError": 9}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"hour": 1, "counts": [1]}'])
def test_a_damaged_count_begins_anew_and_stops_nothing(
    observer: Observer, study: StudyDocument, data: bytes
) -> None:
    hospital = observer.hospital
    hospital.vault.process(b"garbage")
    path = hospital.config.state / "log" / "repeated.json"
    assert json.loads(path.read_bytes())["counts"] == {"refused SB-202: RefusedError": 1}
    path.write_bytes(data)
    hospital.vault.process(b"garbage")
    assert len(observer.log()) == 2
    assert isinstance(hospital.ask(hospital.order(study)), Result)
