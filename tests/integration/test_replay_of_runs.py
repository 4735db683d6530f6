"""Models of whole runs, added up again: in another process without torch and Flower, and with one file changed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration.demo_run import Solblom
from integration.federation import ROUNDS, SITES, Federation, progress
from integration.shared_noise import SharedFederation
from integration.test_adaptive_steps import YOGI
from integration.test_dropouts import droppable
from integration.test_federation import interrupted
from solblom_client.training.keystream import KeyStream
from solblom_client.vault import Vault
from solblom_models.replay import DifferenceError, replay
from solblom_models.replay_files import INITIAL, sum_name, update_name
from solblom_protocol.messages.order import Order
from solblom_server.rounds.runs import FinishedRun
from solblom_verify.canonical import canonical_json, digest

WITHOUT = ("torch", "flwr", "opacus", "scipy", "pandas", "sklearn", "dp_accounting")
ALONE = (
    f"import sys; sys.modules.update(dict.fromkeys({WITHOUT}));"
    "from solblom_protocol.cli import main; main()"
)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[SharedFederation, FinishedRun]:
    """All or nothing, FedYogi, averaged, cut after a round and resumed."""
    training = YOGI | {"averaging": "second-half"}
    home = tmp_path_factory.mktemp("masked") / "home"
    federation = SharedFederation(home, training=training)
    return federation, federation.resume(interrupted(federation, after_round=1))


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """With one hospital that is gone in round 2 and comes back in round 3."""
    federation = droppable(tmp_path_factory.mktemp("dropped") / "home", releases=False)
    gone, answer = {"is": False}, Vault._answer

    def failing(vault: Vault, order: Order) -> bytes:
        if gone["is"] and order.header.site == "hungarian":
            raise RuntimeError("the machine is gone")
        return answer(vault, order)

    def after(number: int, rounds: int, text: str) -> None:
        gone["is"] = number == 1

    with pytest.MonkeyPatch.context() as patch, progress(after):
        patch.setattr(Vault, "_answer", failing)
        yield federation.start()


@pytest.fixture
def copy(finished: FinishedRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.path, tmp_path / finished.path.name))


def flip(path: Path, seed: str) -> None:
    """Change one bit at a place that the seed chooses."""
    rng = np.random.default_rng([*seed.encode()])
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def test_a_model_is_replayed_in_another_process_without_torch_and_flower(
    federation: Federation, finished: FinishedRun
) -> None:
    words = ["model", "replay", str(finished.path), "--trust", str(federation.home / "trust.json")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words, "--json"],
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    manifest = json.loads((finished.path / "manifest.json").read_bytes())
    assert (found["ok"], found["grade"], found["masked"]) == (True, "A", False)
    assert (found["rounds"], found["updates"]) == (ROUNDS, ROUNDS * len(SITES))
    assert found["final_model"] == manifest["model"]["final_model"]
    assert found["model"] == finished.digest
    assert any("grades B and C" in line for line in found["not_shown"])


def test_a_reader_is_told_the_grade_and_what_it_does_not_show(
    solblom: Solblom, federation: Federation, finished: FinishedRun
) -> None:
    done = solblom("model", "replay", finished.ref, "--home", str(federation.home))
    assert done.exit_code == 0, done.output
    for words in ("THE SAME", "grade A", "not shown:", "seed", "Epsilon"):
        assert words in done.output


def test_what_is_kept_is_listed_in_the_manifest_and_signed(finished: FinishedRun) -> None:
    manifest = json.loads((finished.path / "manifest.json").read_bytes())
    kept = {name for name in manifest["files"] if name.endswith(".bin")}
    names = {update_name(n, site) for n in range(1, ROUNDS + 1) for site in SITES}
    assert kept == {INITIAL, *names}
    assert manifest["training"]["replay_grade"] == "A"
    for number, claim in enumerate(manifest["training"]["rounds"], start=1):
        for site, update in claim["updates"].items():
            assert digest((finished.path / update_name(number, site)).read_bytes()) == update


NAMES = [INITIAL, *(update_name(n, site) for n in range(1, ROUNDS + 1) for site in SITES)]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_names_a_changed_file(
    solblom: Solblom, federation: Federation, copy: Path, name: str
) -> None:
    flip(copy / name, name)
    trust = str(federation.home / "trust.json")
    done = solblom("model", "replay", str(copy), "--trust", trust, "--json")
    assert done.exit_code == 5
    assert name in done.stderr
    with pytest.raises(DifferenceError):  # and so does the replay, where nobody verified
        replay(copy)


def test_a_coordinator_that_released_other_weights_is_found_though_its_files_agree(
    copy: Path,
) -> None:
    """It has the key that signs: everything else of the artefact it could have written to fit."""
    from safetensors.numpy import load, save

    path = copy / "model/weights.safetensors"
    tensors = load(path.read_bytes())
    path.write_bytes(save({name: value * np.float32(1.0001) for name, value in tensors.items()}))
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["model"] |= {"weights": digest(path.read_bytes())}
    (copy / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(DifferenceError, match="other weights"):
        replay(copy)


def test_opened_sums_of_a_resumed_run_lead_to_the_same_weights(
    masked: tuple[SharedFederation, FinishedRun], solblom: Solblom
) -> None:
    federation, run = masked
    done = solblom("model", "replay", run.ref, "--home", str(federation.home), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["masked"], found["updates"], found["releases"]) == (True, ROUNDS, 1)
    assert any("sum of the vectors" in line for line in found["not_shown"])
    assert not (run.path / "training/updates").exists()


def test_sums_without_a_hospital_that_was_gone_lead_to_the_same_weights(
    dropped: FinishedRun,
) -> None:
    manifest = json.loads((dropped.path / "manifest.json").read_bytes())
    counts = [len(claim["updates"]) for claim in manifest["training"]["rounds"]]
    assert counts == [4, 3, 4]
    found = replay(dropped.path)
    assert (found.masked, found.updates) == (True, ROUNDS)


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_changed_sum_is_named_with_its_round(
    masked: tuple[SharedFederation, FinishedRun], tmp_path: Path, number: int
) -> None:
    folder = Path(shutil.copytree(masked[1].path, tmp_path / "model"))
    flip(folder / sum_name(number), f"sum {number}")
    with pytest.raises(DifferenceError) as caught:
        replay(folder)
    assert (caught.value.round, caught.value.site) == (number, None)


def test_a_sum_that_is_said_to_have_fewer_hospitals_leads_to_another_model(
    dropped: FinishedRun, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(dropped.path, tmp_path / "model"))
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
    manifest["training"]["rounds"][0]["updates"].pop("va")
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    with pytest.raises(DifferenceError) as caught:
        replay(folder)
    assert caught.value.round == 1


# --- Inside the hospitals


@pytest.mark.parametrize("site", SITES)
def test_a_hospital_works_on_its_round_again(
    solblom: Solblom, federation: Federation, finished: FinishedRun, site: str
) -> None:
    node = str(federation.home / "sites" / site)
    words = ["node", "replay", finished.ref, "--home", str(federation.home), "--node", node]
    before = federation.charges()
    done = solblom(*words, "--round", "2", "--noise", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["grade"], found["ok"], found["same"], found["site"]) == ("C", True, True, site)
    manifest = json.loads((finished.path / "manifest.json").read_bytes())
    assert found["update"] == manifest["training"]["rounds"][1]["updates"][site]
    assert federation.charges() == before


def test_another_update_is_said_to_be_another_and_is_not_shown(
    solblom: Solblom,
    federation: Federation,
    finished: FinishedRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = KeyStream.normals
    monkeypatch.setattr(KeyStream, "normals", lambda stream, count: 1.001 * real(stream, count))
    node = str(federation.home / "sites" / "va")
    words = ["node", "replay", finished.ref, "--home", str(federation.home), "--node", node]
    done = solblom(*words, "--round", "2", "--json")
    assert done.exit_code == 5
    assert "SB-447" in done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["same"]) == (False, False)
    manifest = (finished.path / "manifest.json").read_text(encoding="utf-8")
    for name in ("update", "model"):  # no digest that the model itself does not have
        assert found[name] in (*re.findall("sha256:[0-9a-f]{64}", manifest), finished.digest)


def test_a_round_that_never_was_is_refused_by_name(
    solblom: Solblom, federation: Federation, finished: FinishedRun
) -> None:
    node = str(federation.home / "sites" / "va")
    words = ["node", "replay", finished.ref, "--home", str(federation.home), "--node", node]
    done = solblom(*words, "--round", "9")
    assert done.exit_code == 3
    assert "SB-449" in done.stderr


def test_a_masked_round_is_refused_by_name(
    masked: tuple[SharedFederation, FinishedRun], solblom: Solblom
) -> None:
    federation, run = masked
    node = str(federation.home / "sites" / "va")
    words = ["node", "replay", run.ref, "--home", str(federation.home), "--node", node]
    done = solblom(*words, "--round", "2")
    assert done.exit_code == 4
    for words_of_the_rule in ("SB-445", "mask keys were erased", "rule 8"):
        assert words_of_the_rule in " ".join(done.stderr.split())
