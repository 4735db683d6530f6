"""Epsilon of real runs worked out again: local noise, and shared noise with releases; their lies are named too."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from integration.federation import Federation, now
from integration.shared_noise import SharedFederation
from lying_coordinator import Change, sign_anew
from solblom_models.recomputed_epsilon import recomputed, with_epsilon
from solblom_protocol.keys.key_files import read_signing_key
from solblom_server.rounds.runs import FinishedRun
from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.trust import load_trust

SITE = "va"


def judged(federation: Federation, folder: Path) -> Verdict:
    trust = load_trust(federation.home / "trust.json")
    return with_epsilon(verify_artefact(folder, trust, now=now()), folder)


def test_a_run_with_local_noise_passes(federation: Federation, finished: FinishedRun) -> None:
    verdict = judged(federation, finished.path)
    assert verdict.ok, [check for check in verdict.checks if not check.ok]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[SharedFederation, FinishedRun]:
    federation = SharedFederation(tmp_path_factory.mktemp("recomputed") / "home")
    return federation, federation.start()


def test_a_run_with_shared_noise_and_releases_passes(
    shared: tuple[SharedFederation, FinishedRun],
) -> None:
    federation, run = shared
    verdict = judged(federation, run.path)
    assert verdict.ok, [check for check in verdict.checks if not check.ok]
    kinds = {
        entry["kind"] for entry in json.loads((run.path / "privacy/events.json").read_bytes())[SITE]
    }
    assert kinds == {"train", "evaluate", "describe"}


def less(name: str) -> Change:
    """Return what states half of a figure, in the statement and in the manifest's part of it."""

    def change(value: Any) -> None:
        figures = value["sites"][SITE]
        figures[name] = f"{float(figures[name]) / 2:.3f}"

    return change


def without(kind: str) -> Change:
    def change(events: Any) -> None:
        events[SITE] = [entry for entry in events[SITE] if entry["kind"] != kind]

    return change


def louder_alone(events: Any) -> None:
    for entry in events[SITE]:
        if "alone_noise_multiplier" in entry["event"]:
            entry["event"]["alone_noise_multiplier"] = entry["event"]["noise_multiplier"]


def lie(
    shared: tuple[SharedFederation, FinishedRun], folder: Path, changes: dict[str, Change]
) -> dict[str, str]:
    federation, run = shared
    copy = Path(shutil.copytree(run.path, folder / "copy"))
    sign_anew(copy, read_signing_key(federation.home / "keys/coordinator-signing.key"), changes)
    return {check.name: check.reason for check in recomputed(copy)[0] if not check.ok}


@pytest.mark.parametrize("name", ["epsilon", "epsilon_alone", "epsilon_in_two_hospitals"])
def test_each_figure_of_shared_noise_is_recomputed(
    shared: tuple[SharedFederation, FinishedRun], tmp_path: Path, name: str
) -> None:
    change = less(name)
    in_manifest: Change = lambda manifest: change(manifest["privacy"])  # noqa: E731
    found = lie(shared, tmp_path, {"privacy/statement.json": change, "manifest.json": in_manifest})
    assert found["epsilon"].startswith(f"{SITE}: {name} is stated as ")


@pytest.mark.parametrize("kind", ["evaluate", "describe"])
def test_a_release_that_was_left_out_is_named(
    shared: tuple[SharedFederation, FinishedRun], tmp_path: Path, kind: str
) -> None:
    found = lie(shared, tmp_path, {"privacy/events.json": without(kind)})
    assert found["events"].endswith(f"{SITE} signed: release ({kind}) 1")


def test_a_share_of_noise_made_larger_is_named(
    shared: tuple[SharedFederation, FinishedRun], tmp_path: Path
) -> None:
    found = lie(shared, tmp_path, {"privacy/events.json": louder_alone})
    assert f"the receipt that {SITE} signed: " in found["events"]
