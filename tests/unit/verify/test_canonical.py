"""Canonical JSON and digests. Numbers and strings are compared with RFC 8785's own examples."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from solblom_verify.canonical import (
    CanonicalError,
    canonical_json,
    digest,
    file_digest,
    parse_canonical,
    parse_json,
    read_file,
)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_the_example_of_rfc_8785_section_3_2_2_comes_out_byte_for_byte() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert (
        canonical_json(value)
        == (
            '{"literals":[null,true,false],'
            '"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
        ).encode()
    )


def test_keys_are_ordered_by_utf_16_as_in_rfc_8785_section_3_2_3() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    parsed = parse_canonical(canonical_json(dict.fromkeys(names, 0)))
    assert list(parsed) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
    ],
)
def test_numbers_are_written_as_in_rfc_8785_appendix_b(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number) == text.encode()


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        2**53,
        -(2**53),
        float(2**53),
        1e16,
        -1e20,
        {1: "number as key"},
        {None: 0},
        {"a": [{b"bytes": 0}]},
        b"bytes",
        pytest.param({"a"}, id="set"),
        pytest.param(object(), id="object"),
        "\ud800",
        {"\ud800": 0},
        nested(65),
    ],
    ids=repr,
)
def test_a_value_without_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(CanonicalError):
        canonical_json(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(CanonicalError, match="64 levels"):
        canonical_json(value)


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, float(2**53 - 1), 1e21, nested(64)])
def test_a_value_at_the_limit_is_read_back(value: Any) -> None:
    assert parse_canonical(canonical_json(value)) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "same key twice"),
        (b'{"a":1,"\\u0061":2}', "same key twice"),
        (b'{"b":1,"a":2}', "canonical form"),
        (b'{"a": 1}', "canonical form"),
        (b'{"a":1}\n', "canonical form"),
        (b'"\\u0061"', "canonical form"),
        (b'"\\/"', "canonical form"),
        (b"1.0", "canonical form"),
        (b"1E2", "canonical form"),
        (b"-0", "canonical form"),
        (b"1e400", "finite"),
        (b"NaN", "finite"),
        (b"-Infinity", "finite"),
        (b"9007199254740992", "whole number"),
        (b"10000000000000000000000", "whole number"),
        (b"9" * 5000, "not JSON"),
        (b'"\\ud800"', "no canonical form"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"\xe5"', "not JSON in UTF-8"),
        ('"a"'.encode("utf-16"), "not JSON in UTF-8"),
        (b'"\xc0\xaf"', "not JSON in UTF-8"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{}{}", "not JSON"),
        (b'"\x00"', "not JSON"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a":' * 200_000, "not JSON"),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_bytes_that_are_not_a_canonical_form_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CanonicalError, match=reason):
        parse_canonical(data)


def test_the_recursion_limit_of_the_caller_does_not_let_deep_nesting_through() -> None:
    def at_depth(frames: int) -> None:
        if frames:
            at_depth(frames - 1)
        else:
            with pytest.raises(CanonicalError):
                parse_canonical(b"[" * 900 + b"]" * 900)

    at_depth(500)


def test_bytes_beyond_the_limit_are_refused_before_they_are_read() -> None:
    with pytest.raises(CanonicalError, match="7 bytes, and 6 are allowed"):
        parse_canonical(b'{"a":1}', max_bytes=6)


def test_json_written_by_hand_may_have_any_layout_but_no_key_twice() -> None:
    assert parse_json(b'{ "b": 1.0,\n "a": 2 }\n') == {"a": 2, "b": 1.0}
    with pytest.raises(CanonicalError, match="same key twice"):
        parse_json(b'{"a": {"b": 1, "b": 1}}')


def test_a_digest_is_the_sha_256_of_fips_180() -> None:
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"abc") == expected


@pytest.mark.parametrize("size", [0, 1, 262_144, 1_000_003])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    assert file_digest(path) == (digest(b"x" * size), size)
    assert read_file(path) == b"x" * size


@pytest.mark.parametrize("read", [file_digest, read_file])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, read: Any) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="link"):
        read(tmp_path / "link")


@pytest.mark.parametrize("read", [file_digest, read_file])
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("read", [file_digest, read_file])
def test_a_folder_is_refused(tmp_path: Path, read: Any) -> None:
    with pytest.raises(OSError, match=r"directory|regular"):
        read(tmp_path)


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    with pytest.raises(CanonicalError, match="more than the 3 bytes"):
        read_file(tmp_path / "file", max_bytes=3)


@pytest.mark.parametrize("digits", [17, 310, 4000, 5000])
def test_a_whole_number_of_hundreds_of_digits_is_refused(digits: int) -> None:
    """From 309 digits on it is too large for a float, which `isfinite` would make of it."""
    with pytest.raises(CanonicalError):
        parse_canonical(b"9" * digits)
