"""A person has the last word: answers wait, the waiting says nothing, and every decision is logged by name."""

import datetime as dt
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import NOW, LabHospital, study_document
from security.observer import PLANTED
from solblom_client.approvals.approval import revoke
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.keys import read_node_keys
from solblom_client.link.exchange import exchange_once
from solblom_client.log.check import verify_log
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import (
    DecisionLog,
    _add,
    log_place,
    open_decisions,
    read_entries,
)
from solblom_client.log.log_file import size_of
from solblom_client.outbox.outbox import HeldAnswer, Outbox, reject, release
from solblom_client.policy import PolicyTable, load_node_config
from solblom_client.service.opening_hours import is_open, vault_pause_file
from solblom_client.state import VaultState
from solblom_protocol.errors import DataError, IntegrityError, RefusedError
from solblom_protocol.messages.mailbox import list_mail, write_mail
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument

BY = "Kari Nordmann"


@pytest.fixture
def careful(tmp_path: Path) -> LabHospital:
    """A hospital where a person releases each answer."""
    return LabHospital(tmp_path / "north", policy='release = "manual"')


@pytest.fixture
def study(careful: LabHospital) -> StudyDocument:
    document = study_document()
    careful.approve(document)
    return document


def code(hospital: LabHospital, order: bytes) -> str:
    reply = hospital.ask(order)
    assert isinstance(reply, Refusal)
    return reply.code


def held(hospital: LabHospital) -> HeldAnswer:
    (answer,) = Outbox.of(hospital.config).all()
    return answer


def let_go(hospital: LabHospital, *, by: str = BY) -> HeldAnswer:
    keys = read_node_keys(hospital.config.state)
    log = open_decisions(hospital.config, keys)
    name = held(hospital).request
    return release(hospital.config, keys, log, name, by=by, now=hospital.clock())


def throw_away(hospital: LabHospital) -> HeldAnswer:
    log = open_decisions(hospital.config, read_node_keys(hospital.config.state))
    state = VaultState(hospital.config.state / STATE_FILE)
    try:
        name = held(hospital).request
        return reject(hospital.config, log, name, state=state, by=BY, now=hospital.clock())
    finally:
        state.close()


def logged(hospital: LabHospital) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in read_entries(log_place(hospital.config))]


def stored_files(hospital: LabHospital) -> list[Path]:
    return list((hospital.config.state / "replies").glob("*.reply"))


# --- Waiting


def test_an_answer_does_not_leave_before_a_person_has_released_it(
    careful: LabHospital, study: StudyDocument
) -> None:
    assert code(careful, careful.order(study)) == "SB-219"
    for attempt in (2, 3, 4):
        assert code(careful, careful.order(study, attempt=attempt)) == "SB-219"
    assert careful.charges() == 1


def test_a_released_answer_leaves_when_it_is_asked_for_again_for_one_charge_and_always_the_same(
    careful: LabHospital, study: StudyDocument
) -> None:
    first = careful.order(study)
    assert code(careful, first) == "SB-219"
    let_go(careful)
    replies = [careful.vault.process(careful.order(study, attempt=n)) for n in (2, 3)]
    assert replies[0] == replies[1] == careful.vault.process(first)
    assert isinstance(careful.read(replies[0]), Result)
    assert careful.charges() == 1


def test_the_bytes_are_those_that_would_have_left_without_a_person(tmp_path: Path) -> None:
    updates = []
    for number, policy in enumerate(("", 'release = "manual"')):
        lab = LabHospital(tmp_path / str(number), policy=policy)
        document = study_document()
        lab.approve(document)
        first = lab.ask(lab.order(document))
        if isinstance(first, Refusal):
            let_go(lab)
            first = lab.ask(lab.order(document, attempt=2))
        assert isinstance(first, Result)
        updates.append(len(first.update))
    assert updates[0] == updates[1]


def test_waiting_is_the_same_whatever_the_data(
    careful: LabHospital, study: StudyDocument, tmp_path: Path
) -> None:
    other = LabHospital(tmp_path / "south", policy='release = "manual"', patients=200)
    document = study_document()
    other.approve(document)
    replies = [lab.vault.process(lab.order(document)) for lab in (careful, other)]
    assert [lab.read(r).code for lab, r in zip((careful, other), replies, strict=True)] == ["SB-219"] * 2  # type: ignore[union-attr]  # fmt: skip
    assert len({len(reply) for reply in replies}) == 1


