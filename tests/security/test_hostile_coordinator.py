"""A hostile coordinator, courier or stranger sends orders; the vault says a code and nothing else.

Each refusal is checked for four things: its code, that nothing but the code crosses, that nothing was charged, and
that no patient row was read.
"""

import datetime as dt
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lab import LabCoordinator, LabHospital, study_document
from security.observer import Observer, forge
from solblom_protocol.messages.message import as_json, timestamp, unframe
from solblom_protocol.messages.order import RosterEntry, seal_order, write_order
from solblom_protocol.messages.result import RECEIPT_PAYLOAD_TYPE, Result
from solblom_protocol.messages.seal import LockedArray, lock, seal, split_body, unseal
from solblom_protocol.studies.study import StudyDocument
from solblom_server.rounds.rounds import initial_model
from solblom_verify.canonical import canonical_json, digest, parse_canonical

UNKNOWN = "sha256:" + "5" * 64


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    """The laboratory's study, approved."""
    document = study_document()
    observer.hospital.approve(document)
    return document


def answered(hospital: LabHospital, sealed: bytes) -> Result:
    reply = hospital.ask(sealed)
    assert isinstance(reply, Result), reply
    return reply


def changed_header(hospital: LabHospital, document: StudyDocument, /, **members: Any) -> bytes:
    """An order signed by the real coordinator whose payload no model would let through."""
    weights = initial_model(document)[0]
    payload = as_json(hospital.header(document, weights)) | members
    return forge(
        payload, weights, key=hospital.coordinator.signing, recipient=hospital.public.sealing
    )


# --- Who signed, and for whom


def test_an_order_signed_by_another_coordinator_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, weights = observer.hospital, initial_model(study)[0]
    sealed = write_order(
        hospital.header(study, weights),
        lock(weights),
        key=Ed25519PrivateKey.generate(),
        recipient=hospital.public.sealing,
    ).sealed
    observer.assert_refused(sealed, "SB-201", named=False)


def test_an_order_that_names_another_coordinator_than_its_signer_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    sealed = observer.hospital.order(study, coordinator=LabCoordinator().public.key_id)
    observer.assert_refused(sealed, "SB-201", named=False)


def test_a_header_changed_after_signing_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    sealing = X25519PrivateKey.generate()
    weights = initial_model(study)[0]
    honest = write_order(
        hospital.header(study, weights),
        lock(weights),
        key=hospital.coordinator.signing,
        recipient=sealing.public_key(),
    ).sealed
    envelope, array_key = unframe(unseal(honest, kind="order", key=sealing))
    other = forge(
        as_json(hospital.header(study, weights, round=2)),
        weights,
        key=Ed25519PrivateKey.generate(),
        recipient=sealing.public_key(),
    )
    members: Any = parse_canonical(envelope)
    payload: Any = parse_canonical(unframe(unseal(other, kind="order", key=sealing))[0])
    members["payload"] = payload["payload"]
    locked = LockedArray(array_key, split_body(honest)[1])
    sealed = seal_order(canonical_json(members), locked, recipient=hospital.public.sealing).sealed
    observer.assert_refused(sealed, "SB-201", named=False)


@pytest.mark.parametrize(
    "change",
    [
        {"site": "south"},
        {"node": "1" * 64},
        {"roster": [RosterEntry(site="south", node="1" * 64)]},
        {"roster": [RosterEntry(site="north", node="1" * 64)]},
        {"roster": []},
    ],
    ids=["site", "node", "roster-of-others", "roster-with-another-key", "empty-roster"],
)
def test_an_order_meant_for_somebody_else_is_refused(
    observer: Observer, study: StudyDocument, change: dict[str, Any]
) -> None:
    observer.assert_refused(observer.hospital.order(study, **change), "SB-202")


def test_an_order_sealed_to_another_recipient_key_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, weights = observer.hospital, initial_model(study)[0]
    sealed = write_order(
        hospital.header(study, weights),
        lock(weights),
        key=hospital.coordinator.signing,
        recipient=X25519PrivateKey.generate().public_key(),
    ).sealed
    observer.assert_refused(sealed, "SB-202", named=False)


def test_an_order_replayed_at_another_hospital_is_refused(
    observer: Observer, study: StudyDocument, tmp_path: Path
) -> None:
    south = LabHospital(tmp_path / "south", coordinator=observer.hospital.coordinator, site="south")
    observer.assert_refused(south.order(study), "SB-202", named=False)
    weights = initial_model(study)[0]
    resealed = write_order(
        south.header(study, weights),
        lock(weights),
        key=south.coordinator.signing,
        recipient=observer.hospital.public.sealing,
    ).sealed
    observer.assert_refused(resealed, "SB-202")


