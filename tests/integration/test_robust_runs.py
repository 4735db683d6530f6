"""Median, trimmed mean and Krum in whole federations of five: verified, replayed, resumed, and said in the model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration.federation import Federation
from integration.test_federation import failed_checks, interrupted
from solblom_models.replay import DifferenceError, replay
from solblom_models.replay_files import update_name
from solblom_protocol.errors import ConfigurationError, RunError
from solblom_server.rounds.runs import FinishedRun

FIVE = ("cleveland", "hungarian", "second", "switzerland", "va")
BATCHES = {site: 30.0 for site in FIVE} | {"switzerland": 12.0, "va": 20.0}
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "median": ({"strategy": "median"}, "coordinate-wise median"),
    "trimmed-mean": (
        {"strategy": "trimmed-mean", "tolerated": 1, "expected_batch_size": BATCHES},
        "coordinate-wise trimmed mean, 1 hospital left out at each end",
    ),
    "krum": (
        {"strategy": "krum", "tolerated": 1, "expected_batch_size": BATCHES},
        "Krum, 1 hospital tolerated: the one update nearest to the others",
    ),
}


def five(home: Path, training: dict[str, Any], **changes: Any) -> Federation:
    return Federation(home, sites=FIVE, approving=FIVE, quorum=5, training=training, **changes)


def weights(run: FinishedRun) -> bytes:
    return (run.path / "model" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("rule", RULES)
def test_a_robust_run_is_verified_replayed_resumed_and_named(rule: str, tmp_path: Path) -> None:
    training, words = RULES[rule]
    whole = five(tmp_path / "whole", training)
    finished = whole.start()
    assert failed_checks(whole.home, finished) == []
    found = replay(finished.path)
    assert (found.rounds, found.updates, found.rule) == (3, 15, words)
    manifest = json.loads((finished.path / "manifest.json").read_bytes())
    assert manifest["training"]["aggregation"]["rule"] == words
    card = (finished.path / "README.md").read_text(encoding="utf-8")
    assert f"Rule: {words}." in card
    assert "may be missing from this model" in card
    cut = five(tmp_path / "cut", training)
    assert weights(cut.resume(interrupted(cut, after_round=2))) == weights(finished)


def test_a_robust_rule_costs_no_privacy_and_its_model_is_another(tmp_path: Path) -> None:
    plain, robust = five(tmp_path / "plain", {}), five(tmp_path / "median", {"strategy": "median"})
    assert robust.document.round_event == plain.document.round_event
    assert robust.document.noise_multiplier == plain.document.noise_multiplier
    assert weights(robust.start()) != weights(plain.start())


def test_a_replay_of_a_robust_run_names_a_changed_update(tmp_path: Path) -> None:
    run = five(tmp_path / "home", {"strategy": "median"}).start()
    path = run.path / update_name(2, "va")
    data = np.frombuffer(path.read_bytes(), dtype="<f4").copy()
    data[0] += np.float32(0.25)
    path.write_bytes(data.tobytes())
    with pytest.raises(DifferenceError) as caught:
        replay(run.path)
    assert (caught.value.round, caught.value.site) == (2, "va")


def test_a_replay_of_fewer_updates_than_the_rule_needs_is_a_difference(tmp_path: Path) -> None:
    from solblom_verify.canonical import canonical_json

    run = five(tmp_path / "home", {"strategy": "median"}).start()
    manifest: Any = json.loads((run.path / "manifest.json").read_bytes())
    updates = manifest["training"]["rounds"][0]["updates"]
    for site in FIVE[:3]:
        del updates[site]
    (run.path / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(DifferenceError, match="median needs 3 updates of one round; there are 2"):
        replay(run.path)


def test_a_round_with_too_few_hospitals_for_its_rule_stops_the_run(tmp_path: Path) -> None:
    federation = Federation(
        tmp_path / "home",
        sites=FIVE,
        approving=FIVE[:4],
        quorum=5,
        training={"strategy": "krum", "tolerated": 1},
    )
    with pytest.raises(RunError, match=r"4 of 5 hospitals gave an answer, and the quorum is 5: va"):
        federation.start()


def test_a_hospital_whom_the_divisors_do_not_name_approves_nothing_and_is_not_asked(
    tmp_path: Path,
) -> None:
    four = {site: size for site, size in BATCHES.items() if site != "va"}
    training = {"strategy": "median", "expected_batch_size": four}
    federation = Federation(
        tmp_path / "home", sites=FIVE, approving=FIVE[:4], quorum=3, training=training
    )
    with pytest.raises(ConfigurationError, match="4 hospitals' numbers, and none for va") as caught:
        federation.approve("va")
    assert caught.value.code == "SB-103"
    run = federation.start()
    manifest = json.loads((run.path / "manifest.json").read_bytes())
    assert sorted(manifest["sites"]) == sorted(four)
    assert federation.charges()["va"] == []
