"""Joining a federation: what changed on the way, is late, or is for somebody else opens nothing."""

import datetime as dt

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from solblom_protocol.errors import IntegrityError
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.enrolment import (
    Address,
    answered_site,
    open_answer,
    open_invite,
    write_answer,
    write_invite,
)
from solblom_verify.canonical import canonical_json, parse_canonical
from unit.protocol.samples import COORDINATOR, COORDINATOR_SEALING, NODE, NODE_SEALING, STRANGER

NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=dt.UTC)
HOST = PublicKeys("coordinator", COORDINATOR.public_key(), COORDINATOR_SEALING.public_key())
GUEST = PublicKeys("north", NODE.public_key(), NODE_SEALING.public_key())


def invite(site: str = "north", key: Ed25519PrivateKey = COORDINATOR) -> bytes:
    return write_invite(site, HOST, key, now=NOW, days=14)


def transport_pem(curve: ec.EllipticCurve) -> str:
    public = ec.generate_private_key(curve).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


TRANSPORT = transport_pem(ec.SECP256R1())


def answer(
    envelope: bytes, key: Ed25519PrivateKey = NODE, *, transport_key: str = TRANSPORT
) -> bytes:
    opened = open_invite(envelope, now=NOW)
    return write_answer(opened, GUEST, key, transport_key=transport_key, now=NOW)


def assert_refused(envelope: bytes, *, now: dt.datetime = NOW) -> None:
    with pytest.raises(IntegrityError) as caught:
        open_invite(envelope, now=now)
    assert caught.value.code == "SB-603"


def test_an_invitation_and_its_answer_give_each_side_the_others_keys() -> None:
    envelope = invite()
    assert open_invite(envelope, now=NOW).invite.keys.key_id == HOST.key_id
    found = open_answer(answer(envelope), envelope, now=NOW)
    assert (found.keys.name, found.keys.key_id) == ("north", GUEST.key_id)
    assert found.transport_key == TRANSPORT
    assert answered_site(answer(envelope)) == "north"


def test_an_invitation_says_where_the_coordinator_answers_and_whom_to_believe_there() -> None:
    address = Address("https://fl.example.no:8443", "-----BEGIN CERTIFICATE-----")
    envelope = write_invite("north", HOST, COORDINATOR, address=address, now=NOW, days=14)
    invite = open_invite(envelope, now=NOW).invite
    assert (invite.url, invite.certificates) == (address.url, address.certificates)


@pytest.mark.parametrize("url", ["http://fl.example.no", "https://u:p@host", "https://h/path", ""])
def test_an_address_that_is_no_plain_https_host_is_never_invited_to(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        write_invite("north", HOST, COORDINATOR, address=Address(url, "x"), now=NOW, days=14)


@pytest.mark.parametrize("bad", ["", "no key", transport_pem(ec.SECP384R1())])
def test_an_answer_whose_transport_key_flower_would_not_take_is_refused(bad: str) -> None:
    envelope = invite()
    with pytest.raises(IntegrityError, match="transport key") as caught:
        open_answer(answer(envelope, transport_key=bad), envelope, now=NOW)
    assert caught.value.code == "SB-603"


def test_an_invitation_is_refused_after_its_last_day() -> None:
    open_invite(invite(), now=NOW + dt.timedelta(days=14))
    assert_refused(invite(), now=NOW + dt.timedelta(days=14, seconds=1))


def test_an_invitation_signed_by_another_key_than_the_one_inside_is_refused() -> None:
    assert_refused(invite(key=STRANGER))


def test_an_answer_signed_by_another_key_than_the_one_inside_is_refused() -> None:
    envelope = invite()
    with pytest.raises(IntegrityError) as caught:
        open_answer(answer(envelope, key=STRANGER), envelope, now=NOW)
    assert caught.value.code == "SB-603"


def test_an_invitation_for_another_site_is_not_answered() -> None:
    with pytest.raises(IntegrityError, match="south") as caught:
        answer(invite("south"))
    assert caught.value.code == "SB-603"


def test_an_answer_to_another_invitation_is_refused() -> None:
    with pytest.raises(IntegrityError, match="another invitation"):
        open_answer(answer(invite()), invite(), now=NOW)


def test_every_byte_of_an_invitation_counts() -> None:
    envelope = invite()
    for index in range(0, len(envelope), 7):
        assert_refused(envelope[:index] + bytes([envelope[index] ^ 1]) + envelope[index + 1 :])


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"x" * 70_000])
def test_what_is_no_invitation_is_refused(data: bytes) -> None:
    assert_refused(data)


def test_an_answer_is_no_invitation() -> None:
    assert_refused(answer(invite()))


def test_an_invitation_with_more_in_it_is_refused() -> None:
    outer = parse_canonical(invite())
    assert isinstance(outer, dict)
    assert_refused(canonical_json({**outer, "more": 1}))
