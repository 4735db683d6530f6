"""Grade A: what hospitals signed is added up again to the same weights, or the first difference is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_lab import write_run
from solblom_models.aggregation.optimisers import ServerState
from solblom_models.replay import DifferenceError, replay
from solblom_models.replay_files import INITIAL, update_name
from solblom_protocol.errors import RunError
from solblom_protocol.studies.checks import ROBUST
from solblom_verify.canonical import canonical_json, digest
from unit.server.house import HONEST, SITES, House, refuse

ADAPTIVE = {"beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}
SERVERS: dict[str, dict[str, Any]] = {
    "plain mean": {},
    "momentum": {"server_momentum": 0.9, "server_learning_rate": 0.3},
    "averaging of the second half": {"averaging": "second-half"},
    "fedadam": {"strategy": "fedadam", **ADAPTIVE},
    "median": {"strategy": "median"},
    "trimmed mean": {"strategy": "trimmed-mean", "tolerated": 1, "server_momentum": 0.5},
    "fedyogi": {"strategy": "fedyogi", "averaging": "second-half", **ADAPTIVE},
}


def changing(house: House) -> None:
    """Let every hospital answer differently in every round."""
    for place, hospital in enumerate(house.hospitals.values()):
        hospital.answer = lambda h, o, place=place: h.result(
            o, (HONEST * np.float32(2.0 ** (place - o.header.round)))
        )


def kept_run(folder: Path, *, rounds: int = 4, **training: Any) -> tuple[Path, ServerState]:
    quorum = 3 if training.get("strategy") in ROBUST else 2
    house = House(folder / "home", {}, training={"rounds": rounds} | training, quorum=quorum)
    changing(house)
    state = house.run()
    assert write_run(house, state, folder / "model") == "A"
    return folder / "model", state


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept_run(tmp_path_factory.mktemp("kept"))[0]


@pytest.fixture
def model(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "model"))


@pytest.mark.parametrize("server", SERVERS)
def test_rounds_lead_to_the_released_weights_bit_for_bit(tmp_path: Path, server: str) -> None:
    folder, state = kept_run(tmp_path, **SERVERS[server])
    found = replay(folder)
    assert (found.rounds, found.updates, found.masked) == (4, 12, False)
    assert found.final_model == digest(state.final_model().tobytes())


def test_a_hospital_that_gave_no_update_is_not_added_up(tmp_path: Path) -> None:
    house = House(tmp_path / "home", {"west": refuse})
    state = house.run()
    assert write_run(house, state, tmp_path / "model") == "A"
    assert replay(tmp_path / "model").updates == 4


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_one_changed_bit_of_an_update_is_named_with_round_and_hospital(
    model: Path, number: int, site: str
) -> None:
    path = model / update_name(number, site)
    flip(path, np.random.default_rng([number, *site.encode()]))
    with pytest.raises(DifferenceError) as caught:
        replay(model)
    assert (caught.value.round, caught.value.site) == (number, site)
    assert (caught.value.code, caught.value.exit_status) == ("SB-442", 5)


def flip(path: Path, rng: np.random.Generator) -> None:
    """Change one bit anywhere in a file."""
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["gone", "short", "long", "empty"])
def test_an_update_of_another_length_is_named(model: Path, damage: str) -> None:
    path = model / update_name(3, "north")
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"short": data[:-4], "long": data + data, "empty": b""}[damage])
    with pytest.raises(DifferenceError) as caught:
        replay(model)
    assert (caught.value.round, caught.value.site) == (3, "north")


def test_changed_initial_weights_are_named(model: Path) -> None:
    flip(model / INITIAL, np.random.default_rng(5))
    with pytest.raises(DifferenceError, match="initial weights"):
        replay(model)


def test_another_update_that_the_manifest_names_leads_to_another_model(model: Path) -> None:
    """A coordinator that swaps an update and its digest is found by what the round leads to."""
    data = (2 * HONEST).tobytes()
    (model / update_name(2, "east")).write_bytes(data)
    change(model, lambda m: m["training"]["rounds"][1]["updates"].update(east=digest(data)))
    with pytest.raises(DifferenceError) as caught:
        replay(model)
    assert (caught.value.round, caught.value.site) == (2, None)


def test_an_update_that_was_left_out_or_counted_twice_is_found(model: Path) -> None:
    change(model, lambda m: m["training"]["rounds"][2]["updates"].pop("west"))
    with pytest.raises(DifferenceError) as caught:
        replay(model)
    assert caught.value.round == 3


def test_a_model_swapped_between_two_rounds_is_found(model: Path) -> None:
    change(model, lambda m: m["training"]["rounds"][3].update(base=digest(b"another")))
    with pytest.raises(DifferenceError, match="round 4: the model before it"):
        replay(model)


def test_weights_that_do_not_follow_from_the_rounds_are_found(model: Path) -> None:
    flip(model / "model/weights.safetensors", np.random.default_rng(1))
    with pytest.raises(DifferenceError):
        replay(model)
    change(model, lambda m: m["model"].update(final_model=digest(b"better")))
    with pytest.raises(DifferenceError, match="final model"):
        replay(model)


def test_another_server_learning_rate_than_the_studys_leads_to_another_model(
    tmp_path: Path,
) -> None:
    folder, _ = kept_run(tmp_path)
    house = House(tmp_path / "other", {}, training={"rounds": 4, "server_learning_rate": 0.5})
    (folder / "training/study.json").write_bytes(house.document.payload())
    change(folder, lambda m: m["training"].update(study=house.document.digest))
    with pytest.raises(DifferenceError) as caught:
        replay(folder)
    assert caught.value.round == 1


def test_a_rule_that_is_not_the_studys_is_found(model: Path) -> None:
    """A verifier repeats the manifest's line: a plain mean must not pass as a rule that bears liars."""
    change(model, lambda m: m["training"]["aggregation"].update(rule="coordinate-wise median"))
    with pytest.raises(DifferenceError, match=r"says 'coordinate-wise median'; .* 'plain mean'"):
        replay(model)


