"""Canonical JSON, its digests and its signatures, for any value that Hypothesis can think of."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import CanonicalError, canonical_json, digest, parse_canonical
from solblom_verify.envelope import EnvelopeError, key_id, open_envelope

LIMIT = 2**53 - 1
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = {key_id(KEY.public_key()): KEY.public_key()}
TYPE = "application/vnd.solblom.test+json"


def is_exact(number: float) -> bool:
    return abs(number) <= LIMIT or abs(number) >= 1e21


numbers = st.integers(-LIMIT, LIMIT) | st.floats(allow_nan=False, allow_infinity=False).filter(
    is_exact
)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


@given(values)
@example({"\ue000": 0, "\U00010000": 1})  # UTF-16 order is not code point order
@example([-0.0, 5e-324, 1.7976931348623157e308, 1e21, 1e-7, 123456789.0])
def test_a_value_comes_back_from_its_canonical_form(value: Any) -> None:
    data = canonical_json(value)
    assert parse_canonical(data) == value
    assert canonical_json(parse_canonical(data)) == data


@given(values)
def test_the_canonical_form_is_json_that_python_reads_alike(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(values)
@example({"\x7f": '\x00\x1f\u2028"\\/', "a": [True, None, -0]})
def test_the_short_way_of_values_without_floats_is_the_canonical_one(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(st.dictionaries(texts, numbers), st.randoms(use_true_random=False))
def test_the_order_in_which_keys_were_added_does_not_matter(
    value: dict[str, Any], luck: Any
) -> None:
    items = list(value.items())
    luck.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


@given(values, st.data())
def test_one_byte_changed_is_refused_or_another_value_with_another_digest(
    value: Any, data: st.DataObject
) -> None:
    original = canonical_json(value)
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    assert digest(bytes(changed)) != digest(original)
    try:
        other = parse_canonical(bytes(changed))
    except CanonicalError:
        return
    assert canonical_json(other) == bytes(changed) != original


@given(st.binary())
def test_any_bytes_are_refused_or_are_their_own_canonical_form(data: bytes) -> None:
    try:
        value = parse_canonical(data)
    except CanonicalError:
        return
    assert canonical_json(value) == data


@given(values)
def test_a_signed_value_is_opened_by_its_key(value: Any) -> None:
    payload = canonical_json(value)
    opened = open_envelope(sign_envelope(payload, TYPE, [KEY]), payload_type=TYPE, keys=TRUSTED)
    assert opened.payload == payload


@given(st.binary(min_size=1), st.data())
def test_an_envelope_with_one_byte_changed_never_verifies(payload: bytes, data: Any) -> None:
    changed = bytearray(sign_envelope(payload, TYPE, [KEY]))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EnvelopeError):
        open_envelope(bytes(changed), payload_type=TYPE, keys=TRUSTED)


@given(st.binary())
def test_any_bytes_are_refused_as_an_envelope(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_envelope(data, payload_type=TYPE, keys=TRUSTED)
