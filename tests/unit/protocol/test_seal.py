"""Sealed messages: only the named recipient opens them, as the kind they are, and not one byte may change."""

from typing import Literal

import pytest

from solblom_protocol.errors import IntegrityError
from solblom_protocol.messages.seal import (
    MAGIC,
    LockedArray,
    lock,
    read_header,
    seal,
    sealing_key_id,
    split_body,
    unlock,
    unseal,
)
from solblom_verify.canonical import canonical_json
from unit.protocol.samples import NODE_SEALING, STRANGER_SEALING

MESSAGE = b"an order"
NODE_PUBLIC = NODE_SEALING.public_key()


@pytest.fixture
def sealed() -> bytes:
    return seal(MESSAGE, kind="order", recipient=NODE_PUBLIC)


def assert_refused(sealed: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        unseal(sealed, kind="order", key=NODE_SEALING)
    assert caught.value.code == "SB-405"


def with_header(sealed: bytes, header: bytes) -> bytes:
    old = int.from_bytes(sealed[8:12], "big")
    return MAGIC + len(header).to_bytes(4, "big") + header + sealed[12 + old :]


def test_the_recipient_reads_the_message(sealed: bytes) -> None:
    assert unseal(sealed, kind="order", key=NODE_SEALING) == MESSAGE


@pytest.mark.parametrize("message", [b"", bytes(1_000_000)], ids=["empty", "a megabyte"])
def test_messages_of_any_length_come_back(message: bytes) -> None:
    sealed = seal(message, kind="reply", recipient=NODE_PUBLIC)
    assert unseal(sealed, kind="reply", key=NODE_SEALING) == message


def test_the_message_cannot_be_seen_in_the_sealed_bytes(sealed: bytes) -> None:
    assert MESSAGE not in sealed


def test_the_same_message_sealed_twice_looks_different(sealed: bytes) -> None:
    assert seal(MESSAGE, kind="order", recipient=NODE_PUBLIC) != sealed


def test_the_header_names_kind_and_recipient(sealed: bytes) -> None:
    header = read_header(sealed)
    assert (header.kind, header.recipient) == ("order", sealing_key_id(NODE_PUBLIC))


def test_a_body_travels_behind_the_sealed_part_as_it_is() -> None:
    sealed = seal(MESSAGE, kind="order", recipient=NODE_PUBLIC, body=b"a model for many")
    assert unseal(sealed, kind="order", key=NODE_SEALING) == MESSAGE
    head, body = split_body(sealed)
    assert (head + bytes(body), bytes(body)) == (sealed, b"a model for many")


def test_a_body_of_another_length_than_the_header_says_opens_nothing() -> None:
    sealed = seal(MESSAGE, kind="order", recipient=NODE_PUBLIC, body=b"four")
    for changed in (sealed + b"\0", sealed[:-1]):
        assert_refused(changed)


@pytest.mark.parametrize("length", [-1, 10**9, True, "4", 4.0, None])
def test_a_header_with_an_impossible_body_is_refused(sealed: bytes, length: object) -> None:
    recipient = sealing_key_id(NODE_PUBLIC)
    value = {"body": length, "kind": "order", "recipient": recipient}
    text = str(value).replace("'", '"').replace("True", "true").replace("None", "null")
    assert_refused(with_header(sealed, text.replace(" ", "").encode()))


def test_a_reply_with_a_body_is_refused() -> None:
    sealed = seal(MESSAGE, kind="reply", recipient=NODE_PUBLIC, body=b"more")
    with pytest.raises(IntegrityError, match="no body"):
        unseal(sealed, kind="reply", key=NODE_SEALING)


def test_a_locked_array_opens_with_its_key_alone_and_unchanged() -> None:
    array = bytes(range(256)) * 100
    locked = lock(array)
    assert unlock(locked) == array
    assert array[:64] not in locked.ciphertext
    assert lock(array).key != locked.key
    for key, ciphertext in (
        (lock(array).key, locked.ciphertext),
        (b"", locked.ciphertext),
        (locked.key, locked.ciphertext[:-1] + bytes([locked.ciphertext[-1] ^ 1])),
        (locked.key, b""),
    ):
        with pytest.raises(IntegrityError) as caught:
            unlock(LockedArray(key, ciphertext))
        assert caught.value.code == "SB-405"


def test_another_key_opens_nothing(sealed: bytes) -> None:
    with pytest.raises(IntegrityError, match="another recipient") as caught:
        unseal(sealed, kind="order", key=STRANGER_SEALING)
    assert caught.value.code == "SB-405"


def test_a_message_readdressed_to_a_stranger_opens_nothing(sealed: bytes) -> None:
    stranger = sealing_key_id(STRANGER_SEALING.public_key())
    readdressed = with_header(
        sealed, canonical_json({"body": 0, "kind": "order", "recipient": stranger})
    )
    with pytest.raises(IntegrityError, match="changed on its way"):
        unseal(readdressed, kind="order", key=STRANGER_SEALING)


@pytest.mark.parametrize(("sent", "expected"), [("order", "reply"), ("reply", "order")])
def test_an_order_cannot_pass_as_a_reply_nor_a_reply_as_an_order(
    sent: Literal["order", "reply"], expected: Literal["order", "reply"]
) -> None:
    sealed = seal(MESSAGE, kind=sent, recipient=NODE_PUBLIC)
    with pytest.raises(IntegrityError, match="another kind"):
        unseal(sealed, kind=expected, key=NODE_SEALING)


def test_a_kind_changed_in_the_clear_header_opens_nothing() -> None:
    sealed = seal(MESSAGE, kind="reply", recipient=NODE_PUBLIC)
    assert_refused(sealed.replace(b'"kind":"reply"', b'"kind":"order"', 1))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"kind":"order"}',
        b'{"kind":"order","recipient":5}',
        b'{"kind":"letter","recipient":"sha256:00"}',
        b'{"extra":1,"kind":"order","recipient":"x"}',
        b'{"kind": "order", "recipient": "x"}',
    ],
)
def test_a_malformed_header_is_refused(sealed: bytes, header: bytes) -> None:
    assert_refused(with_header(sealed, header))


def test_a_header_of_four_kilobytes_and_more_is_refused(sealed: bytes) -> None:
    assert_refused(with_header(sealed, b" " * 5000))


def test_a_header_longer_than_the_message_is_refused() -> None:
    assert_refused(MAGIC + (100).to_bytes(4, "big") + b"{}")


def test_every_flipped_byte_of_a_sealed_message_is_found(sealed: bytes) -> None:
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 0x01
        assert_refused(bytes(changed))


def test_every_cut_sealed_message_is_refused(sealed: bytes) -> None:
    for length in range(len(sealed)):
        assert_refused(sealed[:length])


def test_a_longer_sealed_message_is_refused(sealed: bytes) -> None:
    assert_refused(sealed + b"\0")
