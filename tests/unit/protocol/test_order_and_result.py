"""Orders and results: signed, sealed, read strictly; the sender's key decides, not what a header says."""

import json
from typing import Any

import pytest

from solblom_protocol.errors import CODES, REFUSAL_CODES, IntegrityError, RefusedError
from solblom_protocol.messages.message import frame, parse_timestamp, unframe
from solblom_protocol.messages.order import (
    ORDER_PAYLOAD_TYPE,
    Order,
    read_order,
    seal_order,
    write_order,
)
from solblom_protocol.messages.result import (
    RECEIPT_PAYLOAD_TYPE,
    REFUSAL_PAYLOAD_TYPE,
    Receipt,
    Refusal,
    Result,
    count_band,
    read_reply,
    write_refusal,
    write_result,
)
from solblom_protocol.messages.seal import lock, seal
from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id
from unit.protocol.samples import (
    ARRAY,
    COORDINATOR,
    COORDINATOR_SEALING,
    EVENT,
    NODE,
    NODE_ID,
    NODE_SEALING,
    STRANGER,
    STRANGER_SEALING,
    order_header,
    receipt,
)

LOCKED = lock(ARRAY)


def sealed_order(**changes: Any) -> bytes:
    recipient = NODE_SEALING.public_key()
    return write_order(order_header(**changes), LOCKED, key=COORDINATOR, recipient=recipient).sealed


def opened_order(sealed: bytes) -> Order:
    return read_order(sealed, key=NODE_SEALING, coordinator=COORDINATOR.public_key())


def order_refusal(sealed: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        opened_order(sealed)
    return caught.value.code


def order_of(value: Any, array: bytes = ARRAY) -> bytes:
    """Return whatever value signed and sealed as an order."""
    envelope = sign_envelope(canonical_json(value), ORDER_PAYLOAD_TYPE, [COORDINATOR])
    return seal_order(envelope, lock(array), recipient=NODE_SEALING.public_key()).sealed


def header_value() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(order_header().payload())
    return value


def opened_reply(sealed: bytes) -> Result | Refusal:
    return read_reply(sealed, key=COORDINATOR_SEALING, node=NODE.public_key())


def reply_refusal(sealed: bytes) -> str:
    with pytest.raises(IntegrityError) as caught:
        opened_reply(sealed)
    return caught.value.code


def reply_of(value: Any, payload_type: str, array: bytes = b"") -> bytes:
    """Return whatever value signed by the node and sealed as a reply."""
    envelope = sign_envelope(canonical_json(value), payload_type, [NODE])
    recipient = COORDINATOR_SEALING.public_key()
    return seal(frame(envelope, array), kind="reply", recipient=recipient)


def receipt_value(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(receipt().payload())
    return value | changes


def refusal_value(**changes: Any) -> dict[str, Any]:
    value = {
        "schema": "solblom.refusal/1",
        "site": "north",
        "node": NODE_ID,
        "order": None,
        "code": "SB-204",
    }
    return value | changes


def written_result(content: Receipt, update: bytes = ARRAY) -> bytes:
    recipient = COORDINATOR_SEALING.public_key()
    return write_result(content, update, key=NODE, recipient=recipient)[0]


def test_an_order_comes_back_with_header_and_model() -> None:
    order = opened_order(sealed_order())
    assert (order.header, order.array) == (order_header(), ARRAY)


def test_an_order_is_named_by_its_signed_envelope() -> None:
    recipient = NODE_SEALING.public_key()
    written = write_order(order_header(), LOCKED, key=COORDINATOR, recipient=recipient)
    assert opened_order(written.sealed).digest == written.digest


def test_an_order_signed_by_a_stranger_is_refused() -> None:
    forged = write_order(
        order_header(), LOCKED, key=STRANGER, recipient=NODE_SEALING.public_key()
    ).sealed
    assert order_refusal(forged) == "SB-201"


def test_an_order_that_names_another_coordinator_than_its_signer_is_refused() -> None:
    assert order_refusal(sealed_order(coordinator=key_id(STRANGER.public_key()))) == "SB-201"


def test_an_order_sealed_to_another_node_cannot_be_read() -> None:
    other = write_order(
        order_header(), LOCKED, key=COORDINATOR, recipient=STRANGER_SEALING.public_key()
    ).sealed
    assert order_refusal(other) == "SB-202"


def test_an_order_with_another_model_than_its_header_names_is_refused() -> None:
    assert order_refusal(order_of(header_value(), array=ARRAY + b"\0\0\0\0")) == "SB-202"


def test_a_signed_receipt_does_not_pass_as_an_order() -> None:
    envelope = sign_envelope(order_header().payload(), RECEIPT_PAYLOAD_TYPE, [COORDINATOR])
    sealed = seal_order(envelope, LOCKED, recipient=NODE_SEALING.public_key()).sealed
    assert order_refusal(sealed) == "SB-201"


def test_every_flipped_byte_of_an_order_is_refused() -> None:
    sealed = sealed_order()
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 0x80
        assert order_refusal(bytes(changed)) == "SB-202", position


@pytest.mark.parametrize("sealed", [b"", b"SBSEAL2\n", bytes(1000), b"\xff" * 64])
def test_bytes_that_are_no_order_are_refused(sealed: bytes) -> None:
    assert order_refusal(sealed) == "SB-202"


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"schema": "solblom.order/2"},
        {"kind": "erase"},
        {"round": 0},
        {"round": 10_001},
        {"round": "1"},
        {"round": 1.5},
        {"round": True},
        {"attempt": 0},
        {"site": "North"},
        {"run": "../run"},
        {"node": "sha256:" + "0" * 64},
        {"study": "0" * 64},
        {"issued": "2026-11-22 12:00:00"},
        {"expires": "2026-11-22T12:00:00+01:00"},
        {"noise": "none"},
        {"roster": [{"site": "north", "node": NODE_ID, "weight": 2}]},
        {"previous_order": ""},
    ],
)
def test_a_header_with_a_wrong_member_is_refused(change: dict[str, Any]) -> None:
    assert order_refusal(order_of(header_value() | change)) == "SB-202"


