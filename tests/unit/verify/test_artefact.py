"""Artefacts: a valid one passes, and no byte of it can be changed."""

import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from solblom_verify import artefact as artefact_module
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id
from solblom_verify.folder import Artefact
from solblom_verify.trust import load_trust
from unit.verify.verdicts import ATTESTATION, fails, failures

# A valid artefact


def test_a_valid_artefact_is_verified_and_named(builder: Any, artefact: Path) -> None:
    verdict = builder.verify(artefact)
    assert failures(verdict) == {}
    assert verdict.ok
    assert verdict.artefact == digest((artefact / "manifest.json").read_bytes())
    assert (verdict.name, verdict.version) == ("heart-disease", "v1")
    keys = (builder.coordinator, builder.steward)
    assert verdict.signers == tuple(sorted(key_id(key.public_key()) for key in keys))


def test_building_twice_gives_the_same_bytes(builder: Any, tmp_path: Path) -> None:
    one, two = builder.write(tmp_path / "1"), builder.write(tmp_path / "2")
    for path in (p for p in one.rglob("*") if p.is_file()):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize(
    "topic",
    ["Epsilon", "replay", "final model", "not that it is true", "patients", "Withdrawal", "Times"],
)
def test_a_verdict_says_what_was_not_checked(builder: Any, artefact: Path, topic: str) -> None:
    assert any(topic in line for line in builder.verify(artefact).not_checked)


def test_a_simulation_says_that_one_machine_made_all_keys(builder: Any, tmp_path: Path) -> None:
    simulated = builder.verify(builder.write(tmp_path / "1"))
    builder.edit_manifest = lambda manifest: manifest.update(simulation=False)
    real = builder.verify(builder.write(tmp_path / "2"))
    assert real.ok
    assert any("simulation" in line for line in simulated.not_checked)
    assert not any("simulation" in line for line in real.not_checked)


def test_an_expired_trust_file_still_verifies_a_logged_model_and_says_so(
    builder: Any, logged: Path
) -> None:
    verdict = builder.verify(logged, now=datetime(2036, 1, 1, tzinfo=UTC))
    assert verdict.ok
    assert verdict.checks[-1].reason == "the trust file expired on 2036-01-01"
    assert any("expired" in line for line in verdict.not_checked)
    assert not any("expired" in line for line in builder.verify(logged).not_checked)


def test_an_expired_trust_file_is_refused_where_no_log_says_when_the_model_was_signed(
    builder: Any, artefact: Path
) -> None:
    verdict = builder.verify(artefact, now=datetime(2036, 1, 1, tzinfo=UTC))
    fails(verdict, "trust", "had expired (2036-01-01) and no log says")


def test_a_time_without_zone_fails_the_trust_check(builder: Any, artefact: Path) -> None:
    fails(builder.verify(artefact, now=datetime(2026, 1, 1)), "trust", "TypeError")


# Every byte


def every_byte(data: bytes) -> Iterator[bytes]:
    noise = random.Random(442)  # noqa: S311
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= noise.randrange(1, 256)
        yield bytes(changed)


SIGNED_OR_LOGGED = ["manifest.json", ATTESTATION, "log/checkpoint.txt", "log/inclusion.json"]


def every_bit(data: bytes) -> Iterator[bytes]:
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            yield bytes(changed)


def accepted(artefact: Path, name: str, changes: Iterator[bytes]) -> list[bytes]:
    trust = load_trust(artefact.parent.parent / "trust.json")
    now = datetime(2026, 11, 23, tzinfo=UTC)

    def is_accepted(data: bytes) -> bool:
        (artefact / name).write_bytes(data)
        return artefact_module.verify_artefact(artefact, trust, now=now).ok

    return [data for data in changes if is_accepted(data)]


@pytest.mark.parametrize("name", SIGNED_OR_LOGGED)
def test_no_byte_can_be_changed(logged: Path, name: str) -> None:
    data = (logged / name).read_bytes()
    assert accepted(logged, name, every_byte(data)) == []
    assert accepted(logged, name, iter([data])) == [data]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNED_OR_LOGGED)
def test_no_bit_can_be_changed(logged: Path, name: str) -> None:
    assert accepted(logged, name, every_bit((logged / name).read_bytes())) == []


@pytest.mark.parametrize("name", SIGNED_OR_LOGGED)
def test_no_byte_can_be_removed_or_repeated(logged: Path, name: str) -> None:
    data = (logged / name).read_bytes()
    removed = (data[:i] + data[i + 1 :] for i in range(0, len(data), 3))
    repeated = (data[:i] + data[i : i + 1] + data[i:] for i in range(0, len(data), 3))
    assert accepted(logged, name, removed) == []
    assert accepted(logged, name, repeated) == []


def test_every_file_counts(builder: Any, artefact: Path) -> None:
    for path in sorted(p for p in artefact.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for changed in (b"", data[:-1], data + b"\n", data[::-1]):
            path.write_bytes(changed)
            assert not builder.verify(artefact).ok, path
        path.write_bytes(data)
    assert builder.verify(artefact).ok


def test_a_file_that_changes_while_it_is_verified_is_not_read(artefact: Path) -> None:
    trust = load_trust(artefact.parent.parent / "trust.json")
    opened = Artefact(artefact, trust, datetime(2026, 11, 23, tzinfo=UTC), None)
    assert opened.read("README.md") == (artefact / "README.md").read_bytes()
    (artefact / "README.md").write_text("# A better model\n")
    with pytest.raises(ValueError, match=r"changed file: README\.md"):
        opened.read("README.md")


def test_a_changed_file_is_named(builder: Any, artefact: Path) -> None:
    (artefact / "README.md").write_text("# A better model\n")
    fails(builder.verify(artefact), "files", "changed file: README.md")


@pytest.mark.parametrize(
    ("name", "check"),
    [(ATTESTATION, "envelope"), ("log/checkpoint.txt", "log"), ("log/inclusion.json", "log")],
)
def test_a_file_beyond_the_limit_is_a_failed_check(
    builder: Any, logged: Path, name: str, check: str
) -> None:
    with (logged / name).open("r+b") as stream:
        stream.truncate(4 * 1024 * 1024 + 1)  # sparse
    fails(builder.verify(logged), check, "more than the 4194304 bytes")


def test_a_reason_stays_short(builder: Any, tmp_path: Path) -> None:
    builder.edit_manifest = lambda manifest: manifest.update({"x" * 10_000: 1})
    verdict = builder.verify(builder.write(tmp_path))
    assert all(len(check.reason) <= 500 for check in verdict.checks)


def test_a_file_that_cannot_be_read_is_a_failed_check(builder: Any, artefact: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    (artefact / "README.md").chmod(0)
    fails(builder.verify(artefact), "files", "Permission denied")