def test_a_reply_fed_back_as_an_order_is_refused(observer: Observer, study: StudyDocument) -> None:
    hospital = observer.hospital
    reply = hospital.vault.process(hospital.order(study))
    observer.assert_refused(reply, "SB-202", named=False)
    plain = unseal(reply, kind="reply", key=hospital.coordinator.sealing)
    resealed = seal(plain, kind="order", recipient=hospital.public.sealing)
    observer.assert_refused(resealed, "SB-201", named=False)


def test_an_envelope_of_another_payload_type_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, weights = observer.hospital, initial_model(study)[0]
    sealed = forge(
        as_json(hospital.header(study, weights)),
        weights,
        key=hospital.coordinator.signing,
        recipient=hospital.public.sealing,
        payload_type=RECEIPT_PAYLOAD_TYPE,
    )
    observer.assert_refused(sealed, "SB-201", named=False)


# --- What the header says


@pytest.mark.parametrize(
    "members",
    [
        {"epsilon": 100},
        {"schema": "solblom.order/2"},
        {"kind": "predict"},
        {"round": 0},
        {"round": 10_001},
        {"round": "1"},
        {"study": "../../etc/passwd"},
        {"run": "../lab"},
        {"expires": "tomorrow"},
        {"noise": "none"},
        {"roster": None},
    ],
    ids=lambda members: "-".join(f"{k}-{v}" for k, v in members.items()),
)
def test_a_header_with_unknown_members_or_values_is_refused(
    observer: Observer, study: StudyDocument, members: dict[str, Any]
) -> None:
    sealed = changed_header(observer.hospital, study, **members)
    observer.assert_refused(sealed, "SB-202", named=False)


@pytest.mark.parametrize("member", ["issued", "expires"])
def test_a_header_with_an_impossible_date_is_malformed(
    observer: Observer, study: StudyDocument, member: str
) -> None:
    sealed = observer.hospital.order(study, **{member: "2027-02-30T00:00:00Z"})
    observer.assert_refused(sealed, "SB-202", named=False)


@pytest.mark.parametrize(
    "cut", [slice(0, 0), slice(0, 20), slice(0, 23)], ids=["all", "tensor", "byte"]
)
def test_an_array_that_was_cut_on_its_way_is_refused(
    observer: Observer, study: StudyDocument, cut: slice
) -> None:
    hospital, weights = observer.hospital, initial_model(study)[0]
    payload = as_json(hospital.header(study, weights))
    sealed = forge(
        payload, weights[cut], key=hospital.coordinator.signing, recipient=hospital.public.sealing
    )
    observer.assert_refused(sealed, "SB-202", named=False)


def test_an_array_swapped_for_another_model_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    hospital, weights = observer.hospital, initial_model(study)[0]
    payload = as_json(hospital.header(study, weights))
    other = np.ones(6, dtype="<f4").tobytes()
    sealed = forge(
        payload, other, key=hospital.coordinator.signing, recipient=hospital.public.sealing
    )
    observer.assert_refused(sealed, "SB-202", named=False)


# --- When


@pytest.mark.parametrize(
    "times",
    [
        {"issued": -7200, "expires": -1},
        {"issued": 301, "expires": 3600},
    ],
    ids=["expired", "issued-in-the-future"],
)
def test_an_order_outside_its_time_is_refused(
    observer: Observer, study: StudyDocument, times: dict[str, int]
) -> None:
    now = observer.hospital.clock()
    change = {name: timestamp(now + dt.timedelta(seconds=s)) for name, s in times.items()}
    observer.assert_refused(observer.hospital.order(study, **change), "SB-206")


def test_an_answered_order_is_refused_after_it_has_expired(
    observer: Observer, study: StudyDocument
) -> None:
    order = observer.hospital.order(study)
    answered(observer.hospital, order)
    observer.hospital.clock.advance(hours=2)
    observer.assert_refused(order, "SB-206")


def test_a_clock_that_went_backwards_stops_the_node(
    observer: Observer, study: StudyDocument
) -> None:
    answered(observer.hospital, observer.hospital.order(study))
    observer.hospital.clock.advance(minutes=-6)
    observer.hospital.restart()
    observer.assert_refused(observer.hospital.order(study, round=2), "SB-206")


def test_an_order_after_the_end_of_the_study_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    observer.hospital.clock.now = dt.datetime(2028, 1, 1, tzinfo=dt.UTC)
    observer.assert_refused(observer.hospital.order(study), "SB-206")


# --- The chain of orders


def test_a_round_beyond_the_approved_number_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    observer.assert_refused(observer.hospital.order(study, round=4), "SB-205")


def test_a_replayed_older_round_is_refused(observer: Observer, study: StudyDocument) -> None:
    first = observer.hospital.order(study)
    answered(observer.hospital, first)
    answered(observer.hospital, observer.hospital.order(study, round=2))
    observer.assert_refused(first, "SB-207")
    observer.assert_refused(observer.hospital.order(study, attempt=9), "SB-207")