@pytest.mark.parametrize("key", sorted(set(header_value()) - {"schema"}))
def test_a_header_without_one_of_its_members_is_refused(key: str) -> None:
    value = header_value()
    del value[key]
    assert order_refusal(order_of(value)) == "SB-202"


SCHEMA_DEFAULT = "message.py: schema_ has a default, so a signed message may leave its schema out"


def test_an_order_without_its_schema_is_refused() -> None:
    value = header_value()
    del value["schema"]
    assert order_refusal(order_of(value)) == "SB-202"


def test_a_time_in_digits_of_another_script_is_refused() -> None:
    sealed = order_of(header_value() | {"expires": "٢٠٢٦-11-22T13:00:00Z"})
    assert order_refusal(sealed) == "SB-202"


@pytest.mark.parametrize("value", [None, [], "order", 5])
def test_a_header_that_is_no_object_is_refused(value: Any) -> None:
    assert order_refusal(order_of(value)) == "SB-202"


def test_a_result_comes_back_with_receipt_and_update() -> None:
    reply = opened_reply(written_result(receipt()))
    assert isinstance(reply, Result)
    assert (reply.receipt, reply.update) == (receipt(), ARRAY)


def test_a_receipt_is_named_by_its_signed_envelope() -> None:
    recipient = COORDINATOR_SEALING.public_key()
    sealed, name = write_result(receipt(), ARRAY, key=NODE, recipient=recipient)
    reply = opened_reply(sealed)
    assert isinstance(reply, Result)
    assert reply.receipt_digest == name == digest(reply.envelope)


def test_a_result_signed_by_another_hospital_is_refused() -> None:
    recipient = COORDINATOR_SEALING.public_key()
    forged, _ = write_result(receipt(), ARRAY, key=STRANGER, recipient=recipient)
    assert reply_refusal(forged) == "SB-403"


def test_a_receipt_that_names_another_node_than_its_signer_is_refused() -> None:
    assert reply_refusal(written_result(receipt(node=key_id(STRANGER.public_key())))) == "SB-403"


def test_an_update_that_is_not_its_receipts_is_refused() -> None:
    assert reply_refusal(written_result(receipt(), update=bytes(24))) == "SB-404"


@pytest.mark.parametrize(
    "event",
    [
        {},
        EVENT | {"extra": 1},
        EVENT | {"kind": "laplace"},
        EVENT | {"noise_multiplier": "0"},
        EVENT | {"steps": 0},
    ],
)
def test_a_receipt_with_a_malformed_event_is_refused(event: dict[str, Any]) -> None:
    assert reply_refusal(written_result(receipt(event=event))) == "SB-405"


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"simulation": 0}, {"fixed_point_bits": 41}, {"patients": 57}, {"round": 0}],
)
def test_a_receipt_with_a_wrong_member_is_refused(change: dict[str, Any]) -> None:
    sealed = reply_of(receipt_value(**change), RECEIPT_PAYLOAD_TYPE, ARRAY)
    assert reply_refusal(sealed) == "SB-405"


