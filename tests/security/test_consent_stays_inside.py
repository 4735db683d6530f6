"""Receipts, refusals and notices: bands and keyed digests, never a word of the consent file."""

import base64
import datetime as dt
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import NOW, LabHospital, study_document
from security.observer import PLANTED, Observer
from solblom_client import vault as vault_module
from solblom_client.cli import app
from solblom_client.cohorts.record import frozen_cohorts, read_manifest
from solblom_client.consent.notices import Notice, notice_of
from solblom_client.keys import read_node_keys
from solblom_client.log.decision_log import open_decisions
from solblom_client.outbox.outbox import Outbox, reject, release
from solblom_protocol.errors import DataError, IntegrityError
from solblom_protocol.messages.message import unframe
from solblom_protocol.messages.result import BANDS, Result
from solblom_protocol.messages.seal import unseal
from solblom_protocol.messages.withdrawal_notice import WithdrawalNotice, read_notice
from solblom_protocol.studies.study import StudyDocument

STUDY = study_document()
WORDS = ("granted", "withdrawn", "inactive", "2031-07-13", "Oslo", "guardian", "deceased")


@pytest.fixture
def north(observer: Observer) -> Observer:
    """A hospital in whose table and consent file a planted patient stands."""
    hospital = observer.hospital
    hospital.rows[0]["patient_id"] = PLANTED
    hospital.write_rows(hospital.rows)
    hospital.approve(STUDY)
    return observer


def write_source(hospital: LabHospital, text: str) -> None:
    """Write the consent source, as fresh as the laboratory's clock."""
    path = hospital.folder / "consent.csv"
    path.write_text(text, encoding="utf-8")
    os.utime(path, (hospital.clock().timestamp(),) * 2)


def use_fhir(observer: Observer, *, withdrawn: list[str]) -> None:
    """Let the hospital read a FHIR bundle from now on."""
    hospital = observer.hospital
    entries: list[dict[str, Any]] = [
        {
            "resourceType": "Consent",
            "status": "inactive" if row["patient_id"] in withdrawn else "active",
            "text": {"status": "additional", "div": "<div>Oslo</div>"},
            "scope": {"coding": [{"code": "research"}]},
            "patient": {"identifier": {"value": row["patient_id"]}},
            "provision": {"type": "permit", "period": {"end": "2031-07-13"}},
        }
        for row in hospital.rows
    ]
    value = {"resourceType": "Bundle", "type": "collection"}
    value |= {"entry": [{"resource": entry} for entry in entries]}  # type: ignore[dict-item]
    write_source(hospital, json.dumps(value))
    if "kind" not in (hospital.folder / "node.toml").read_text(encoding="utf-8"):
        observer.edit_config("[consent]", '[consent]\nkind = "fhir"')


def in_clear(data: bytes) -> bytes:
    """Return bytes with everything that stands in them as base64 beside them."""
    texts = re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", data)
    return data + b"".join(base64.b64decode(text + b"=" * (-len(text) % 4)) for text in texts)


def assert_nothing_of_consent(crossed: bytes) -> None:
    plain = in_clear(crossed)
    for word in (PLANTED, *WORDS):
        assert word.encode() not in plain


# --- Receipts and refusals


@pytest.mark.parametrize("kind", ["csv", "fhir"])
def test_nothing_of_the_consent_file_is_in_a_result(north: Observer, kind: str) -> None:
    hospital = north.hospital
    if kind == "csv":
        lines = [f"{row['patient_id']},granted,2031-07-13" for row in hospital.rows]
        hospital.write_consent([*lines, f"{PLANTED},withdrawn,2031-07-13"])
    else:
        use_fhir(north, withdrawn=[PLANTED])
    reply = hospital.vault.process(hospital.order(STUDY))
    result = hospital.read(reply)
    assert isinstance(result, Result)
    assert_nothing_of_consent(north.crossed(reply) + reply)
    assert result.receipt.patients in BANDS


