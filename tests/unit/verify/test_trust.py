"""Trust files: what a person can get wrong is refused before anything is verified with it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from solblom_verify.trust import TrustError, load_trust


def test_a_trust_file_is_read(builder: Any, tmp_path: Path) -> None:
    trust = load_trust(builder.write_trust(tmp_path / "trust.json"))
    assert (trust.version, trust.threshold) == (1, 2)
    assert trust.expires == datetime(2036, 1, 1, tzinfo=UTC)
    assert [key.role for key in trust.keys] == ["coordinator", "steward"]
    assert set(trust.public_keys) == {key.keyid for key in trust.keys}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": "solblom.trust/2"}, "schema is not"),
        ({"comment": "hello"}, "unknown member 'comment'"),
        ({"version": 0}, "version must be at least 1"),
        ({"version": True}, "version is bool, not int"),
        ({"version": "1"}, "version is str, not int"),
        ({"threshold": 0}, "threshold must be 1 to 2"),
        ({"threshold": -1}, "threshold must be 1 to 2"),
        ({"threshold": 3}, "threshold must be 1 to 2"),
        ({"threshold": 1.0}, "threshold is float, not int"),
        ({"keys": []}, "threshold must be 1 to 0"),
        ({"keys": {}}, "keys is dict, not list"),
        ({"keys": ["key"]}, r"keys\[0\] is not an object"),
        ({"expires": "2036-01-01"}, "not a time"),
        ({"expires": "2036-1-1T0:0:0Z"}, "not a time"),
        ({"expires": "2036-02-30T00:00:00Z"}, "not a time"),
        ({"expires": "2036-01-01T00:00:00+00:00"}, "not a time"),
        ({"expires": "2036-01-01T00:00:00.5Z"}, "not a time"),
        ({"expires": "9999999-01-01T00:00:00Z"}, "not a time"),
        ({"expires": None}, "expires is NoneType"),
    ],
)
def test_a_wrong_member_is_refused(
    builder: Any, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = builder.write_trust(tmp_path / "trust.json", **changes)
    with pytest.raises(TrustError, match=reason):
        load_trust(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keyid": "0" * 64}, "not the id of its public key"),
        ({"public_key": "-----BEGIN PUBLIC KEY-----"}, "not a public key in PEM"),
        ({"public_key": ""}, "public_key is empty"),
        ({"role": "hospital"}, "role is not of the form"),
        ({"name": ""}, "name is empty"),
        ({"name": 1}, "name is int, not str"),
        ({"email": "a@example.no"}, "unknown member 'email'"),
    ],
)
def test_a_wrong_key_is_refused(
    builder: Any, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    keys = builder.trust()["keys"]
    keys[1] |= changes
    with pytest.raises(TrustError, match=reason):
        load_trust(builder.write_trust(tmp_path / "trust.json", keys=keys))


@pytest.mark.parametrize("member", ["keyid", "name", "role", "public_key"])
def test_a_key_that_lacks_a_member_is_refused(builder: Any, tmp_path: Path, member: str) -> None:
    keys = builder.trust()["keys"]
    del keys[0][member]
    with pytest.raises(TrustError, match=f"lacks '{member}'"):
        load_trust(builder.write_trust(tmp_path / "trust.json", keys=keys))


def test_one_key_under_two_names_is_refused(builder: Any, tmp_path: Path) -> None:
    first = builder.trust()["keys"][0]
    keys = [first, first | {"name": "Somebody else"}]
    with pytest.raises(TrustError, match="holds a key twice"):
        load_trust(builder.write_trust(tmp_path / "trust.json", keys=keys))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"schema":1,"schema":1}', b"\xff"])
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trust.json").write_bytes(content)
    with pytest.raises(TrustError, match=r"trust\.json"):
        load_trust(tmp_path / "trust.json")


def test_a_file_that_is_missing_a_folder_or_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.json").write_bytes(b" " * 2_000_000)
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "long.json"):
        with pytest.raises(TrustError, match=path.name):
            load_trust(path)


def test_keys_have_times_and_witnesses_are_pinned(builder: Any, tmp_path: Path) -> None:
    trust = builder.trust()
    trust["keys"][0] |= {"from": "2026-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z"}
    witness = {name: trust["keys"][1][name] for name in ("keyid", "name", "public_key")}
    path = builder.write_trust(
        tmp_path / "trust.json", keys=trust["keys"], witnesses=[witness], quorum=1
    )
    read = load_trust(path)
    assert [w.role for w in read.witnesses] == ["witness"]
    assert read.quorum == 1
    times = [datetime(2025, 12, 31, 23, 59, 59), datetime(2026, 1, 1), datetime(2027, 1, 1)]
    valid = [read.keys[0].is_valid(time.replace(tzinfo=UTC)) for time in times]
    assert valid == [False, True, False]
    assert all(read.keys[1].is_valid(time.replace(tzinfo=UTC)) for time in times)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quorum": 1}, "quorum must be 1 to 0"),
        ({"quorum": True}, "quorum is bool"),
        ({"witnesses": {}}, "witnesses is dict"),
        ({"witnesses": [{}]}, "lacks 'keyid'"),
    ],
)
def test_wrong_witnesses_are_refused(
    builder: Any, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = builder.write_trust(tmp_path / "trust.json", **changes)
    with pytest.raises(TrustError, match=reason):
        load_trust(path)


@pytest.mark.parametrize("quorum", [0, 2])
def test_a_quorum_that_witnesses_cannot_reach_is_refused(
    builder: Any, tmp_path: Path, quorum: int
) -> None:
    key = builder.trust()["keys"][0]
    witness = {name: key[name] for name in ("keyid", "name", "public_key")}
    path = builder.write_trust(tmp_path / "trust.json", witnesses=[witness], quorum=quorum)
    with pytest.raises(TrustError, match="quorum must be 1 to 1"):
        load_trust(path)


def test_a_witness_stands_once_and_has_no_role(builder: Any, tmp_path: Path) -> None:
    key = builder.trust()["keys"][0]
    witness = {name: key[name] for name in ("keyid", "name", "public_key")}
    for witnesses, reason in (
        ([witness, witness], "witnesses holds a key twice"),
        ([key], "unknown member 'role'"),
    ):
        path = builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
        with pytest.raises(TrustError, match=reason):
            load_trust(path)