def test_waiting_counts_as_no_refusal_that_depends_on_data(
    careful: LabHospital, study: StudyDocument
) -> None:
    for attempt in range(1, 6):
        assert code(careful, careful.order(study, attempt=attempt)) == "SB-219"
    let_go(careful)
    assert isinstance(careful.ask(careful.order(study, attempt=6)), Result)


def test_a_restart_does_not_let_a_waiting_answer_out(
    careful: LabHospital, study: StudyDocument
) -> None:
    order = careful.order(study)
    assert code(careful, order) == "SB-219"
    careful.restart()
    assert code(careful, order) == "SB-219"


def test_a_record_that_was_removed_or_changed_lets_nothing_out(
    careful: LabHospital, study: StudyDocument
) -> None:
    order = careful.order(study)
    assert code(careful, order) == "SB-219"
    path = careful.config.state / "outbox" / f"{held(careful).request[7:]}.json"
    for broken in (b"{}", b""):
        path.write_bytes(broken)
        outbox = Outbox.of(careful.config)
        assert (outbox.all(), outbox.broken()) == ([], [path.name])
        with pytest.raises(IntegrityError):
            outbox.named(path.stem)
        assert isinstance(careful.ask(order), Refusal)
    path.unlink()
    assert code(careful, order) == "SB-219"


def test_what_left_before_the_hospital_released_by_hand_may_be_sent_again(
    hospital: LabHospital,
) -> None:
    document = study_document()
    hospital.approve(document)
    order = hospital.order(document)
    first = hospital.vault.process(order)
    toml = hospital.folder / "node.toml"
    toml.write_text(toml.read_text().replace("[policy]\n", '[policy]\nrelease = "manual"\n'))
    hospital.config = load_node_config(hospital.folder)
    hospital.restart()
    assert hospital.vault.process(order) == first
    assert code(hospital, hospital.order(document, round=2)) == "SB-219"


def test_a_study_without_privacy_cannot_wait_so_it_is_refused(tmp_path: Path) -> None:
    lab = LabHospital(tmp_path / "n", policy='release = "manual"\nallow_privacy_off = true')
    with pytest.raises(RefusedError, match="none can wait"):
        lab.approve(study_document(privacy={"epsilon": "off"}))


