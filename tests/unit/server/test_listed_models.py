"""Whoever lists models, or uses one that was withdrawn, is told what was checked, who decided, and what to type."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from registry_lab import Registry
from solblom_models import cli as models_cli
from solblom_models.references import find_artefact
from solblom_models.trusted import verified_model
from solblom_protocol.console import quoted
from solblom_protocol.errors import RefusedError, RunError
from solblom_server.commands import model as model_cli
from solblom_verify.canonical import canonical_json, parse_canonical


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def listed(registry: Registry, *words: str) -> dict[str, Any]:
    shown = json.loads(registry.model("list", *words, "--json").stdout)
    return {model["ref"]: model for model in shown["models"]}


def released(registry: Registry, version: int) -> Path:
    folder = registry.add(version)
    for status in ("validated", "released"):
        registry.decide("promote", f"heart-disease@v{version}", "--to", status)
        registry.cosign(folder)
    return folder


def refusal(registry: Registry, ref: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        verified_model(ref, registry.home, None)
    assert caught.value.code == "SB-420"
    return caught.value


# The list


def test_the_list_verifies_each_version_and_gives_the_status_of_those_that_do(
    registry: Registry,
) -> None:
    released(registry, 1)
    registry.add(2)
    found = listed(registry)
    assert [(m["verified"], m["status"], m["reason"]) for m in found.values()] == [
        (True, "released", ""),
        (True, "candidate", ""),
    ]


def test_a_changed_folder_is_never_listed_with_the_status_that_it_claims(
    registry: Registry,
) -> None:
    folder = released(registry, 1)
    (folder / "README.md").write_text("# A better model\n")
    model = listed(registry)["heart-disease@v1"]
    assert (model["verified"], model["status"], model["stated"]) == (False, "unknown", "released")
    assert model["reason"] == "files: changed file: README.md"
    printed = registry.model("list")
    assert "unknown (calls itself released)" in " ".join(printed.stdout.split())
    assert "heart-disease@v1 does not verify: files: changed file: README.md" in printed.stderr


def test_a_status_that_somebody_wrote_into_the_folder_is_not_listed(registry: Registry) -> None:
    good, forged = released(registry, 1), registry.add(2)
    shutil.copy(good / "log/inclusion.json", forged / "log/inclusion.json")
    model = listed(registry)["heart-disease@v2"]
    assert (model["verified"], model["status"], model["stated"]) == (False, "unknown", "released")


def test_another_good_model_in_the_place_of_a_version_is_not_verified(registry: Registry) -> None:
    released(registry, 1)
    folder = registry.add(2)
    shutil.rmtree(folder)
    shutil.copytree(registry.home / "models/heart-disease-v1", folder)
    model = listed(registry)["heart-disease@v2"]
    assert (model["verified"], model["status"]) == (False, "unknown")
    assert model["reason"].startswith("another model: its digest is sha256:")


def test_a_version_whose_folder_is_gone_is_listed_and_not_verified(registry: Registry) -> None:
    shutil.rmtree(registry.add())
    model = listed(registry)["heart-disease@v1"]
    assert (model["verified"], model["status"]) == (False, "unknown")


def test_without_verifying_no_status_is_given_but_a_withdrawal(registry: Registry) -> None:
    released(registry, 1)
    registry.add(2)
    registry.decide("withdraw", "heart-disease@v2")
    found = listed(registry, "--no-verify")
    assert [(m["verified"], m["status"], m["stated"]) for m in found.values()] == [
        (None, "unknown", "released"),
        (None, "withdrawn", "withdrawn"),
    ]
    assert "2 versions not checked" in registry.model("list", "--no-verify").stderr


def test_the_list_takes_no_longer_than_it_may_unless_it_is_asked_to(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(1)
    monkeypatch.setattr(model_cli, "SECONDS", 0.0)
    assert listed(registry)["heart-disease@v1"]["verified"] is None
    assert listed(registry, "--verify")["heart-disease@v1"]["verified"] is True


def test_without_a_trust_file_nothing_is_called_verified(registry: Registry) -> None:
    registry.add()
    (registry.home / "trust.json").unlink()
    model = listed(registry)["heart-disease@v1"]
    assert (model["verified"], model["status"]) == (None, "unknown")
    assert model["reason"].startswith("cannot be judged: ")


# The status


def test_a_status_says_whether_the_models_folder_verifies(registry: Registry) -> None:
    folder = released(registry, 1)
    good = json.loads(registry.model("status", "heart-disease", "--json").stdout)
    assert (good["status"], good["verified"], good["reason"]) == ("released", True, "")
    (folder / "README.md").write_text("# A better model\n")
    bad = json.loads(registry.model("status", "heart-disease", "--json").stdout)
    assert (bad["status"], bad["verified"]) == ("released", False)
    assert bad["reason"] == "files: changed file: README.md"
    told = registry.model("status", "heart-disease").stderr
    assert "Its folder does not verify: files: changed file: README.md" in told


def test_a_status_without_verifying_says_so(registry: Registry) -> None:
    registry.add()
    result = registry.model("status", "heart-disease", "--no-verify")
    assert "Its folder: not checked (--no-verify)" in result.stderr


# Withdrawn


def test_a_refusal_names_who_withdrew_the_model_when_why_and_what_to_use(
    registry: Registry,
) -> None:
    released(registry, 1)
    released(registry, 2)
    registry.decide("withdraw", "heart-disease@v2", "--reason", 'Drift at "two" hospitals')
    error = refusal(registry, "heart-disease@v2")
    assert "heart-disease@v2 was withdrawn on 20" in error.message
    assert error.message.endswith(r'UTC by Kari. Reason given: "Drift at \"two\" hospitals"')
    assert error.hint.startswith("Use heart-disease@v1 (released) instead")


def test_the_command_in_a_refusal_works_when_pasted(registry: Registry) -> None:
    released(registry, 1)
    registry.add(2)
    registry.decide("withdraw", "heart-disease@v2")
    command = refusal(registry, "heart-disease@v2").hint.split("`")[1]
    words = shlex.split(command)
    assert words[:2] == ["solblom", "model"]
    done = CliRunner().invoke(models_cli.app, words[2:])
    assert done.exit_code == 0, done.output


def test_without_another_version_the_refusal_says_so_and_its_command_works(
    registry: Registry,
) -> None:
    registry.add(1)
    registry.decide("withdraw", "heart-disease")
    for ref in ("heart-disease@v1", "heart-disease"):
        hint = refusal(registry, ref).hint
        words = shlex.split(hint.split("`")[1])
        done = CliRunner().invoke(model_cli.app, words[2:])
        assert done.exit_code == 0, done.output
        assert "Kari" in done.stdout
    assert "No other version is left" in refusal(registry, "heart-disease@v1").hint


def test_who_withdrew_is_not_said_where_the_signature_does_not_hold(registry: Registry) -> None:
    folder = registry.add()
    registry.decide("withdraw", "heart-disease")
    copy = registry.folder / "heart-disease-v1"
    shutil.copytree(folder, copy)
    file = copy / "log/inclusion.json"
    value: Any = parse_canonical(file.read_bytes())
    for item in value["entries"]:
        if item["entry"]["kind"] == "status":
            item["entry"]["envelope"]["signatures"][0]["sig"] = "AAAA"
    file.write_bytes(canonical_json(value))
    with pytest.raises(RefusedError) as caught:
        verified_model(str(copy), None, registry.home / "trust.json")
    assert "Kari" not in caught.value.message
    assert "by whom cannot be checked here" in caught.value.message
    assert "outside a registry" in caught.value.hint


def test_the_status_of_a_withdrawn_model_names_the_version_to_use(registry: Registry) -> None:
    registry.add(1)
    registry.add(2)
    registry.decide("withdraw", "heart-disease@v2")
    shown = json.loads(registry.model("status", "heart-disease@v2", "--json").stdout)
    assert (shown["status"], shown["instead"]) == ("withdrawn", "heart-disease@v1")
    assert "Use heart-disease@v1" in registry.model("status", "heart-disease@v2").stderr


@pytest.mark.parametrize("text", ["\x1b[2J", 'x" was released by "Kari', "a\nb", "‮abc", "é"])
def test_quoted_words_cannot_steer_the_terminal_or_end_their_quotation(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable()
    assert shown[0] == shown[-1] == '"'
    assert '"' not in shown[1:-1].replace('\\"', "")


def test_a_folder_that_is_no_model_is_called_so_wherever_it_is_named_from(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registry.folder)
    monkeypatch.delenv("SOLBLOM_HOME", raising=False)
    for ref in ("home", "./home"):
        with pytest.raises(RunError, match="home is no model: it has no manifest") as caught:
            find_artefact(ref, None)
        assert caught.value.code == "SB-503"
