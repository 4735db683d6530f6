"""Who signed an artefact, and what the statement that they signed says."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id
from unit.verify.verdicts import ATTESTATION, OTHER, fails, failures

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
