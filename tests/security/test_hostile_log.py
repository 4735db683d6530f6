"""A coordinator that rewrites, forks, shortens, forges or hides its log is stopped by one hospital that saw the truth.

Each order is honest in all else. A refusal is checked for its code, that nothing but the code crosses, that nothing was
charged, and that no patient row was read; and the hospital's own log says which rule it was.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import NOW, LabHospital, study_document
from log_lab import History, history
from security.observer import Observer
from solblom_client.approvals.record import approval_folder
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.witness import proof_file
from solblom_protocol.logs.cosignature import read_cosignature
from solblom_protocol.logs.transparency import sign_note
from solblom_protocol.messages.layout import Layout
from solblom_protocol.messages.result import Result, WitnessReply
from solblom_protocol.studies.study import StudyDocument

SEEN = 6


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved."""
    document = study_document()
    observer.hospital.approve(document)
    return document


@pytest.fixture
def log(observer: Observer, study: StudyDocument) -> History:
    """A log of ten entries; the hospital has answered an order that showed the first six."""
    found = history(observer.hospital.coordinator.signing, 10)
    reply = observer.hospital.ask(observer.hospital.order(study, **found.shows(SEEN)))
    assert isinstance(reply, Result), reply
    return found


def next_order(observer: Observer, study: StudyDocument, **members: Any) -> bytes:
    return observer.hospital.order(study, **({"round": 2} | members))


def inside(observer: Observer) -> str:
    """The code that the hospital's own log has of its newest refusal."""
    entries = [json.loads(e) for e in read_entries(log_place(observer.hospital.config))]
    refused = [entry for entry in entries if entry["event"] == "refused"][-1]
    assert refused["outside"] == "SB-221"
    return str(refused["code"])


def changed(log: History, at: int) -> History:
    entries = list(log.entries)
    entries[at] += " "
    return History(log.key, tuple(entries))