@pytest.mark.parametrize(
    "text",
    [
        f"patient_id,status,valid_until\n{PLANTED},granted\n",
        f"{PLANTED}\n",
        f'{{"resourceType": "Bundle", "entry": [{{"resource": "{PLANTED}"}}]}}',
    ],
    ids=["cut-row", "no-header", "bundle"],
)
@pytest.mark.parametrize("kind", ["csv", "fhir"])
def test_nothing_of_a_broken_consent_file_is_in_a_refusal(
    north: Observer, kind: str, text: str
) -> None:
    if kind == "fhir":
        use_fhir(north, withdrawn=[])
    write_source(north.hospital, text)
    north.assert_data_refused(north.hospital.order(STUDY))
    assert_nothing_of_consent(north.refusals[-1])


def test_no_member_of_a_receipt_is_a_list_of_patients(north: Observer) -> None:
    result = north.hospital.ask(north.hospital.order(STUDY))
    assert isinstance(result, Result)
    members = json.loads(result.receipt.payload())
    assert members["consent"].startswith("sha256:")
    assert members["cohort"].startswith("sha256:")
    assert [name for name, value in members.items() if isinstance(value, list)] == [
        "outside_epsilon"
    ]


def test_the_same_consent_gives_another_digest_in_every_round(north: Observer) -> None:
    seen = set()
    for number in (1, 2, 3):
        result = north.hospital.ask(north.hospital.order(STUDY, round=number))
        assert isinstance(result, Result)
        seen |= {result.receipt.consent, result.receipt.cohort}
    assert len(seen) == 6


@pytest.mark.parametrize("kind", ["csv", "fhir"])
def test_a_withdrawal_erases_the_stored_reply_and_trains_without_the_patient(
    north: Observer, kind: str
) -> None:
    hospital = north.hospital
    if kind == "fhir":
        use_fhir(north, withdrawn=[])
    first = hospital.vault.process(hospital.order(STUDY))
    state = hospital.vault._state
    (record,) = frozen_cohorts(state)
    patient = sorted(read_manifest(state, record))[0]
    stored = next((hospital.config.state / "replies").iterdir()).read_bytes()
    if kind == "fhir":
        use_fhir(north, withdrawn=[patient])
    else:
        hospital.write_consent([f"{patient},withdrawn,"])
    second = hospital.vault.process(hospital.order(STUDY, attempt=2))
    assert second != first
    assert stored not in [f.read_bytes() for f in (hospital.config.state / "replies").iterdir()]
    assert patient not in read_manifest(state, frozen_cohorts(state)[-1])
    assert hospital.charges() == 2


# --- Impact, inside


def typed(*words: str, stdin: str | None = None) -> Any:
    return CliRunner().invoke(app, list(words), input=stdin)