def test_a_record_that_says_released_lets_nothing_out_unless_the_log_names_who_did_it(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    path = careful.config.state / "outbox" / f"{held(careful).request[7:]}.json"
    waiting = path.read_bytes()
    path.write_bytes(waiting.replace(b'"status":"waiting"', b'"status":"released"'))
    assert code(careful, careful.order(study, attempt=2)) == "SB-219"
    path.write_bytes(waiting)
    let_go(careful)
    assert isinstance(careful.ask(careful.order(study, attempt=3)), Result)


def test_a_held_answer_stays_held_when_its_record_is_lost_and_the_policy_changes(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    (careful.config.state / "outbox" / f"{held(careful).request[7:]}.json").unlink()
    toml = careful.folder / "node.toml"
    toml.write_text(toml.read_text().replace('release = "manual"', 'release = "automatic"'))
    careful.config = load_node_config(careful.folder)
    careful.restart()
    assert code(careful, careful.order(study, attempt=2)) == "SB-219"


def test_a_release_slipped_into_the_log_lets_nothing_out(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    place, record = log_place(careful.config), held(careful)
    path = careful.config.state / "outbox" / f"{record.request[7:]}.json"
    path.write_bytes(path.read_bytes().replace(b'"status":"waiting"', b'"status":"released"'))
    database = sqlite3.connect(place.folder / "decisions.sqlite")
    with database:  # the entry that says `held` now says that a person released it
        database.execute(
            "UPDATE entries SET entry = replace(entry, '\"held\"', '\"manual-release\"')"
        )
    database.close()
    assert code(careful, careful.order(study, attempt=2)) == "SB-219"
    forger = DecisionLog(replace(place, state=None), Ed25519PrivateKey.generate())
    with pytest.raises(IntegrityError):
        forger.append(Decision("manual-release", work=record.work, by=BY), now=NOW)
    database = sqlite3.connect(place.folder / "decisions.sqlite")
    with database:
        seq = size_of(database)
        _add(database, Decision("manual-release", work=record.work, by=BY), now=NOW)
    database.close()
    assert len(read_entries(place)) == seq + 1
    assert isinstance(careful.ask(careful.order(study, attempt=3)), Refusal)


def test_a_broken_record_hides_no_other_answer(careful: LabHospital, study: StudyDocument) -> None:
    careful.ask(careful.order(study))
    path = careful.config.state / "outbox" / f"{'0' * 64}.json"
    path.write_bytes(b"")
    assert held(careful).status == "waiting"
    assert Outbox.of(careful.config).broken() == [path.name]
    let_go(careful)
    assert isinstance(careful.ask(careful.order(study, attempt=2)), Result)


def test_an_answer_whose_bytes_a_later_round_erased_is_not_released(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    first = held(careful)
    assert code(careful, careful.order(study, round=2)) == "SB-219"
    config, keys = careful.config, read_node_keys(careful.config.state)
    log = open_decisions(config, keys)
    with pytest.raises(RefusedError, match="are gone"):
        release(config, keys, log, first.request, by=BY, now=careful.clock())
    second = next(h for h in Outbox.of(config).all() if h.round == 2)
    assert release(config, keys, log, second.request, by=BY, now=NOW).status == "released"
    assert isinstance(careful.ask(careful.order(study, round=2, attempt=2)), Result)
    assert "manual-release" not in [e["event"] for e in logged(careful) if e.get("round") == 1]


def test_leaving_again_is_logged_after_any_flood_of_orders(
    careful: LabHospital, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solblom_client.log.repeats.MOST_KINDS", 6)
    for attempt in range(1, 8):
        careful.ask(careful.order(study, attempt=attempt))
    let_go(careful)
    assert isinstance(careful.ask(careful.order(study, attempt=8)), Result)
    assert "again" in [entry["event"] for entry in logged(careful)]


# --- What a person sees


def test_a_person_sees_bytes_names_norm_price_and_where_it_goes(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    shown = held(careful)
    let_go(careful)
    result = careful.ask(careful.order(study, attempt=2))
    assert isinstance(result, Result)
    values = np.frombuffer(result.update, dtype="<f4")
    assert shown.size_bytes == len(result.update)
    assert shown.update == result.receipt.update
    assert [t["name"] for t in shown.tensors]
    assert float(shown.norm or 0) == pytest.approx(float(np.linalg.norm(values)), rel=1e-3)
    assert 0 < float(shown.epsilon) <= 2.0
    assert shown.destination == careful.coordinator.public.key_id
    assert shown.patients == result.receipt.patients


# --- Deciding


def test_releasing_and_rejecting_are_logged_with_the_persons_name(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    let_go(careful)
    careful.ask(careful.order(study, attempt=2))
    events = [(entry["event"], entry.get("by")) for entry in logged(careful)]
    assert ("held", None) in events
    assert ("manual-release", BY) in events
    assert ("again", None) in events
    keys = read_node_keys(careful.config.state)
    assert verify_log(log_place(careful.config), keys.signing.public_key()).problems == ()


def test_a_rejected_answer_is_erased_never_computed_again_and_its_charge_stays(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    assert len(stored_files(careful)) == 1
    throw_away(careful)
    assert stored_files(careful) == []
    for attempt in (2, 3):
        assert code(careful, careful.order(study, attempt=attempt)) == "SB-220"
    assert careful.charges() == 1
    with pytest.raises(RefusedError, match="It was rejected"):
        let_go(careful)


def test_nobody_decides_without_a_name(careful: LabHospital, study: StudyDocument) -> None:
    careful.ask(careful.order(study))
    for name in ("", "1", "x\ny"):
        with pytest.raises(IntegrityError):
            let_go(careful, by=name)
    assert held(careful).status == "waiting"


def test_a_withdrawal_between_making_and_releasing_keeps_the_bytes_inside(
    careful: LabHospital, study: StudyDocument
) -> None:
    order = careful.order(study)
    careful.ask(order)
    before = held(careful)
    let_go(careful)
    careful.write_consent([f"{row['patient_id']},withdrawn," for row in careful.rows[:20]])
    reply = careful.ask(careful.order(study, attempt=2))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-219"  # new noise, a charge of its own, and a person looks again
    after = held(careful)
    assert (after.status, after.request) == ("waiting", before.request)
    assert after.work != before.work
    assert careful.charges() == 2


def test_a_revoked_study_is_not_released(careful: LabHospital, study: StudyDocument) -> None:
    careful.ask(careful.order(study))
    revoke(careful.config, study.digest)
    with pytest.raises(RefusedError) as error:
        let_go(careful)
    assert error.value.code == "SB-203"


def test_a_study_that_was_revoked_after_the_release_gets_nothing(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    let_go(careful)
    revoke(careful.config, study.digest)
    assert code(careful, careful.order(study, attempt=2)) == "SB-203"


def test_a_study_that_ended_meanwhile_is_not_released(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    careful.clock.now = dt.datetime(2028, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(RefusedError, match="ended"):
        let_go(careful)


def test_a_stale_consent_source_releases_nothing(
    careful: LabHospital, study: StudyDocument
) -> None:
    careful.ask(careful.order(study))
    (careful.folder / "consent.csv").unlink()
    with pytest.raises(DataError):
        let_go(careful)
    assert held(careful).status == "waiting"


# --- By file


def test_by_file_no_reply_lies_in_the_outbox_before_the_release(tmp_path: Path) -> None:
    lab = LabHospital(tmp_path / "north", policy='release = "manual"')
    toml = lab.folder / "node.toml"
    text = toml.read_text().replace(
        "[coordinator]\n", '[coordinator]\ninbox = "in"\noutbox = "out"\n'
    )
    toml.write_text(text)
    for name in ("in", "out"):
        (lab.folder / name).mkdir()
    lab.config = load_node_config(lab.folder)
    lab.restart()
    document = study_document()
    lab.approve(document)
    order = write_mail(lab.folder / "in", lab.order(document))
    for _ in range(3):
        assert exchange_once(lab.config, lab.vault).held == [order.path.name]
        assert list_mail(lab.folder / "out").mail == ()
    let_go(lab)
    assert exchange_once(lab.config, lab.vault).answered == [order.path.name]
    assert len(list_mail(lab.folder / "out").mail) == 1


# --- Hours and pauses


@pytest.mark.parametrize(
    ("hours", "utc", "expected"),
    [
        ("22:00-06:00", "2026-11-22T20:59:00+00:00", False),  # 21:59 in Oslo
        ("22:00-06:00", "2026-11-22T21:00:00+00:00", True),
        ("22:00-06:00", "2026-11-22T23:30:00+00:00", True),
        ("22:00-06:00", "2026-11-23T04:59:59+00:00", True),
        ("22:00-06:00", "2026-11-23T05:00:00+00:00", False),
        ("22:00-06:00", "2026-06-22T20:00:00+00:00", True),  # 22:00 in summer time
        ("08:00-16:00", "2026-11-22T07:00:00+00:00", True),
        ("08:00-16:00", "2026-11-22T15:00:00+00:00", False),
        ("08:00-08:00", "2026-11-22T07:00:00+00:00", False),
    ],
)
def test_hours_are_those_of_the_clock_on_the_wall(hours: str, utc: str, expected: bool) -> None:
    policy = PolicyTable(tasks=("t",), study_signers=("s",), hours=hours)
    assert is_open(policy, dt.datetime.fromisoformat(utc)) is expected


def test_outside_its_hours_a_hospital_reads_and_charges_nothing(tmp_path: Path) -> None:
    lab = LabHospital(tmp_path / "north", policy='hours = "22:00-06:00"')
    document = study_document()
    lab.approve(document)
    assert code(lab, lab.order(document)) == "SB-219"  # 13:00 in Oslo
    assert lab.charges() == 0
    lab.clock.now = NOW + dt.timedelta(hours=10)
    lab.write_consent([])
    assert isinstance(lab.ask(lab.order(document)), Result)


def test_a_paused_vault_answers_nothing_whoever_asks(hospital: LabHospital) -> None:
    document = study_document()
    hospital.approve(document)
    order = hospital.order(document)
    vault_pause_file(hospital.config).touch()
    assert code(hospital, order) == "SB-219"
    assert hospital.charges() == 0
    vault_pause_file(hospital.config).unlink()
    assert isinstance(hospital.ask(order), Result)


# --- What the log tells


def test_every_answer_and_every_refusal_stands_in_the_log_and_no_patient_does(
    hospital: LabHospital,
) -> None:
    hospital.rows[0]["patient_id"] = PLANTED
    hospital.write_rows(hospital.rows)
    document = study_document()
    hospital.approve(document)
    order = hospital.order(document)
    assert isinstance(hospital.ask(order), Result)
    assert code(hospital, hospital.order(document, roster=[])) == "SB-202"
    assert code(hospital, b"garbage") == "SB-202"
    hospital.write_rows(hospital.rows[:3])
    assert code(hospital, hospital.order(document, round=2)) == "SB-209"
    entries = logged(hospital)
    accepted = ["received", "reserved", "accepted"]
    assert [entry["event"] for entry in entries] == [
        "approved", *accepted, "released", "received", "refused", "refused", *accepted, "received", "refused",
    ]  # fmt: skip
    refused = [(e["code"], e["outside"]) for e in entries if e["event"] == "refused"]
    assert ("SB-306", "SB-209") in refused
    assert len(refused) == 3
    text = "\n".join(read_entries(log_place(hospital.config)))
    for word in (PLANTED, "patient", ".csv", "Traceback"):
        assert word not in text