def test_a_receipt_without_its_schema_is_refused() -> None:
    value = receipt_value()
    del value["schema"]
    assert reply_refusal(reply_of(value, RECEIPT_PAYLOAD_TYPE, ARRAY)) == "SB-405"


@pytest.mark.parametrize("patients", ["57", "patient 57 of Oslo", ""])
def test_a_receipt_whose_patients_are_no_band_is_refused(patients: str) -> None:
    sealed = reply_of(receipt_value(patients=patients), RECEIPT_PAYLOAD_TYPE, ARRAY)
    assert reply_refusal(sealed) in ("SB-404", "SB-405")


def test_a_refusal_comes_back() -> None:
    refusal = Refusal(**refusal_value())
    recipient = COORDINATOR_SEALING.public_key()
    assert opened_reply(write_refusal(refusal, key=NODE, recipient=recipient)) == refusal


def test_a_refusal_signed_by_a_stranger_is_refused() -> None:
    refusal = Refusal(**refusal_value())
    recipient = COORDINATOR_SEALING.public_key()
    assert reply_refusal(write_refusal(refusal, key=STRANGER, recipient=recipient)) == "SB-403"


@pytest.mark.parametrize("code", sorted(REFUSAL_CODES))
def test_every_refusal_code_may_cross_the_boundary(code: str) -> None:
    reply = opened_reply(reply_of(refusal_value(code=code), REFUSAL_PAYLOAD_TYPE))
    assert isinstance(reply, Refusal)
    assert reply.code == code


@pytest.mark.parametrize(
    "code",
    ["", "SB-299", "SB-204 ", "kari.nordmann has no consent", *sorted(set(CODES) - REFUSAL_CODES)],
)
def test_a_refusal_with_any_other_code_is_refused(code: str) -> None:
    assert reply_refusal(reply_of(refusal_value(code=code), REFUSAL_PAYLOAD_TYPE)) == "SB-404"


def test_a_refusal_with_an_array_is_refused() -> None:
    assert reply_refusal(reply_of(refusal_value(), REFUSAL_PAYLOAD_TYPE, ARRAY)) == "SB-404"


def test_a_refusal_with_a_text_beside_its_code_is_refused() -> None:
    sealed = reply_of(refusal_value(reason="see row 12"), REFUSAL_PAYLOAD_TYPE)
    assert reply_refusal(sealed) == "SB-405"


def test_a_refusal_that_names_another_node_than_its_signer_is_refused() -> None:
    sealed = reply_of(refusal_value(node=key_id(STRANGER.public_key())), REFUSAL_PAYLOAD_TYPE)
    assert reply_refusal(sealed) == "SB-404"


@pytest.mark.parametrize("message", [b"", b"\0\0", b"\0\0\0\x05abc", b"\xff\xff\xff\xff"])
def test_a_cut_frame_is_refused(message: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        unframe(message)
    assert caught.value.code == "SB-405"


@pytest.mark.parametrize("text", ["2026-02-30T00:00:00Z", "2026-11-22T24:00:00Z", "today", ""])
def test_a_time_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_timestamp(text)
    assert caught.value.code == "SB-405"


@pytest.mark.parametrize(
    ("count", "band"),
    [
        (0, "0-9"),
        (9, "0-9"),
        (10, "10-19"),
        (19, "10-19"),
        (20, "20-49"),
        (49, "20-49"),
        (50, "50-99"),
        (99, "50-99"),
        (100, "100-199"),
        (199, "100-199"),
        (200, "200-499"),
        (499, "200-499"),
        (500, "500-999"),
        (999, "500-999"),
        (1000, "1000-1999"),
        (1999, "1000-1999"),
        (2000, "2000-4999"),
        (4999, "2000-4999"),
        (5000, "5000-9999"),
        (9999, "5000-9999"),
        (10_000, "10000-"),
        (5_000_000, "10000-"),
    ],
)
def test_a_count_of_patients_is_told_as_a_band(count: int, band: str) -> None:
    assert count_band(count) == band