def impact(hospital: LabHospital, patient: str) -> Any:
    done = typed("consent", "impact", "-", "--node", str(hospital.folder), "--json", stdin=patient)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_impact_names_every_round_receipt_and_model(north: Observer) -> None:
    hospital = north.hospital
    digests, models = [], []
    for number in (1, 2):
        result = hospital.ask(hospital.order(STUDY, round=number))
        assert isinstance(result, Result)
        digests.append(result.receipt_digest)
    patient = sorted(
        read_manifest(hospital.vault._state, frozen_cohorts(hospital.vault._state)[0])
    )[0]
    hospital.write_consent([f"{patient},withdrawn,"])
    other = b"\x00\x00\x80\x3f" * (len(hospital_weights(STUDY)) // 4)
    third = hospital.ask(hospital.order(STUDY, round=3, array=other))
    assert isinstance(third, Result)
    models.append(third.receipt.base_model)
    found = impact(hospital, f"  {patient}\n")
    assert [use["receipt"] for use in found["uses"]] == digests
    assert [use["round"] for use in found["uses"]] == [1, 2]
    assert {use["study"] for use in found["uses"]} == {STUDY.digest}
    assert found["models"] == models
    assert set(found["cannot_be_undone"]) == {"en", "no"}


def hospital_weights(study: StudyDocument) -> bytes:
    from solblom_server.rounds.rounds import initial_model

    return initial_model(study)[0]


def test_impact_of_somebody_who_was_never_used_is_empty(north: Observer) -> None:
    north.hospital.ask(north.hospital.order(STUDY))
    found = impact(north.hospital, "nobody")
    assert (found["uses"], found["models"]) == ([], [])


def test_impact_says_what_cannot_be_undone(north: Observer) -> None:
    hospital = north.hospital
    hospital.ask(hospital.order(STUDY))
    (record,) = frozen_cohorts(hospital.vault._state)
    patient = sorted(read_manifest(hospital.vault._state, record))[0]
    shown = typed("consent", "impact", patient, "--node", str(hospital.folder))
    text = " ".join(shown.stdout.split())
    assert "it is not removed" in text
    assert "begrenset av epsilon" in text


def test_show_prints_counts_and_no_patient(
    north: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault_module, "utc_now", lambda: NOW)
    north.hospital.write_consent([f"{PLANTED},withdrawn,", "a,granted,", "b,granted,2020-01-01"])
    done = typed("consent", "show", "--node", str(north.hospital.folder), "--json")
    data = json.loads(done.stdout)
    assert data["schema"] == "solblom.node.consent.show/1"
    assert (data["granted"], data["excluded"]) == (1, {"expired": 1, "withdrawn": 1})
    assert (data["rule"], data["without_a_record"]) == ("opt-out", "included")
    plain = typed("consent", "show", "--node", str(north.hospital.folder))
    assert PLANTED not in done.output + plain.output


# --- Notices


def notice(north: Observer) -> Notice:
    hospital = north.hospital
    keys = read_node_keys(hospital.config.state)
    coordinator, state = hospital.coordinator.public, hospital.vault._state
    return notice_of(hospital.config, keys, state, coordinator, now=hospital.clock())


def opened(north: Observer, sealed: bytes) -> WithdrawalNotice:
    hospital = north.hospital
    return read_notice(sealed, key=hospital.coordinator.sealing, node=hospital.public.signing)


def inside(north: Observer) -> list[str]:
    state = north.hospital.vault._state
    return sorted(read_manifest(state, frozen_cohorts(state)[0]))


@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_notice_says_yes_or_no_for_each_run_and_nothing_else(north: Observer, count: int) -> None:
    north.hospital.ask(north.hospital.order(STUDY))
    people = inside(north)[:count]
    north.hospital.write_consent([f"{patient},withdrawn," for patient in people])
    sealed = notice(north).sealed
    found = opened(north, sealed)
    assert [(r.study, r.run, r.affected) for r in found.runs] == [
        (STUDY.digest, "lab-1", int(count > 0))
    ]
    assert set(json.loads(found.payload())) == {
        *("schema", "site", "node", "issued", "runs", "padding")
    }
    plain = in_clear(unseal(sealed, kind="reply", key=north.hospital.coordinator.sealing))
    for patient in inside(north):
        assert patient.encode() not in plain


def test_a_notice_has_one_size_whether_nobody_or_many_withdrew(north: Observer) -> None:
    north.hospital.ask(north.hospital.order(STUDY))
    sizes = []
    for count in (0, 1, 20):
        people = inside(north)[:count]
        north.hospital.write_consent([f"{patient},withdrawn," for patient in people])
        sizes.append(len(notice(north).sealed))
        north.hospital.clock.advance(days=31)
    assert len(set(sizes)) == 1


def test_before_the_next_is_due_the_same_bytes_come_again(north: Observer) -> None:
    north.hospital.ask(north.hospital.order(STUDY))
    first = notice(north)
    north.hospital.write_consent([f"{patient},withdrawn," for patient in inside(north)[:3]])
    north.hospital.clock.advance(days=29)
    again = notice(north)
    assert (again.sealed, again.again) == (first.sealed, True)
    north.hospital.clock.advance(days=1)
    due = notice(north)
    assert not due.again
    assert [run.affected for run in opened(north, due.sealed).runs] == [1]


def test_once_affected_always_affected(north: Observer) -> None:
    """Whoever comes back would otherwise be seen coming back."""
    north.hospital.ask(north.hospital.order(STUDY))
    north.hospital.write_consent([f"{inside(north)[0]},withdrawn,"])
    notice(north)
    north.hospital.write_consent([])
    north.hospital.clock.advance(days=31)
    assert [run.affected for run in opened(north, notice(north).sealed).runs] == [1]


def test_who_is_no_part_of_a_run_affects_none(north: Observer) -> None:
    north.hospital.ask(north.hospital.order(STUDY))
    others = {row["patient_id"] for row in north.hospital.rows} - set(inside(north))
    north.hospital.write_consent([f"{patient},withdrawn," for patient in others])
    assert [run.affected for run in opened(north, notice(north).sealed).runs] == [0]


def test_an_expiry_is_no_withdrawal(north: Observer) -> None:
    north.hospital.ask(north.hospital.order(STUDY))
    north.hospital.write_consent([f"{patient},granted,2020-01-01" for patient in inside(north)])
    assert [run.affected for run in opened(north, notice(north).sealed).runs] == [0]


def test_a_row_that_vanished_under_opt_in_is_a_withdrawal(tmp_path: Path) -> None:
    """A register that gives no history shows a withdrawal by silence."""
    hospital = LabHospital(tmp_path / "north", consent_rule="opt-in")
    lines = [f"{row['patient_id']},granted," for row in hospital.rows]
    hospital.write_consent(lines)
    hospital.approve(STUDY)
    north = Observer(hospital)
    hospital.ask(hospital.order(STUDY))
    hospital.write_consent([line for line in lines if inside(north)[0] not in line])
    assert [run.affected for run in opened(north, notice(north).sealed).runs] == [1]


def test_a_notice_reads_every_manifest_whatever_the_first_one_says(
    north: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solblom_client.consent import notices as consent_notices

    hospital = north.hospital
    hospital.ask(hospital.order(STUDY, round=1))
    hospital.write_rows(hospital.rows[20:])
    hospital.ask(hospital.order(STUDY, round=2))
    read: list[str] = []
    real = consent_notices.read_manifest
    monkeypatch.setattr(
        consent_notices, "read_manifest", lambda s, r: read.append(r.manifest) or real(s, r)
    )
    for people in ([], inside(north)):
        hospital.write_consent([f"{patient},withdrawn," for patient in people])
        notice(north)
        hospital.clock.advance(days=31)
    assert len(read) == 4
    assert read[:2] == read[2:]


@pytest.fixture
def careful(tmp_path: Path) -> Observer:
    """A hospital where a person releases each answer."""
    hospital = LabHospital(tmp_path / "north", policy='release = "manual"')
    hospital.approve(STUDY)
    return Observer(hospital)


def decide(hospital: LabHospital, what: str) -> None:
    """Release or reject the one answer that waits."""
    config, state = hospital.config, hospital.vault._state
    keys, now = read_node_keys(config.state), hospital.clock()
    log = open_decisions(config, keys)
    (name,) = [held.request for held in Outbox.of(config).all() if held.status == "waiting"]
    if what == "released":
        release(config, keys, log, name, by="Kari", now=now)
    else:
        reject(config, log, name, state=state, by="Kari", now=now)


@pytest.mark.parametrize(
    ("decided", "runs"), [("waiting", []), ("rejected", []), ("released", [("lab-1", 1)])]
)
def test_a_notice_lists_no_run_of_which_nothing_was_given(
    careful: Observer, decided: str, runs: list[tuple[str, int]]
) -> None:
    hospital = careful.hospital
    hospital.ask(hospital.order(STUDY))
    if decided != "waiting":
        decide(hospital, decided)
    hospital.write_consent([f"{inside(careful)[0]},withdrawn,"])
    found = opened(careful, notice(careful).sealed)
    assert [(run.run, run.affected) for run in found.runs] == runs


@pytest.mark.parametrize(("second", "affected"), [("rejected", 0), ("released", 1)])
def test_who_was_in_a_rejected_answer_alone_affects_no_run(
    careful: Observer, second: str, affected: int
) -> None:
    hospital, everybody = careful.hospital, careful.hospital.rows
    hospital.write_rows(everybody[20:])
    hospital.ask(hospital.order(STUDY, round=1))
    decide(hospital, "released")
    hospital.write_rows(everybody)
    hospital.ask(hospital.order(STUDY, round=2))
    decide(hospital, second)
    state = hospital.vault._state
    one, two = (set(read_manifest(state, record)) for record in frozen_cohorts(state))
    hospital.write_consent([f"{patient},withdrawn," for patient in two - one])
    assert two - one
    assert [run.affected for run in opened(careful, notice(careful).sealed).runs] == [affected]


def test_a_notice_tells_the_day_and_not_the_hour(north: Observer) -> None:
    north.hospital.clock.now += dt.timedelta(hours=7, minutes=13)
    assert opened(north, notice(north).sealed).issued == "2026-11-22T00:00:00Z"


def test_a_notice_of_another_node_or_changed_is_refused(north: Observer) -> None:
    sealed = notice(north).sealed
    other = LabHospital(north.hospital.folder.parent / "south", site="south")
    with pytest.raises(IntegrityError):
        read_notice(sealed, key=north.hospital.coordinator.sealing, node=other.public.signing)
    with pytest.raises(IntegrityError):
        opened(north, sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_a_receipt_is_no_notice(north: Observer) -> None:
    reply = north.hospital.vault.process(north.hospital.order(STUDY))
    with pytest.raises(IntegrityError):
        opened(north, reply)


def test_without_a_fresh_source_there_is_no_notice(north: Observer) -> None:
    (north.hospital.folder / "consent.csv").unlink()
    with pytest.raises(DataError):
        notice(north)


def test_the_command_writes_the_sealed_notice(
    north: Observer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vault_module, "utc_now", lambda: NOW)
    north.hospital.ask(north.hospital.order(STUDY))
    file = tmp_path / "notice"
    where = ("--node", str(north.hospital.folder), "--out", str(file))
    done = typed("consent", "notices", *where, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert (data["runs"], data["again"], data["next"]) == (1, False, "2026-12-22T12:00:00Z")
    assert len(opened(north, file.read_bytes()).runs) == 1
    envelope, rest = unframe(
        unseal(file.read_bytes(), kind="reply", key=north.hospital.coordinator.sealing)
    )
    assert (bool(envelope), bytes(rest)) == (True, b"")
    assert typed("consent", "notices", *where).exit_code == 3  # it is never written over


def test_cohorts_are_listed_and_rebuilt_on_the_command_line(north: Observer) -> None:
    hospital = north.hospital
    result = hospital.ask(hospital.order(STUDY))
    assert isinstance(result, Result)
    node = ("--node", str(hospital.folder), "--json")
    listed = json.loads(typed("cohort", "list", *node).stdout)["cohorts"]
    assert [row["receipt"] for row in listed] == [result.receipt_digest]
    done = typed("cohort", "rebuild", result.receipt_digest, *node)
    assert (done.exit_code, json.loads(done.stdout)["exact"]) == (0, True)
    gone = inside(north)[0]
    hospital.write_rows([row for row in hospital.rows if row["patient_id"] != gone])
    done = typed("cohort", "rebuild", result.receipt_digest, *node)
    assert (done.exit_code, json.loads(done.stdout)["missing"]) == (1, 1)
    assert gone not in done.output
    named = typed("cohort", "rebuild", result.receipt_digest, "--ids", *node)
    assert json.loads(named.stdout)["missing_ids"] == [gone]