def test_a_log_that_grew_is_answered_and_remembered(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    sealed = next_order(observer, study, **log.shows(9, since=SEEN))
    assert isinstance(observer.hospital.ask(sealed), Result)
    observer.hospital.restart()
    observer.assert_refused(next_order(observer, study, round=3, **log.shows(8, since=SEEN)), "SB-221")  # fmt: skip
    assert inside(observer) == "SB-412"


def test_the_same_head_again_is_answered(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    assert isinstance(observer.hospital.ask(next_order(observer, study, **log.shows(SEEN))), Result)


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_history_rewritten_before_the_head_that_was_seen_is_refused(
    observer: Observer, study: StudyDocument, log: History, at: int
) -> None:
    false = changed(log, at)
    for proof in (false.proof(SEEN, 9), log.proof(SEEN, 9), ()):
        members = {"checkpoint": false.note(9), "consistency": proof}
        observer.assert_refused(next_order(observer, study, **members), "SB-221")
        assert inside(observer) == "SB-413"


def test_a_second_history_of_the_same_size_is_refused_and_both_are_kept_as_proof(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    false = changed(log, 2)
    observer.assert_refused(next_order(observer, study, **false.shows(SEEN)), "SB-221")
    assert inside(observer) == "SB-411"
    kept = proof_file(observer.hospital.config.state).read_text("utf-8")
    assert kept == f"{log.note(SEEN)}\n{false.note(SEEN)}"
    # A later attack does not overwrite the proof, and the honest log still goes on.
    observer.assert_refused(next_order(observer, study, **log.shows(3)), "SB-221")
    assert proof_file(observer.hospital.config.state).read_text("utf-8") == kept
    assert isinstance(
        observer.hospital.ask(next_order(observer, study, **log.shows(9, since=SEEN))), Result
    )


def test_an_older_head_that_came_late_does_not_stand_in_the_way_of_a_proof(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    observer.assert_refused(next_order(observer, study, **log.shows(3)), "SB-221")
    assert inside(observer) == "SB-412"
    false = changed(log, 2)
    observer.assert_refused(next_order(observer, study, **false.shows(SEEN)), "SB-221")
    kept = proof_file(observer.hospital.config.state).read_text("utf-8")
    assert kept == f"{log.note(SEEN)}\n{false.note(SEEN)}"
    assert proof_file(observer.hospital.config.state, "SB-412").is_file()


def test_an_answered_order_to_witness_gets_no_new_date_once_its_head_was_overtaken(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    hospital = observer.hospital
    first = witness_order(hospital, study, **log.shows(8, since=SEEN))
    assert isinstance(hospital.ask(first), WitnessReply)
    assert isinstance(hospital.ask(first), WitnessReply)  # nothing newer was seen
    newer = witness_order(hospital, study, attempt=2, **log.shows(9, since=8))
    assert isinstance(hospital.ask(newer), WitnessReply)
    observer.assert_refused(first, "SB-207")


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_log_that_went_back_is_refused(
    observer: Observer, study: StudyDocument, log: History, size: int
) -> None:
    observer.assert_refused(next_order(observer, study, **log.shows(size)), "SB-221")
    assert inside(observer) == "SB-412"


def test_an_order_without_a_checkpoint_is_refused_once_one_was_seen(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    observer.assert_refused(next_order(observer, study), "SB-221")
    assert inside(observer) == "SB-414"


def test_a_checkpoint_that_somebody_else_signed_is_refused(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    body = log.note(9).partition("\n\n")[0] + "\n"
    notes = [
        sign_note(body, log.origin, Ed25519PrivateKey.generate()),
        history(Ed25519PrivateKey.generate(), 9).note(9),
        log.note(9).replace("\n9\n", "\n8\n"),
    ]
    for note in notes:
        members = {"checkpoint": note, "consistency": log.proof(SEEN, 9)}
        observer.assert_refused(next_order(observer, study, **members), "SB-221")
        assert inside(observer) == "SB-415"


def test_a_refused_history_leaves_no_trace_in_what_is_remembered(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    """A head is remembered with the order or not at all: refusals of other rules remember none."""
    late = next_order(observer, study, expires="2026-11-22T11:00:00Z", **log.shows(9, since=SEEN))
    observer.assert_refused(late, "SB-206")
    observer.assert_refused(next_order(observer, study, **changed(log, 1).shows(9)), "SB-221")
    assert isinstance(
        observer.hospital.ask(next_order(observer, study, **log.shows(8, since=SEEN))), Result
    )


def test_an_old_order_played_again_is_answered_with_the_same_bytes_and_moves_nothing(
    tmp_path: Path,
) -> None:
    hospital, document = LabHospital(tmp_path), study_document()
    hospital.approve(document)
    log = history(hospital.coordinator.signing, 10)
    first = hospital.order(document, **log.shows(4))
    reply = hospital.vault.process(first)
    assert isinstance(hospital.ask(hospital.order(document, attempt=2, **log.shows(9, since=4))), Result)  # fmt: skip
    again = hospital.vault.process(first)
    assert again == reply
    grown = hospital.order(document, attempt=3, **log.shows(10, since=9))
    assert isinstance(hospital.ask(grown), Result)


# --- The order to witness


def witness_order(hospital: LabHospital, document: StudyDocument, **members: Any) -> bytes:
    values = {"kind": "witness", "layout": Layout(()).to_json(), "array": b""} | members
    return hospital.order(document, **values)


def test_an_order_to_witness_is_answered_with_a_cosignature_of_its_checkpoint(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    hospital, charges, reads = observer.hospital, observer.hospital.charges(), len(observer.reads)
    reply = hospital.ask(witness_order(hospital, study, **log.shows(9, since=SEEN)))
    assert isinstance(reply, WitnessReply), reply
    left = base64.b64decode(json.loads(reply.envelope)["payload"]).decode()
    assert set(json.loads(left)) == {"schema", "site", "node", "run", "order", "cosignature"}
    assert hospital.rows
    assert not [row for row in hospital.rows if str(row["patient_id"]) in left]
    found = read_cosignature(log.note(9), reply.message.cosignature, "north", hospital.public.signing)  # fmt: skip
    assert found.time == int(NOW.timestamp())
    assert (hospital.charges(), len(observer.reads)) == (charges, reads)
    events = [json.loads(e) for e in read_entries(log_place(hospital.config))]
    heads = [(e["event"], e["entries"], e["head"]) for e in events if "head" in e]
    assert heads[-2:] == [("witnessed", 9, log.head(9).text), ("cosigned", 9, log.head(9).text)]


@pytest.mark.parametrize("attack", ["fork", "back", "rewritten", "none", "forged"])
def test_nothing_is_cosigned_that_does_not_follow_from_what_was_seen(
    observer: Observer, study: StudyDocument, log: History, attack: str
) -> None:
    false = changed(log, 3)
    members = {
        "fork": false.shows(SEEN),
        "back": log.shows(4),
        "rewritten": false.shows(9, since=SEEN),
        "none": {"checkpoint": None},
        "forged": history(Ed25519PrivateKey.generate(), 9).shows(9, since=SEEN),
    }[attack]
    observer.assert_refused(witness_order(observer.hospital, study, **members), "SB-221")


@pytest.mark.parametrize(
    "members",
    [
        {"array": b"\0\0\0\0"},
        {"layout": [{"name": "w", "shape": [1]}]},
        {"masking": ("text",)},
        {"round": 2},
    ],
    ids=["array", "layout", "masking", "round"],
)
def test_an_order_to_witness_that_asks_for_more_is_refused(
    observer: Observer, study: StudyDocument, log: History, members: dict[str, Any]
) -> None:
    members |= log.shows(9, since=SEEN)
    observer.assert_refused(witness_order(observer.hospital, study, **members), "SB-202")


def test_a_log_is_witnessed_after_the_study_has_ended_and_without_its_approval(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    hospital = observer.hospital
    hospital.clock.advance(days=3650)
    assert isinstance(
        hospital.ask(witness_order(hospital, study, run="other-2", **log.shows(9, since=SEEN))),
        WitnessReply,
    )
    folder = approval_folder(hospital.config, study.digest)
    folder.rename(folder.with_name("gone"))
    assert isinstance(
        hospital.ask(
            witness_order(hospital, study, run="other-2", attempt=2, **log.shows(10, since=9))
        ),
        WitnessReply,
    )


def test_a_paused_hospital_cosigns_nothing_yet(
    observer: Observer, study: StudyDocument, log: History
) -> None:
    (observer.hospital.config.state / "paused").touch()
    observer.assert_refused(
        witness_order(observer.hospital, study, **log.shows(9, since=SEEN)), "SB-219"
    )


def test_two_hospitals_that_were_shown_two_histories_do_not_cosign_one_head(tmp_path: Path) -> None:
    document = study_document()
    north = LabHospital(tmp_path / "north")
    south = LabHospital(tmp_path / "south", coordinator=north.coordinator, site="south")
    truth = history(north.coordinator.signing, 9)
    false = changed(truth, 7)
    for hospital, shown in ((north, truth), (south, false)):
        hospital.approve(document)
        assert isinstance(hospital.ask(hospital.order(document, **shown.shows(8))), Result)
    for final in (truth, false):
        replies = [
            hospital.ask(witness_order(hospital, document, attempt=1 + (final is false), **final.shows(9, since=8)))
            for hospital in (north, south)
        ]  # fmt: skip
        assert sum(isinstance(reply, WitnessReply) for reply in replies) == 1