def test_other_bytes_under_an_attempt_that_was_made_are_refused(
    observer: Observer, study: StudyDocument
) -> None:
    answered(observer.hospital, observer.hospital.order(study, attempt=2))
    other = np.full(6, 0.25, dtype="<f4").tobytes()
    for attempt in (1, 2):
        sealed = observer.hospital.order(study, array=other, attempt=attempt)
        observer.assert_refused(sealed, "SB-207")


def test_an_order_that_follows_an_unknown_order_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    observer.assert_refused(observer.hospital.order(study, previous_order=UNKNOWN), "SB-207")


def test_a_receipt_that_the_node_never_made_stops_the_node(
    observer: Observer, study: StudyDocument
) -> None:
    observer.assert_refused(observer.hospital.order(study, last_receipt=UNKNOWN), "SB-208")


def test_a_node_whose_state_was_rolled_back_says_so_when_its_receipt_is_named(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    before = (hospital.config.state / "vault.sqlite").read_bytes()
    receipt = answered(hospital, hospital.order(study)).receipt_digest
    hospital.vault.close()
    (hospital.config.state / "vault.sqlite").write_bytes(before)
    hospital.vault = hospital.open_vault()
    observer.assert_refused(hospital.order(study, round=2, last_receipt=receipt), "SB-208")


def test_a_node_whose_state_was_rolled_back_stops_even_when_no_receipt_is_named(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    before = (hospital.config.state / "vault.sqlite").read_bytes()
    answered(hospital, hospital.order(study))
    hospital.vault.close()
    (hospital.config.state / "vault.sqlite").write_bytes(before)
    hospital.vault = hospital.open_vault()
    observer.assert_refused(hospital.order(study, round=2), "SB-214")


# --- The roster and the noise


@pytest.mark.parametrize(
    "sites", [["north", "east"], ["north", "north"]], ids=["unsorted", "twice"]
)
def test_a_roster_that_is_not_in_order_is_refused(
    observer: Observer, study: StudyDocument, sites: list[str]
) -> None:
    node = observer.hospital.public.key_id
    roster = [RosterEntry(site=site, node=node) for site in sites]
    observer.assert_refused(observer.hospital.order(study, roster=roster), "SB-202")


def test_a_roster_below_the_approved_number_of_nodes_is_refused(observer: Observer) -> None:
    study = study_document(cohort={"min_nodes": 3})
    observer.hospital.approve(study)
    observer.assert_refused(observer.hospital.order(study), "SB-205")


def test_another_noise_mode_than_the_approved_one_is_refused(
    observer: Observer, study: StudyDocument
) -> None:
    observer.assert_refused(observer.hospital.order(study, noise="shared"), "SB-205")


# --- The courier


def test_no_bit_of_a_sealed_order_can_be_flipped(observer: Observer, study: StudyDocument) -> None:
    sealed = observer.hospital.order(study)
    rng = random.Random(8439)  # noqa: S311 - positions to flip
    for _ in range(200):
        position, bit = rng.randrange(len(sealed)), rng.randrange(8)
        changed = bytearray(sealed)
        changed[position] ^= 1 << bit
        observer.assert_refused(bytes(changed), "SB-202", named=False)


def test_no_part_of_a_sealed_order_can_be_cut_off(observer: Observer, study: StudyDocument) -> None:
    sealed = observer.hospital.order(study)
    rng = random.Random(9180)  # noqa: S311 - positions to cut
    for length in [0, 1, 8, 11, 12, *rng.sample(range(len(sealed)), 100)]:
        observer.assert_refused(sealed[:length], "SB-202", named=False)
    observer.assert_refused(sealed + b"\x00", "SB-202", named=False)


def test_a_round_asked_fifty_times_is_charged_once_and_always_the_same_bytes(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    replies = {hospital.vault.process(hospital.order(study, attempt=n)) for n in range(1, 51)}
    assert len(replies) == 1
    assert digest(replies.pop()) == digest(
        hospital.vault.process(hospital.order(study, attempt=51))
    )
    assert hospital.charges() == 1


def test_two_couriers_that_bring_one_order_at_once_get_the_same_bytes_and_one_charge(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    order, other = hospital.order(study), hospital.open_vault()
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda vault: vault.process(order), [hospital.vault, other] * 3))
    other.close()
    assert len(set(replies)) == 1
    assert isinstance(hospital.read(replies[0]), Result)
    assert hospital.charges() == 1


def test_the_first_read_of_rows_happens_under_one_reservation_on_disk(
    observer: Observer, study: StudyDocument
) -> None:
    answered(observer.hospital, observer.hospital.order(study))
    assert observer.reads == [["reserved"]]