def test_missing_rounds_are_found(model: Path) -> None:
    change(model, lambda m: m["training"]["rounds"].pop())
    with pytest.raises(DifferenceError, match="3 of the study's 4 rounds"):
        replay(model)


def test_an_evaluation_of_another_model_is_found(model: Path) -> None:
    released = [{"kind": "evaluate", "number": 1, "model": digest(b"a better one")}]
    (model / "evaluation/report.json").write_bytes(canonical_json({"released": released}))
    with pytest.raises(DifferenceError, match="evaluation 1"):
        replay(model)


def test_a_study_that_is_not_the_manifests_is_found(model: Path) -> None:
    change(model, lambda m: m["training"].update(study=digest(b"another")))
    with pytest.raises(DifferenceError, match="study"):
        replay(model)


def test_what_is_no_manifest_is_a_difference_and_no_crash(model: Path) -> None:
    for bad in (b"{}", b"[]", b"", b"\xff", canonical_json({"training": {"replay_grade": "A"}})):
        (model / "manifest.json").write_bytes(bad)
        with pytest.raises(DifferenceError):
            replay(model)


def test_a_model_that_keeps_nothing_says_why(tmp_path: Path) -> None:
    house = House(tmp_path / "home", {}, training={"keep_updates": False})
    state = house.run()
    assert "keep_updates = false" in write_run(house, state, tmp_path / "model")
    with pytest.raises(RunError, match="keep_updates = false") as caught:
        replay(tmp_path / "model")
    assert (caught.value.code, caught.value.exit_status) == ("SB-441", 1)


def change(folder: Path, how: Any) -> None:
    """Change the manifest as a coordinator could who signs it again."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    how(manifest)
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
