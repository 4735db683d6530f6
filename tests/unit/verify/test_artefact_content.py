"""Manifest, receipts and rounds: what is wrong is found, though those who are trusted signed it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from solblom_verify.canonical import canonical_json
from unit.verify.verdicts import OTHER, fails, failures

ABSENT = {"bytes": 0, "sha256": "0" * 64}


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
        (lambda m: m["training"].update(aggregation={}), "rounds", "lacks 'rule'"),
        (
            lambda m: m["training"].update(aggregation={"rule": "\x1b[2Jmedian"}),
            "rounds",
            "rule is",
        ),
        (lambda m: m["training"].update(aggregation={"rule": "m" * 201}), "rounds", "rule is"),
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
        {"delta": "1e-5"},
        {"epsilon": 2.98, "delta": "1e-5"},
        {"epsilon": "2.98", "delta": None},
        {"epsilon": "", "delta": "1e-5"},
        {"epsilon": "not stated", "delta": "1e-5"},
        {"epsilon": "nan", "delta": "1e-5"},
        {"epsilon": "-1", "delta": "1e-5"},
        {"epsilon": "2.98\n", "delta": "1e-5"},
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


def test_a_verdict_says_by_which_rule_updates_were_put_together(
    builder: Any, tmp_path: Path
) -> None:
    rule = {"rule": "coordinate-wise median", "arithmetic": "int64 fixed point, 24 bits"}
    builder.edit_manifest = lambda m: m["training"].update(aggregation=rule)
    verdict = builder.verify(builder.write(tmp_path))
    (found,) = [check for check in verdict.checks if check.name == "rounds"]
    assert (found.ok, found.reason) == (True, "2 rounds; stated rule: coordinate-wise median")
