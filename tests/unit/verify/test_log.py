"""The log beside an artefact: its head is signed and cosigned, its entries are proved, its decisions are stewards'."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from solblom_protocol.logs.cosignature import cosign
from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash
from solblom_protocol.logs.transparency import head_of, write_checkpoint
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import key_id
from unit.verify.verdicts import fails, failures
from unit.verify.witness_pins import pinned

CHECKPOINT, INCLUSION = "log/checkpoint.txt", "log/inclusion.json"


def test_a_logged_model_says_when_it_was_signed_by_whom_and_what_it_is(
    builder: Any, logged: Path
) -> None:
    verdict = builder.verify(logged)
    assert failures(verdict) == {}
    assert verdict.signed == datetime(2026, 11, 22, 21, 0, 5, tzinfo=UTC)
    assert verdict.status == "candidate"
    assert verdict.witnesses == ("innlandet", "st-olavs")
    reasons = {check.name: check.reason for check in verdict.checks}
    assert reasons["log"] == "signed 2026-11-22T21:00:05Z"
    assert reasons["witnesses"] == "cosigned by innlandet, st-olavs"
    assert any("later withdrawal unknown" in line for line in verdict.not_checked)
    assert any("not pinned" in line for line in verdict.not_checked)


def test_a_model_of_a_version_without_a_log_is_read_and_says_so(
    builder: Any, artefact: Path
) -> None:
    verdict = builder.verify(artefact)
    assert verdict.ok
    assert (verdict.signed, verdict.status, verdict.witnesses) == (None, None, ())
    assert any(line.startswith("Log: this model has none") for line in verdict.not_checked)


def test_a_model_without_a_log_may_not_carry_one(builder: Any, artefact: Path) -> None:
    (artefact / "log").mkdir()
    (artefact / CHECKPOINT).write_bytes(b"")
    fails(builder.verify(artefact), "log", "extra file: log/checkpoint.txt")


@pytest.mark.parametrize("name", [CHECKPOINT, INCLUSION])
def test_a_model_that_names_a_log_must_carry_it(builder: Any, logged: Path, name: str) -> None:
    (logged / name).unlink()
    fails(builder.verify(logged), "log", f"missing file: {name}")


def test_another_file_beside_the_log_is_an_extra_one(builder: Any, logged: Path) -> None:
    (logged / "log/notes.txt").write_bytes(b"")
    fails(builder.verify(logged), "files", "extra file: log/notes.txt")


# The checkpoint


def noted(change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / CHECKPOINT
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return apply


def lines_swapped(note: str) -> str:
    lines = note.splitlines(keepends=True)
    return "".join([*lines[:-2], lines[-1], lines[-2]])


def other_base64(note: str) -> str:
    """The same bytes, another spelling: spare bits before the padding are set."""
    head, line = note[:-1].rsplit(" ", 1)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = line.rstrip("=")[-1]
    padding = line[len(line.rstrip("=")) :]
    if not padding:
        pytest.skip("no padding, no spare bits")
    return f"{head} {line.rstrip('=')[:-1]}{alphabet[alphabet.index(last) + 1]}{padding}\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda note: note + "\n", "not a checkpoint of the log"),
        (lambda note: note.replace("\n", "\r\n"), "not a checkpoint of the log"),
        (lambda note: note.replace("\u2014", "-"), "not a checkpoint of the log"),
        (lambda note: "x" + note, "not a checkpoint of the log"),
        (lambda note: note.replace("\n5\n", "\n05\n"), "not a checkpoint of the log"),
        (lambda note: note.replace("\n5\n", "\n6\n"), "on the checkpoint is not valid"),
        (lambda note: note.replace("\n\n", "\nextension\n\n"), "not a checkpoint of the log"),
        (lambda note: note[:-1], "not a checkpoint of the log"),
        (lambda note: note + note.splitlines(keepends=True)[-1], "in order of name, each once"),
        (lines_swapped, "in order of name, each once"),
        (lambda note: note.replace("st-olavs", "zt-olavs"), "cosigned by a stranger"),
        (lambda note: note + "\u2014 zzz AAAA\n", "with another key than its own: zzz"),
        (
            lambda note: note.replace("\u2014 solblom", "\u2014 other"),
            "not by the coordinator's key",
        ),
        (other_base64, "not canonical base64"),
        (lambda note: note * 1000, "not a checkpoint of the log"),
    ],
)
def test_another_spelling_of_the_checkpoint_is_refused(
    builder: Any, logged: Path, change: Callable[[str], str], reason: str
) -> None:
    noted(change)(logged)
    fails(builder.verify(logged), "log", reason)


def test_a_head_signed_by_an_attacker_is_refused(builder: Any, log: Any, tmp_path: Path) -> None:
    log.key = builder.attacker
    fails(
        builder.verify(log.write(tmp_path)),
        "log",
        "the first signature is not by the coordinator's key",
    )


def test_a_log_whose_key_the_trust_file_does_not_name_is_refused(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    log.origin = (
        f"solblom/{key_id(builder.steward.public_key())[:16]}"  # trusted, but no coordinator
    )
    fails(builder.verify(log.write(tmp_path)), "log", "no trusted coordinator's key")


def test_a_cosignature_over_another_head_is_refused(builder: Any, log: Any, logged: Path) -> None:
    other = write_checkpoint(log.origin, head_of([b"fork"]), log.key)
    line = cosign(other, "st-olavs", log.witnesses["st-olavs"], time=log.cosigned)
    kept = (logged / CHECKPOINT).read_text(encoding="utf-8").splitlines()[:-1]
    (logged / CHECKPOINT).write_text("\n".join([*kept, line]) + "\n", encoding="utf-8")
    fails(builder.verify(logged), "log", "the signature of st-olavs on the checkpoint")


# Inclusion


def edit_inclusion(logged: Path, change: Callable[[Any], object]) -> None:
    value = json.loads((logged / INCLUSION).read_bytes())
    change(value)
    (logged / INCLUSION).write_bytes(canonical_json(value))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(extra=1), "unknown member 'extra'"),
        (lambda v: v.update(schema="solblom.inclusion/2"), "not about the checkpoint"),
        (lambda v: v.update(size=6), "not about the checkpoint"),
        (lambda v: v.update(origin="solblom/0"), "not about the checkpoint"),
        (lambda v: v["entries"].append(v["entries"][0]), "in order of index, each once"),
        (lambda v: v["entries"][0].update(index=-1), "in order of index, each once"),
        (lambda v: v["entries"][0].update(index=2), "entry 2 is not in the log"),
        (lambda v: v["entries"][0].update(index=99), "entry 99 is not in the log"),
        (lambda v: v["entries"][0]["proof"].reverse(), "entry 3 is not in the log"),
        (lambda v: v["entries"][0]["proof"].pop(), "entry 3 is not in the log"),
        (lambda v: v["entries"][0]["proof"].append("AAAA"), "entry 3 is not in the log"),
        (lambda v: v["entries"][0]["proof"].append(1), "something else than strings"),
        (lambda v: v["entries"][0]["entry"].update(name="x"), "entry 3 is not in the log"),
        (lambda v: v["entries"].clear(), "the log has no entry of the model"),
    ],
)
def test_an_inclusion_of_another_form_is_refused(
    builder: Any, logged: Path, change: Callable[[Any], object], reason: str
) -> None:
    edit_inclusion(logged, change)
    fails(builder.verify(logged), "log", reason)


def test_another_layout_of_the_inclusion_is_refused(builder: Any, logged: Path) -> None:
    data = (logged / INCLUSION).read_bytes()
    (logged / INCLUSION).write_bytes(data + b"\n")
    fails(builder.verify(logged), "log", "not in canonical form")


def test_the_entry_of_another_model_is_refused(builder: Any, log: Any, tmp_path: Path) -> None:
    folder = log.write(tmp_path)
    log.add_model(folder, artefact="sha256:" + "0" * 64)
    log.write_files(folder)
    hashes = [leaf_hash(leaf) for leaf in log.leaves()]
    last = len(hashes) - 1
    proof = [base64.b64encode(p).decode() for p in inclusion_proof(hashes, last)]
    item = {"index": last, "entry": log.entries[last], "proof": proof}
    edit_inclusion(folder, lambda value: value["entries"].append(item))
    fails(builder.verify(folder), "log", "about something else than this model")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "other"}, "names another model"),
        ({"version": "v2"}, "names another model"),
        ({"kind": "receipt"}, "of another kind"),
        ({"schema": "solblom.log-entry/2"}, "about something else"),
        ({"extra": 1}, "unknown member 'extra'"),
        ({"time": "yesterday"}, "not a time"),
        ({"envelope": "sha256:" + "0" * 64}, "envelope in the log"),
    ],
)
def test_a_model_entry_of_another_form_is_refused(
    builder: Any, log: Any, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = log.write(tmp_path)
    log.add_model(folder, **changes)
    log.write_files(folder)
    fails(builder.verify(folder), "log", reason)


def test_a_signature_that_was_added_after_the_log_is_refused(
    builder: Any, log: Any, tmp_path: Path
) -> None:
    builder.write_trust(tmp_path / "trust.json", threshold=1)
    builder.signers = [builder.coordinator]
    folder = log.write(tmp_path)
    builder.write_trust(tmp_path / "trust.json", threshold=1)
    assert builder.verify(folder).ok
    builder.seal(folder, signers=[builder.coordinator, builder.steward])
    fails(builder.verify(folder), "log", "envelope in the log")
    log.add_model(folder, time="2026-11-22T21:00:20Z")
    log.write_files(folder)
    assert builder.verify(folder).signed == datetime(2026, 11, 22, 21, 0, 20, tzinfo=UTC)


# Decisions


def decided(log: Any, folder: Path, *statuses: str) -> None:
    for status in statuses:
        log.add_status(status)
    log.write_files(folder)


def test_the_status_is_the_newest_decision(builder: Any, log: Any, logged: Path) -> None:
    decided(log, logged, "validated", "released")
    assert builder.verify(logged).status == "released"


def test_affected_is_a_remark_and_no_decision(builder: Any, log: Any, logged: Path) -> None:
    decided(log, logged, "released")
    log.add_status("affected", key=builder.coordinator)
    log.write_files(logged)
    verdict = builder.verify(logged)
    assert (verdict.ok, verdict.status) == (True, "released")
    assert "affected" in {c.name: c.reason for c in verdict.checks}["status"]


@pytest.mark.parametrize("after", [(), ("released",), ("candidate",), ("affected",)])
def test_a_withdrawn_model_is_refused_whatever_follows(
    builder: Any, log: Any, logged: Path, after: tuple[str, ...]
) -> None:
    decided(log, logged, "released", "withdrawn", *after)
    verdict = builder.verify(logged)
    fails(verdict, "status", "withdrawn 2026-11-22 by Helse Midt steward: because it is withdrawn")
    assert verdict.status == "withdrawn"


@pytest.mark.parametrize("status", ["validated", "released", "withdrawn"])
def test_only_a_steward_promotes_and_withdraws(
    builder: Any, log: Any, logged: Path, status: str
) -> None:
    log.add_status(status, key=builder.coordinator)
    log.write_files(logged)
    fails(builder.verify(logged), "log", f"{status} is a steward's decision")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"artefact": "sha256:" + "0" * 64}, "something else than this model"),
        ({"version": "v2"}, "something else than this model"),
        ({"schema": "solblom.status/2"}, "something else than this model"),
        ({"status": "approved"}, "not of the form"),
        ({"reason": ""}, "reason is empty"),
        ({"extra": 1}, "unknown member"),
    ],
)
def test_a_decision_of_another_form_is_refused(
    builder: Any, log: Any, logged: Path, changes: dict[str, Any], reason: str
) -> None:
    log.add_status(**{"status": "released"} | changes)
    log.write_files(logged)
    fails(builder.verify(logged), "log", reason)


def test_a_decision_signed_by_an_attacker_is_refused(builder: Any, log: Any, logged: Path) -> None:
    log.add_status("released", key=builder.attacker)
    log.write_files(logged)
    fails(builder.verify(logged), "log", "not trusted here")


# Trust at the signing time


def key_with(builder: Any, home: Path, **limits: str) -> None:
    keys = builder.trust()["keys"]
    keys[1] |= limits
    builder.write_trust(home / "trust.json", keys=keys)


def test_a_key_that_ended_after_the_signing_counts(
    builder: Any, logged: Path, tmp_path: Path
) -> None:
    key_with(builder, tmp_path, until="2026-11-22T23:00:00Z")
    assert builder.verify(logged, now=datetime(2030, 1, 1, tzinfo=UTC)).ok


@pytest.mark.parametrize(
    "limits", [{"until": "2026-11-22T21:00:05Z"}, {"from": "2026-11-22T21:00:06Z"}]
)
def test_a_key_that_was_not_valid_at_the_signing_is_refused(
    builder: Any, logged: Path, tmp_path: Path, limits: dict[str, str]
) -> None:
    key_with(builder, tmp_path, **limits)
    fails(builder.verify(logged), "trust", "Helse Midt steward was not valid on 2026-11-22")


def test_without_a_log_an_ended_key_is_refused_since_nobody_witnessed_the_date(
    builder: Any, artefact: Path, tmp_path: Path
) -> None:
    key_with(builder, tmp_path, until="2026-11-22T23:00:00Z")
    now = datetime(2030, 1, 1, tzinfo=UTC)
    fails(builder.verify(artefact, now=now), "trust", "was not valid on 2030-01-01")


def test_a_decision_by_a_key_that_was_not_valid_then_is_refused(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    key_with(builder, tmp_path, until="2026-11-22T22:00:00Z")
    log.add_status("released", time="2026-11-22T22:00:00Z")
    log.cosigned += 3 * 3600
    log.write_files(logged)
    fails(builder.verify(logged), "log", "was not valid when it said released")


def test_a_trust_file_that_expired_since_is_fine_and_one_that_had_expired_is_not(
    builder: Any, logged: Path, tmp_path: Path
) -> None:
    builder.write_trust(tmp_path / "trust.json", expires="2026-11-22T23:00:00Z")
    verdict = builder.verify(logged)
    assert verdict.ok
    assert any("later withdrawal unknown" in line for line in verdict.not_checked)
    builder.write_trust(tmp_path / "trust.json", expires="2026-11-22T21:00:05Z")
    fails(builder.verify(logged), "trust", "had expired (2026-11-22) at the signing")


# What a decision covers


def rewritten(builder: Any, log: Any, folder: Path, *, signers: list[Any]) -> None:
    """Say more of consent, signed and logged as a newer `model` entry; the manifest is the same."""
    (folder / "consent").mkdir()
    (folder / "consent/summary.json").write_text('{"everybody":"agreed"}')
    builder.seal(folder, signers=signers)
    log.add_model(folder, time="2026-11-22T21:00:40Z")
    log.write_files(folder)


@pytest.mark.parametrize("status", ["validated", "released"])
def test_files_that_changed_after_a_decision_are_not_what_the_steward_decided_about(
    builder: Any, log: Any, logged: Path, tmp_path: Path, status: str
) -> None:
    builder.write_trust(tmp_path / "trust.json", threshold=1)
    decided(log, logged, status)
    assert builder.verify(logged).ok
    rewritten(builder, log, logged, signers=[builder.coordinator])
    why = f"Helse Midt steward said {status}, and did not sign these files"
    fails(builder.verify(logged), "status", why)


def test_files_that_the_steward_signed_again_keep_their_status(
    builder: Any, log: Any, logged: Path
) -> None:
    decided(log, logged, "validated", "released")
    rewritten(builder, log, logged, signers=[builder.coordinator, builder.steward])
    assert (builder.verify(logged).ok, builder.verify(logged).status) == (True, "released")


# A fresh log


def test_a_fresh_log_shows_a_later_withdrawal(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    assert builder.verify(logged, fresh_log=log.export(tmp_path / "log.json")).ok
    log.add_status("withdrawn")
    assert builder.verify(logged).ok  # the copy does not know
    verdict = builder.verify(logged, fresh_log=log.export(tmp_path / "log.json"))
    fails(verdict, "status", "withdrawn 2026-11-22")
    assert any("cosigned by innlandet, st-olavs" in line for line in verdict.not_checked)


def test_a_fresh_log_may_be_cosigned_by_strangers_too(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    log.witnesses["a-new-hospital"] = builder.attacker
    assert builder.verify(logged, fresh_log=log.export(tmp_path / "log.json")).ok


def test_where_hospitals_are_pinned_a_fresh_log_is_cosigned_by_pinned_keys_only(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    keys = builder.site_keys
    witnesses = [pinned(site, key) for site, key in keys.items()]
    builder.write_trust(tmp_path / "trust.json", witnesses=witnesses)
    log.witnesses["st-olavs"] = builder.attacker
    verdict = builder.verify(logged, fresh_log=log.export(tmp_path / "log.json"))
    assert verdict.ok
    assert verdict.not_checked[-1].endswith("cosigned by innlandet.")


def test_a_log_that_rewrote_history_is_refused(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    log.entries[0]["round"] = 7
    log.add_status("released")
    fresh = log.export(tmp_path / "log.json")
    fails(builder.verify(logged, fresh_log=fresh), "log", "history was rewritten")


def test_a_log_older_than_the_model_is_refused(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    log.entries.pop()
    fresh = log.export(tmp_path / "log.json")
    fails(builder.verify(logged, fresh_log=fresh), "log", "older")


def test_a_log_without_an_entry_is_refused(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    fresh = log.export(tmp_path / "log.json", entries=log.entries[:-1])
    fails(builder.verify(logged, fresh_log=fresh), "log", "not those of its checkpoint")


def test_a_withdrawal_that_the_copy_leaves_out_is_found_in_the_log(
    builder: Any, log: Any, logged: Path, tmp_path: Path
) -> None:
    decided(log, logged, "withdrawn")
    edit_inclusion(logged, lambda value: value["entries"].pop())
    assert builder.verify(logged).ok
    fresh = log.export(tmp_path / "log.json")
    fails(builder.verify(logged, fresh_log=fresh), "log", "does not hold all entries")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null"])
def test_a_log_that_cannot_be_read_is_a_failed_check(
    builder: Any, logged: Path, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "log.json").write_bytes(data)
    fails(builder.verify(logged, fresh_log=tmp_path / "log.json"), "log", "")
    fails(builder.verify(logged, fresh_log=tmp_path / "none.json"), "log", "No such file")


def test_a_fresh_log_of_a_model_without_one_is_refused(
    builder: Any, artefact: Path, log: Any, tmp_path: Path
) -> None:
    fresh = log.export(tmp_path / "log.json")
    fails(builder.verify(artefact, fresh_log=fresh), "log", "the model names none")
