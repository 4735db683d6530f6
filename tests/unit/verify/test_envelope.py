"""DSSE envelopes: one spelling, every signature verified, the same answer as openssl."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import (
    EnvelopeError,
    key_id,
    open_envelope,
    public_key_from_pem,
    public_key_to_pem,
)

TYPE = "application/vnd.solblom.test+json"
PAYLOAD = b'{"round":1}'
KEYS = [ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3)]
TRUSTED = {key_id(key.public_key()): key.public_key() for key in KEYS[:2]}
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed, written anew from the text of DSSE protocol.md."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)


def open_test(data: bytes, **changes: Any) -> Any:
    return open_envelope(data, **({"payload_type": TYPE, "keys": TRUSTED} | changes))


def edited(edit: Any, *, keys: Any = KEYS[:2]) -> bytes:
    """An envelope, changed after signing and written canonically again."""
    value = json.loads(sign_envelope(PAYLOAD, TYPE, keys))
    edit(value)
    return canonical_json(value)


def test_what_was_signed_comes_out_with_its_signers() -> None:
    opened = open_test(sign_envelope(PAYLOAD, TYPE, KEYS[:2]), threshold=2)
    assert opened.payload == PAYLOAD
    assert opened.signers == tuple(sorted(TRUSTED))


def test_the_order_of_keys_does_not_change_the_envelope() -> None:
    assert sign_envelope(PAYLOAD, TYPE, KEYS) == sign_envelope(PAYLOAD, TYPE, KEYS[::-1])


def test_the_example_of_the_dsse_specification_is_encoded_as_it_says() -> None:
    # protocol.md, "Test vectors"
    kind, payload = "http://example.com/HelloWorld", b"hello world"
    signed = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    envelope = json.loads(sign_envelope(payload, kind, KEYS[:1]))
    assert envelope["payload"] == "aGVsbG8gd29ybGQ="
    KEYS[0].public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


@needs_openssl
def test_openssl_agrees_with_a_signature_and_with_its_refusal(tmp_path: Path) -> None:
    envelope = json.loads(sign_envelope(PAYLOAD, TYPE, KEYS[:1]))
    files = {name: tmp_path / name for name in ("key.pem", "signed", "signature")}
    files["key.pem"].write_text(public_key_to_pem(KEYS[0].public_key()))
    files["signature"].write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    verify = ["pkeyutl", "-verify", "-pubin", "-inkey", files["key.pem"], "-rawin"]
    verify += ["-in", files["signed"], "-sigfile", files["signature"]]
    files["signed"].write_bytes(pae(TYPE, PAYLOAD))
    assert b"Signature Verified Successfully" in openssl(*verify).stdout
    files["signed"].write_bytes(pae(TYPE, PAYLOAD + b" "))
    assert openssl(*verify).returncode != 0


@needs_openssl
def test_a_signature_made_by_openssl_is_accepted(tmp_path: Path) -> None:
    key, signed, signature = (tmp_path / name for name in ("key.pem", "signed", "signature"))
    pem = KEYS[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(pem)
    signed.write_bytes(pae(TYPE, PAYLOAD))
    openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", signed, "-out", signature)
    envelope = {
        "payload": base64.b64encode(PAYLOAD).decode(),
        "payloadType": TYPE,
        "signatures": [
            {
                "keyid": key_id(KEYS[0].public_key()),
                "sig": base64.b64encode(signature.read_bytes()).decode(),
            }
        ],
    }
    assert open_test(canonical_json(envelope)).payload == PAYLOAD


@needs_openssl
def test_the_key_id_is_the_sha_256_of_the_der_that_openssl_writes(tmp_path: Path) -> None:
    pem, der = tmp_path / "key.pem", tmp_path / "key.der"
    pem.write_text(public_key_to_pem(KEYS[0].public_key()))
    openssl("pkey", "-pubin", "-in", pem, "-outform", "DER", "-out", der)
    assert key_id(KEYS[0].public_key()) == hashlib.sha256(der.read_bytes()).hexdigest()


def test_fewer_signatures_than_the_threshold_are_refused() -> None:
    with pytest.raises(EnvelopeError, match="1 trusted signatures, and 2 are needed"):
        open_test(sign_envelope(PAYLOAD, TYPE, KEYS[:1]), threshold=2)


def test_no_signature_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="0 trusted signatures, and 1 are needed"):
        open_test(edited(lambda value: value.update(signatures=[])))


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_below_one_is_refused(threshold: int) -> None:
    with pytest.raises(EnvelopeError, match="threshold must be at least 1"):
        open_test(sign_envelope(PAYLOAD, TYPE, KEYS[:1]), threshold=threshold)


def test_one_key_under_two_names_cannot_count_twice() -> None:
    public = KEYS[0].public_key()
    keys = {key_id(public): public, "0" * 64: public}
    with pytest.raises(EnvelopeError, match="key id that is not its own"):
        open_test(sign_envelope(PAYLOAD, TYPE, KEYS[:1]), keys=keys, threshold=2)


def test_a_signature_by_an_unknown_key_is_refused_though_the_threshold_is_met() -> None:
    with pytest.raises(EnvelopeError, match="not trusted here"):
        open_test(sign_envelope(PAYLOAD, TYPE, KEYS), threshold=2)


@pytest.mark.parametrize("index", [0, 1])
def test_a_bad_signature_is_refused_though_the_threshold_is_met(index: int) -> None:
    def spoil(value: Any) -> None:
        entry = value["signatures"][index]
        signature = bytearray(base64.b64decode(entry["sig"]))
        signature[0] ^= 1
        entry["sig"] = base64.b64encode(signature).decode()

    with pytest.raises(EnvelopeError, match="is not valid"):
        open_test(edited(spoil), threshold=1)


def test_a_signature_of_another_length_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="is not valid"):
        open_test(edited(lambda value: value["signatures"][0].update(sig="AAAA")))


def test_signatures_that_changed_places_are_refused() -> None:
    with pytest.raises(EnvelopeError, match="not in order"):
        open_test(edited(lambda value: value["signatures"].reverse()))


def test_a_repeated_signature_is_refused() -> None:
    def repeat(value: Any) -> None:
        value["signatures"] = [value["signatures"][0]] * 2

    with pytest.raises(EnvelopeError, match="each once"):
        open_test(edited(repeat), threshold=2)


def test_signatures_that_exchanged_their_keys_are_refused() -> None:
    def exchange(value: Any) -> None:
        first, second = value["signatures"]
        first["sig"], second["sig"] = second["sig"], first["sig"]

    with pytest.raises(EnvelopeError, match="is not valid"):
        open_test(edited(exchange))


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.update(extra=0),
        lambda value: value.pop("payload"),
        lambda value: value.update(payload=1),
        lambda value: value.update(payload=""),
        lambda value: value.update(signatures={}),
        lambda value: value.update(signatures=[None]),
        lambda value: value["signatures"][0].update(cert="x"),
        lambda value: value["signatures"][0].pop("keyid"),
        lambda value: value["signatures"][0].update(keyid="abc"),
        lambda value: value["signatures"][0].update(sig=None),
        lambda value: value["signatures"][0].update(sig="not base64!"),
        lambda value: value["signatures"][0].update(sig="å"),
        lambda value: value.update(payload=value["payload"] + "\n"),
    ],
)
def test_another_set_of_members_or_types_is_refused(edit: Any) -> None:
    with pytest.raises(EnvelopeError):
        open_test(edited(edit))


def test_the_url_safe_base64_alphabet_is_refused() -> None:
    value = json.loads(sign_envelope(b"\xfb\xff\xfe", TYPE, KEYS[:1]))
    value["payload"] = value["payload"].replace("+", "-").replace("/", "_")
    with pytest.raises(EnvelopeError, match="base64"):
        open_test(canonical_json(value))


def test_spare_bits_before_the_padding_are_refused() -> None:
    value = json.loads(sign_envelope(b"a", TYPE, KEYS[:1]))
    assert value["payload"] == "YQ=="
    with pytest.raises(EnvelopeError, match="not canonical base64"):
        open_test(canonical_json(value | {"payload": "YR=="}))


def test_another_layout_of_the_same_envelope_is_refused() -> None:
    data = sign_envelope(PAYLOAD, TYPE, KEYS[:1])
    for other in (data + b"\n", b" " + data, json.dumps(json.loads(data)).encode()):
        with pytest.raises(EnvelopeError, match="canonical form"):
            open_test(other)


def test_another_payload_type_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="payload type"):
        open_test(sign_envelope(PAYLOAD, "application/json", KEYS[:1]))


def test_the_payload_type_is_part_of_what_is_signed() -> None:
    data = edited(lambda value: value.update(payloadType="application/json"))
    with pytest.raises(EnvelopeError, match="is not valid"):
        open_test(data, payload_type="application/json")


def test_an_envelope_beyond_the_limit_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="100 are allowed"):
        open_test(sign_envelope(PAYLOAD, TYPE, KEYS[:1]), max_bytes=100)


@pytest.mark.parametrize("keys", [[], [KEYS[0], KEYS[0]]])
def test_signing_needs_at_least_one_key_and_each_key_once(keys: Any) -> None:
    with pytest.raises(EnvelopeError, match="each key once"):
        sign_envelope(PAYLOAD, TYPE, keys)


def test_nothing_cannot_be_signed() -> None:
    with pytest.raises(EnvelopeError, match="needs a payload"):
        sign_envelope(b"", TYPE, KEYS[:1])


def test_a_public_key_survives_pem() -> None:
    public = KEYS[0].public_key()
    assert key_id(public_key_from_pem(public_key_to_pem(public))) == key_id(public)


def public_pem(key: Any) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "å",
        "not a key",
        public_key_to_pem(KEYS[0].public_key()) + "\n",
        "a comment\n" + public_key_to_pem(KEYS[0].public_key()),
        public_key_to_pem(KEYS[0].public_key()).replace("\n", "\r\n"),
        public_key_to_pem(KEYS[0].public_key()) * 2,
        KEYS[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()),
        public_pem(x25519.X25519PrivateKey.generate().public_key()),
    ],
)
def test_what_is_not_one_ed25519_public_key_in_pem_is_refused(pem: str) -> None:
    with pytest.raises(EnvelopeError):
        public_key_from_pem(pem)
