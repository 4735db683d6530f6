"""Artefacts: a valid one passes, and each way of being wrong is found by the check named for it."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from solblom_verify import artefact as artefact_module
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import key_id
from solblom_verify.trust import load_trust

ATTESTATION = "attestations/model.dsse.json"
CHECKS = [
    "folder",
    "envelope",
    "statement",
    "files",
    "manifest",
    "manifest-files",
    "model",
    "receipts",
    "rounds",
    "privacy",
    "trust",
]
OTHER = digest(b"something else")
ABSENT = {"bytes": 0, "sha256": "0" * 64}


def failures(verdict: Any) -> dict[str, str]:
    """The checks that said no themselves, with their reasons."""
    assert [check.name for check in verdict.checks] == CHECKS
    assert verdict.ok == all(check.ok for check in verdict.checks)
    failed = {check.name: check.reason for check in verdict.checks if not check.ok}
    return {name: why for name, why in failed.items() if not why.startswith("not reached")}


def fails(verdict: Any, name: str, reason: str) -> None:
    """Only this check said no, with a reason that holds this text."""
    assert not verdict.ok
    found = failures(verdict)
    assert list(found) == [name]
    assert reason in found[name]


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


def test_an_expired_trust_file_still_verifies_and_says_so(builder: Any, artefact: Path) -> None:
    verdict = builder.verify(artefact, now=datetime(2036, 1, 1, tzinfo=UTC))
    assert verdict.ok
    assert verdict.checks[-1].reason == "the trust file expired on 2036-01-01"
    assert any("expired" in line for line in verdict.not_checked)
    assert not any("expired" in line for line in builder.verify(artefact).not_checked)


def test_a_time_without_zone_fails_the_trust_check(builder: Any, artefact: Path) -> None:
    fails(builder.verify(artefact, now=datetime(2026, 1, 1)), "trust", "TypeError")


# Every byte


def every_byte(data: bytes) -> Iterator[bytes]:
    noise = random.Random(442)  # noqa: S311
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= noise.randrange(1, 256)
        yield bytes(changed)


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


@pytest.mark.parametrize("name", ["manifest.json", ATTESTATION])
def test_no_byte_can_be_changed(artefact: Path, name: str) -> None:
    data = (artefact / name).read_bytes()
    assert accepted(artefact, name, every_byte(data)) == []
    assert accepted(artefact, name, iter([data])) == [data]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", ATTESTATION])
def test_no_bit_can_be_changed(artefact: Path, name: str) -> None:
    assert accepted(artefact, name, every_bit((artefact / name).read_bytes())) == []


@pytest.mark.parametrize("name", ["manifest.json", ATTESTATION])
def test_no_byte_can_be_removed_or_repeated(artefact: Path, name: str) -> None:
    data = (artefact / name).read_bytes()
    removed = (data[:i] + data[i + 1 :] for i in range(0, len(data), 3))
    repeated = (data[:i] + data[i : i + 1] + data[i:] for i in range(0, len(data), 3))
    assert accepted(artefact, name, removed) == []
    assert accepted(artefact, name, repeated) == []


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
    opened = artefact_module._Artefact(artefact, trust, datetime(2026, 11, 23, tzinfo=UTC))
    assert opened.read("README.md") == (artefact / "README.md").read_bytes()
    (artefact / "README.md").write_text("# A better model\n")
    with pytest.raises(ValueError, match=r"changed file: README\.md"):
        opened.read("README.md")


def test_a_changed_file_is_named(builder: Any, artefact: Path) -> None:
    (artefact / "README.md").write_text("# A better model\n")
    fails(builder.verify(artefact), "files", "changed file: README.md")


# What is in the folder


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", ".git/x", "model/model.onnx", "log/a b"])
def test_an_added_file_is_named(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).parent.mkdir(exist_ok=True)
    (artefact / name).write_bytes(b"")
    fails(builder.verify(artefact), "files", f"extra file: {name}")


def test_many_added_files_are_counted(builder: Any, artefact: Path) -> None:
    for number in range(5):
        (artefact / f"{number}.txt").write_bytes(b"")
    fails(builder.verify(artefact), "files", "extra file: 0.txt, 1.txt, 2.txt and 2 more")


@pytest.mark.parametrize("name", ["log", ".git", "model/deep/deeper"])
def test_an_empty_folder_is_named(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).mkdir(parents=True)
    fails(builder.verify(artefact), "folder", f"empty folder: {name}/")


@pytest.mark.parametrize("name", ["README.md", "manifest.json", "model/weights.safetensors"])
def test_a_removed_file_is_named(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).unlink()
    fails(builder.verify(artefact), "files", f"missing file: {name}")


def test_a_removed_envelope_is_found(builder: Any, artefact: Path) -> None:
    (artefact / ATTESTATION).rename(artefact / "attestations/other.json")
    fails(builder.verify(artefact), "envelope", "No such file")


def test_a_renamed_file_is_found(builder: Any, artefact: Path) -> None:
    (artefact / "README.md").rename(artefact / "readme.md")
    fails(builder.verify(artefact), "files", "extra file: readme.md")


@pytest.mark.parametrize("name", ["README.md", ATTESTATION, "model", "training/receipts"])
def test_a_symbolic_link_to_the_same_content_is_refused(
    builder: Any, artefact: Path, tmp_path: Path, name: str
) -> None:
    shutil.move(artefact / name, tmp_path / "elsewhere")
    (artefact / name).symlink_to(tmp_path / "elsewhere")
    fails(builder.verify(artefact), "folder", f"symbolic link: {name}")


def test_a_broken_symbolic_link_is_refused(builder: Any, artefact: Path) -> None:
    (artefact / "link").symlink_to("nowhere")
    fails(builder.verify(artefact), "folder", "symbolic link: link")


def test_an_artefact_that_is_a_symbolic_link_itself_is_refused(
    builder: Any, artefact: Path
) -> None:
    link = artefact.with_name("latest")
    link.symlink_to(artefact)
    fails(builder.verify(link), "folder", "the artefact is a symbolic link")


def test_a_pipe_and_a_socket_are_refused(builder: Any, artefact: Path) -> None:
    os.mkfifo(artefact / "pipe")
    fails(builder.verify(artefact), "folder", "neither file nor folder: pipe")
    (artefact / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(artefact / "s"))
        fails(builder.verify(artefact), "folder", "neither file nor folder: s")


@pytest.mark.parametrize("name", ["a\\b", "tab\t", "new\nline", "\x1b[2J", "æ", "\x7f"])
def test_a_name_that_is_not_plain_ascii_is_refused(builder: Any, artefact: Path, name: str) -> None:
    (artefact / name).write_bytes(b"")
    builder.seal(artefact)  # even when it is signed
    verdict = builder.verify(artefact)
    fails(verdict, "folder", "not printable ASCII")
    assert verdict.checks[0].reason.isprintable()


def test_a_name_that_is_no_text_is_refused(builder: Any, artefact: Path) -> None:
    Path(os.fsdecode(os.fsencode(artefact) + b"/\xff")).write_bytes(b"")
    fails(builder.verify(artefact), "folder", "not printable ASCII")


def test_a_folder_with_too_many_entries_is_refused(
    builder: Any, artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = len(list(artefact.rglob("*")))
    monkeypatch.setattr(artefact_module, "_MAX_ENTRIES", entries)
    assert builder.verify(artefact).ok
    monkeypatch.setattr(artefact_module, "_MAX_ENTRIES", entries - 1)
    fails(builder.verify(artefact), "folder", f"more than {entries - 1} files and folders")


def test_a_folder_too_deep_to_walk_is_refused(builder: Any, artefact: Path) -> None:
    here = os.open(artefact, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    verdict = builder.verify(artefact)
    subprocess.run(["rm", "-rf", artefact], check=True)  # shutil.rmtree recurses too deep
    fails(verdict, "folder", "could not be checked (RecursionError)")


def test_a_missing_or_empty_folder_is_a_failed_check(builder: Any, tmp_path: Path) -> None:
    builder.write_trust(tmp_path / "trust.json")
    (tmp_path / "models/empty").mkdir(parents=True)
    fails(builder.verify(tmp_path / "models/none"), "folder", "No such file")
    fails(builder.verify(tmp_path / "models/empty"), "folder", "empty folder: .")


def test_what_was_not_reached_is_not_passed_and_not_named(builder: Any, artefact: Path) -> None:
    (artefact / "link").symlink_to("nowhere")
    verdict = builder.verify(artefact)
    assert [check.ok for check in verdict.checks] == [False] * 10 + [True]
    assert all(check.reason.startswith("not reached") for check in verdict.checks[1:-1])
    assert (verdict.artefact, verdict.name, verdict.version) == (None, None, None)
    assert verdict.signers == ()


# Who signed


def test_a_model_signed_again_by_an_attacker_is_refused(builder: Any, artefact: Path) -> None:
    (artefact / "model/weights.safetensors").write_bytes(b"other weights")
    builder.seal(artefact, signers=[builder.attacker])
    fails(builder.verify(artefact), "envelope", "not trusted here")


def test_an_attacker_cannot_stand_beside_the_trusted_keys(builder: Any, artefact: Path) -> None:
    builder.seal(artefact, signers=[*builder.signers, builder.attacker])
    fails(builder.verify(artefact), "envelope", "not trusted here")


def test_one_of_two_needed_signatures_is_refused(builder: Any, artefact: Path) -> None:
    builder.seal(artefact, signers=[builder.coordinator])
    fails(builder.verify(artefact), "envelope", "1 trusted signatures, and 2 are needed")


def test_one_signature_is_enough_where_the_trust_file_says_so(builder: Any, artefact: Path) -> None:
    builder.write_trust(artefact.parent.parent / "trust.json", threshold=1)
    builder.seal(artefact, signers=[builder.steward])
    assert builder.verify(artefact).signers == (key_id(builder.steward.public_key()),)


def test_the_envelope_of_another_model_is_refused(builder: Any, tmp_path: Path) -> None:
    first = builder.write(tmp_path / "1")
    builder.edit_manifest = lambda manifest: manifest.update(version="v2")
    second = builder.write(tmp_path / "2")
    shutil.copy(second / ATTESTATION, first / ATTESTATION)
    fails(builder.verify(first), "files", "changed file: manifest.json")


# The statement


def edit_subject(statement: dict[str, Any], **changes: Any) -> None:
    statement["subject"][0] |= changes


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "_type"),
        (lambda s: s.update(predicateType="urn:other"), "predicateType"),
        (lambda s: s.update(extra=1), "unknown member 'extra'"),
        (lambda s: s.pop("predicate"), "lacks 'predicate'"),
        (lambda s: s.update(subject={}), "subject is dict"),
        (lambda s: s["subject"].reverse(), "not in order"),
        (lambda s: s["subject"].insert(0, s["subject"][0]), "not in order"),
        (lambda s: edit_subject(s, name=""), "name is empty"),
        (lambda s: edit_subject(s, uri="x"), "unknown member 'uri'"),
        (lambda s: edit_subject(s, digest={"sha512": "0"}), "lacks 'sha256'"),
        (lambda s: edit_subject(s, digest={"sha256": "A" * 64}), "not of the form"),
        (lambda s: edit_subject(s, digest=None), "digest is NoneType"),
        (lambda s: s["predicate"].update(extra=1), "unknown member 'extra'"),
        (lambda s: s["predicate"].pop("run"), "lacks 'run'"),
        (lambda s: s["predicate"].update(created="2026-11-22T21:00:00.5Z"), "not a time"),
        (lambda s: s["predicate"].update(created="yesterday"), "not a time"),
        (lambda s: s["predicate"].update(name=""), "name is empty"),
        (lambda s: s["predicate"].update(run=1), "run is int, not str"),
        (lambda s: s["predicate"].update(version="1"), "not of the form"),
        (lambda s: s["predicate"].update(version="v01"), "not of the form"),
        (lambda s: s["predicate"].update(simulation="true"), "not bool"),
        (lambda s: s["predicate"].update(artefact="0" * 64), "not of the form"),
    ],
)
def test_a_statement_of_another_form_is_refused(
    builder: Any, tmp_path: Path, edit: Any, reason: str
) -> None:
    builder.edit_statement = edit
    fails(builder.verify(builder.write(tmp_path)), "statement", reason)


@pytest.mark.parametrize("payload", [b"[]", b"{}", b"null", b"{", b'{"_type": 1}', b"[" * 9999])
def test_a_signed_payload_that_is_no_statement_is_refused(
    builder: Any, artefact: Path, payload: bytes
) -> None:
    builder.sign(artefact, payload)
    assert list(failures(builder.verify(artefact))) == ["statement"]


@pytest.mark.parametrize(
    ("key", "value"), [("name", "other"), ("version", "v2"), ("run", "run-2"), ("artefact", OTHER)]
)
def test_a_statement_that_disagrees_with_the_manifest_is_refused(
    builder: Any, tmp_path: Path, key: str, value: str
) -> None:
    builder.edit_statement = lambda statement: statement["predicate"].update({key: value})
    fails(builder.verify(builder.write(tmp_path)), "manifest", "expected")


def test_a_simulation_cannot_be_passed_off_as_real(builder: Any, tmp_path: Path) -> None:
    builder.edit_statement = lambda statement: statement["predicate"].update(simulation=False)
    fails(builder.verify(builder.write(tmp_path)), "manifest", "simulation: found True")


def test_a_statement_about_itself_is_refused(builder: Any, artefact: Path) -> None:
    def add_itself(statement: dict[str, Any]) -> None:
        entry = {"name": ATTESTATION, "digest": {"sha256": "0" * 64}}
        statement["subject"] = sorted([*statement["subject"], entry], key=lambda s: s["name"])

    builder.edit_statement = add_itself
    builder.seal(artefact)
    fails(builder.verify(artefact), "files", f"missing file: {ATTESTATION}")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "./README.md"])
def test_a_statement_cannot_reach_out_of_the_folder(
    builder: Any, artefact: Path, name: str
) -> None:
    (artefact.parent / "outside").write_bytes(b"outside")
    content = digest(b"outside").removeprefix("sha256:")

    def add(statement: dict[str, Any]) -> None:
        entry = {"name": name, "digest": {"sha256": content}}
        statement["subject"] = sorted([*statement["subject"], entry], key=lambda s: s["name"])

    builder.edit_statement = add
    builder.seal(artefact)
    fails(builder.verify(artefact), "files", f"missing file: {name}")


# The manifest, signed by those who are trusted


@pytest.mark.parametrize(
    ("edit", "name", "reason"),
    [
        (lambda m: m.update(schema="solblom.artefact/2"), "manifest", "schema"),
        (lambda m: m.update(comment="x"), "manifest", "unknown member 'comment'"),
        (lambda m: m.pop("environment"), "manifest", "lacks 'environment'"),
        (lambda m: m.pop("privacy"), "manifest", "lacks 'privacy'"),
        (lambda m: m.update(environment=[]), "manifest", "environment is list"),
        (lambda m: m.update(task=""), "manifest", "task is empty"),
        (lambda m: m.update(training=[]), "manifest", "training is list"),
        (lambda m: m["files"].update({"no.txt": {}}), "manifest-files", "lacks 'bytes'"),
        (lambda m: m["files"].update({"no.txt": ABSENT}), "manifest-files", "not a signed file"),
        (lambda m: m["files"]["README.md"].update(bytes=1), "manifest-files", "bytes of README.md"),
        (lambda m: m["files"]["README.md"].update(bytes=True), "manifest-files", "not int"),
        (lambda m: m["files"]["README.md"].update(sha256="0" * 64), "manifest-files", "digest of"),
        (lambda m: m["files"]["README.md"].update(mode=1), "manifest-files", "unknown member"),
        (lambda m: m["model"].update(weights=OTHER), "model", "digest of the weights"),
        (lambda m: m["model"].pop("weights"), "model", "lacks 'weights'"),
        (lambda m: m["sites"].pop("innlandet"), "receipts", "manifest.sites does not"),
        (lambda m: m["sites"]["innlandet"].update(keyid="0" * 64), "receipts", "key id of"),
        (lambda m: m["sites"]["innlandet"].update(node_key="x"), "receipts", "PEM"),
        (lambda m: m["sites"].update(copy=m["sites"]["innlandet"]), "receipts", "share one key"),
        (lambda m: m["training"].update(study=OTHER), "receipts", "study: found"),
        (lambda m: m["training"]["rounds"].pop(), "rounds", "number of rounds"),
        (lambda m: m["training"]["rounds"].reverse(), "rounds", "expected"),
        (lambda m: m["training"]["rounds"][0].update(base=OTHER), "rounds", "base of round 1"),
        (lambda m: m["training"]["rounds"][1].update(result=OTHER), "rounds", "result of round 2"),
        (lambda m: m["training"]["rounds"][1].update(round=3), "rounds", "in the manifest"),
        (lambda m: m["training"]["rounds"][0]["updates"].popitem(), "rounds", "updates of round 1"),
        (lambda m: m["training"]["rounds"][0]["updates"].update(x=OTHER), "rounds", "updates of"),
        (lambda m: m["privacy"]["sites"].pop("st-olavs"), "privacy", "lacks 'st-olavs'"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_though_it_is_signed(
    builder: Any, tmp_path: Path, edit: Any, name: str, reason: str
) -> None:
    builder.edit_manifest = edit
    fails(builder.verify(builder.write(tmp_path)), name, reason)


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"epsilon": "2.98"},
        {"delta": "1e-05"},
        {"epsilon": 2.98, "delta": "1e-05"},
        {"epsilon": "2.98", "delta": None},
        {"epsilon": "", "delta": "1e-05"},
        {"epsilon": "not stated", "delta": "1e-05"},
        {"epsilon": "nan", "delta": "1e-05"},
        {"epsilon": "-1", "delta": "1e-05"},
        {"epsilon": "2.98\n", "delta": "1e-05"},
        {"epsilon": "2.98", "delta": "unknown"},
    ],
)
def test_a_site_without_epsilon_and_delta_is_refused(
    builder: Any, tmp_path: Path, stated: dict[str, Any]
) -> None:
    builder.edit_manifest = lambda m: m["privacy"]["sites"].update(innlandet=stated)
    assert list(failures(builder.verify(builder.write(tmp_path)))) == ["privacy"]


@pytest.mark.parametrize("epsilon", ["off", "inf"])
def test_training_without_privacy_is_said_aloud(builder: Any, tmp_path: Path, epsilon: str) -> None:
    stated = {"epsilon": epsilon, "delta": "0"}
    builder.edit_manifest = lambda m: m["privacy"]["sites"].update(innlandet=stated)
    verdict = builder.verify(builder.write(tmp_path))
    assert verdict.ok
    reasons = {check.name: check.reason for check in verdict.checks}
    assert reasons["privacy"] == "no differential privacy at: innlandet"


def test_a_manifest_in_another_layout_is_refused_though_it_is_signed(
    builder: Any, artefact: Path
) -> None:
    path = artefact / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=1))
    builder.seal(artefact)
    fails(builder.verify(artefact), "manifest", "canonical form")


def test_a_model_without_weights_is_refused(builder: Any, artefact: Path) -> None:
    (artefact / "model/weights.safetensors").unlink()
    builder.seal(artefact)
    verdict = builder.verify(artefact)
    assert failures(verdict)["model"] == "missing file: model/weights.safetensors"


# Receipts and rounds, signed by those who are trusted


def test_receipts_that_changed_places_are_refused(builder: Any, artefact: Path) -> None:
    one, two = (
        artefact / f"training/receipts/001-{s}.dsse.json" for s in ("innlandet", "st-olavs")
    )
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    fails(builder.verify(artefact), "files", "changed file: training/receipts/001-innlandet")
    builder.seal(artefact)
    assert "digest of training/receipts/001-" in failures(builder.verify(artefact))["receipts"]


def test_a_receipt_signed_by_another_site_is_refused(builder: Any, tmp_path: Path) -> None:
    builder.receipt_keys["innlandet"] = builder.site_keys["st-olavs"]
    fails(builder.verify(builder.write(tmp_path)), "receipts", "not trusted here")


def test_a_receipt_signed_by_the_coordinator_is_refused(builder: Any, tmp_path: Path) -> None:
    builder.receipt_keys["innlandet"] = builder.coordinator
    fails(builder.verify(builder.write(tmp_path)), "receipts", "001-innlandet.dsse.json: a sig")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "solblom.receipt/2"),
        ("site", "st-olavs"),
        ("run", "run-0"),
        ("round", 3),
        ("round", "1"),
        ("study", OTHER),
        ("base_model", OTHER),
        ("update", OTHER),
        ("work", OTHER),
        ("order", "none"),
    ],
)
def test_a_receipt_that_disagrees_with_its_round_is_refused(
    builder: Any, tmp_path: Path, key: str, value: Any
) -> None:
    def edit(receipt: dict[str, Any]) -> None:
        if receipt["site"] == "innlandet":
            receipt[key] = value

    builder.edit_receipt = edit
    reason = "001-innlandet.dsse.json:"
    fails(builder.verify(builder.write(tmp_path)), "receipts", reason)


@pytest.mark.parametrize("key", ["site", "run", "round", "study", "base_model", "work", "order"])
def test_a_receipt_that_lacks_a_member_is_refused(builder: Any, tmp_path: Path, key: str) -> None:
    builder.edit_receipt = lambda receipt: receipt.pop(key)
    fails(builder.verify(builder.write(tmp_path)), "receipts", f"lacks '{key}'")


def test_a_receipt_may_say_more(builder: Any, tmp_path: Path) -> None:
    builder.edit_receipt = lambda receipt: receipt.update(count_band="100-199")
    assert builder.verify(builder.write(tmp_path)).ok


@pytest.mark.parametrize("name", ["003-innlandet.dsse.json", "1-innlandet.dsse.json", "x/y.json"])
def test_a_receipt_of_no_round_is_refused(builder: Any, artefact: Path, name: str) -> None:
    path = artefact / "training/receipts" / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(artefact / "training/receipts/001-innlandet.dsse.json", path)
    builder.seal(artefact)
    fails(builder.verify(artefact), "receipts", f"receipt of no round: training/receipts/{name}")


def test_a_result_without_its_receipt_is_refused(builder: Any, artefact: Path) -> None:
    (artefact / "training/receipts/002-innlandet.dsse.json").unlink()
    builder.seal(artefact)
    fails(builder.verify(artefact), "receipts", "not a signed file: training/receipts/002")


def test_a_result_of_an_unknown_site_is_refused(builder: Any, tmp_path: Path) -> None:
    def add(rounds: list[dict[str, Any]]) -> None:
        rounds[0]["results"]["puppet"] = rounds[0]["results"]["innlandet"]

    builder.edit_rounds = add
    found = failures(builder.verify(builder.write(tmp_path)))
    assert "'puppet', which manifest.sites does not" in found["receipts"]
    assert "lacks 'puppet'" in found["privacy"]


def test_a_broken_chain_of_rounds_is_refused_though_all_keys_signed_it(
    builder: Any, tmp_path: Path
) -> None:
    def edit_receipt(receipt: dict[str, Any]) -> None:
        if receipt["round"] == 2:
            receipt["base_model"] = OTHER

    builder.edit_receipt = edit_receipt
    builder.edit_rounds = lambda rounds: rounds[1].update(base=OTHER)
    fails(builder.verify(builder.write(tmp_path)), "rounds", "base of round 2")


def test_a_broken_chain_is_named_by_rounds_and_receipts_alike(builder: Any, tmp_path: Path) -> None:
    builder.edit_rounds = lambda rounds: rounds[1].update(base=OTHER)
    found = failures(builder.verify(builder.write(tmp_path)))
    assert set(found) == {"receipts", "rounds"}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda rounds: rounds.pop(0), "round number: found 2, expected 1"),
        (lambda rounds: rounds.reverse(), "round number: found 2, expected 1"),
        (lambda rounds: rounds.append(rounds[1]), "expected"),
        (lambda rounds: rounds.clear(), "lines that each end with LF"),
        (lambda rounds: rounds[1].update(round=True), "round is bool, not int"),
        (lambda rounds: rounds[1].pop("result"), "lacks 'result'"),
        (lambda rounds: rounds[1].update(results=[]), "results is list"),
    ],
)
def test_rounds_with_a_gap_or_another_form_are_refused(
    builder: Any, artefact: Path, edit: Any, reason: str
) -> None:
    path = artefact / "training/rounds.jsonl"
    rounds = [json.loads(line) for line in path.read_bytes().splitlines()]
    edit(rounds)
    path.write_bytes(b"".join(canonical_json(entry) + b"\n" for entry in rounds))
    manifest = json.loads((artefact / "manifest.json").read_bytes())
    del manifest["files"]["training/rounds.jsonl"]
    claims = [{"updates": {}, "base": OTHER, "result": OTHER} | entry for entry in rounds]
    manifest["training"]["rounds"] = claims
    for claim in claims:
        results = claim.get("results")
        if isinstance(results, dict):
            claim["updates"] = {site: result["update"] for site, result in results.items()}
    (artefact / "manifest.json").write_bytes(canonical_json(manifest))
    builder.seal(artefact)
    assert reason in failures(builder.verify(artefact))["rounds"]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}", b"{}\r\n", b"{}\n\n", b"\n{}\n", b"[]\n", b"{ }\n", b"\xff\n"]
)
def test_rounds_that_are_not_canonical_lines_are_refused(
    builder: Any, artefact: Path, content: bytes
) -> None:
    (artefact / "training/rounds.jsonl").write_bytes(content)
    manifest = json.loads((artefact / "manifest.json").read_bytes())
    del manifest["files"]["training/rounds.jsonl"]
    (artefact / "manifest.json").write_bytes(canonical_json(manifest))
    builder.seal(artefact)
    assert set(failures(builder.verify(artefact))) == {"receipts", "rounds", "privacy"}


def test_a_round_in_which_nobody_answered_is_accepted(builder: Any, artefact: Path) -> None:
    path = artefact / "training/rounds.jsonl"
    last = json.loads(path.read_bytes().splitlines()[-1])
    last |= {"round": 3, "base": last["result"], "results": {}, "missing": ["innlandet"]}
    path.write_bytes(path.read_bytes() + canonical_json(last) + b"\n")
    manifest = json.loads((artefact / "manifest.json").read_bytes())
    del manifest["files"]["training/rounds.jsonl"]
    claim = {"round": 3, "base": last["base"], "result": last["result"], "updates": {}}
    manifest["training"]["rounds"].append(claim)
    (artefact / "manifest.json").write_bytes(canonical_json(manifest))
    builder.seal(artefact)
    assert failures(builder.verify(artefact)) == {}


def test_a_file_beyond_the_limit_is_a_failed_check(builder: Any, artefact: Path) -> None:
    with (artefact / ATTESTATION).open("r+b") as stream:
        stream.truncate(64 * 1024 * 1024 + 1)  # sparse
    fails(builder.verify(artefact), "envelope", "more than the 67108864 bytes")


def test_a_reason_stays_short(builder: Any, tmp_path: Path) -> None:
    builder.edit_manifest = lambda manifest: manifest.update({"x" * 10_000: 1})
    verdict = builder.verify(builder.write(tmp_path))
    assert all(len(check.reason) <= 500 for check in verdict.checks)


def test_a_file_that_cannot_be_read_is_a_failed_check(builder: Any, artefact: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    (artefact / "README.md").chmod(0)
    fails(builder.verify(artefact), "files", "Permission denied")
