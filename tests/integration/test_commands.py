"""What the three users type after a run: every answer is an object with a schema, every no an exit status."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from integration.demo_run import ROUNDS, Demo, Solblom, environment
from integration.federation import SITES, Federation
from solblom_server.rounds.runs import FinishedRun


def answer(result: Result, schema: str) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout)
    assert value["schema"] == schema
    return value


def refusal(result: Result) -> str:
    """Return the code of the error that a program reads."""
    assert result.stdout == ""
    code: str = json.loads(result.stderr.strip().splitlines()[-1])["error"]["code"]
    return code


@pytest.fixture
def copied_model(json_demo: Demo, tmp_path: Path) -> Path:
    """A copy of the demo's model in a Solblom folder, with the trust file that `verify` takes there."""
    folder = tmp_path / "models" / "heart-disease-v1"
    shutil.copytree(json_demo.home / "models" / "heart-disease-v1", folder)
    for name in ("trust.json", "solblom.toml"):
        shutil.copyfile(json_demo.home / name, tmp_path / name)
    return folder


def test_a_steward_verifies_a_model_by_its_name(json_demo: Demo, solblom: Solblom) -> None:
    done = solblom("model", "verify", "heart-disease", "--home", str(json_demo.home), "--json")
    told = answer(done, "solblom.model.verify/1")
    assert told["ok"] is True
    assert all({"name", "ok", "reason"} <= set(check) for check in told["checks"])
    assert told["not_checked"]


@pytest.mark.parametrize("reference", ["ref", "digest", "path"])
def test_every_kind_of_reference_leads_to_the_same_model(
    json_demo: Demo, solblom: Solblom, reference: str
) -> None:
    ref = json_demo.data["model"][reference]
    done = solblom("model", "show", ref, "--home", str(json_demo.home), "--json")
    shown = answer(done, "solblom.model.show/1")
    assert Path(shown["path"]).name == "heart-disease-v1"


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "model/weights.safetensors", "README.md", "attestations/model.dsse.json"],
)
def test_a_changed_byte_is_an_integrity_error(
    copied_model: Path, solblom: Solblom, name: str
) -> None:
    data = bytearray((copied_model / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied_model / name).write_bytes(bytes(data))
    done = solblom("model", "verify", str(copied_model), "--json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["ok"] is False


@pytest.mark.parametrize("verb", ["verify", "predict"])
def test_a_model_outside_a_solblom_folder_needs_a_trust_file(
    copied_model: Path, json_demo: Demo, solblom: Solblom, verb: str
) -> None:
    (copied_model.parent.parent / "solblom.toml").unlink()
    patients = str(json_demo.home / "sites" / "va" / "patients.csv")
    command = ["model", verb, str(copied_model), *(["--input", patients] * (verb == "predict"))]
    done = solblom(*command, "--json")
    assert (done.exit_code, refusal(done)) == (3, "SB-112")
    trust = str(copied_model.parent.parent / "trust.json")
    assert solblom(*command, "--trust", trust, "--json").exit_code == 0


def test_a_trust_file_that_is_missing_is_named_once(copied_model: Path, solblom: Solblom) -> None:
    done = solblom("model", "verify", str(copied_model), "--trust", "nowhere.json", "--json")
    message = json.loads(done.stderr)["error"]["message"]
    assert message == "nowhere.json cannot be read: No such file or directory"


@pytest.mark.parametrize("change", ["extra", "missing"])
def test_a_file_more_or_less_is_an_integrity_error(
    copied_model: Path, solblom: Solblom, change: str
) -> None:
    if change == "extra":
        (copied_model / "notes.txt").write_text("x", encoding="utf-8")
    else:
        (copied_model / "privacy" / "events.json").unlink()
    assert solblom("model", "verify", str(copied_model)).exit_code == 5


def test_a_model_gives_each_patient_a_probability(json_demo: Demo, solblom: Solblom) -> None:
    patients = json_demo.home / "sites" / "va" / "patients.csv"
    home = str(json_demo.home)
    done = solblom(
        "model", "predict", "heart-disease", "--input", str(patients), "--home", home, "--json"
    )
    told = answer(done, "solblom.model.predict/1")
    assert told["model"] == json_demo.data["model"]["digest"]
    assert len(told["predictions"]) == 200
    assert all(0 < row["probability"] < 1 for row in told["predictions"])


def test_a_candidate_is_not_for_the_clinic(json_demo: Demo, solblom: Solblom) -> None:
    patients = json_demo.home / "sites" / "va" / "patients.csv"
    words = ["model", "predict", "heart-disease", "--input", str(patients)]
    done = solblom(*words, "--clinical", "--home", str(json_demo.home), "--json")
    assert (done.exit_code, refusal(done)) == (4, "SB-421")


def test_a_changed_model_predicts_nothing(
    copied_model: Path, json_demo: Demo, solblom: Solblom
) -> None:
    (copied_model / "README.md").write_text("Harmless", encoding="utf-8")
    patients = json_demo.home / "sites" / "va" / "patients.csv"
    done = solblom("model", "predict", str(copied_model), "--input", str(patients), "--json")
    assert (done.exit_code, refusal(done)) == (5, "SB-401")


def test_patients_who_do_not_fit_the_contract_get_no_probability(
    json_demo: Demo, solblom: Solblom
) -> None:
    Path("patients.csv").write_text("patient_id,age\np1,63\n", encoding="utf-8")
    home = str(json_demo.home)
    done = solblom(
        "model", "predict", "heart-disease", "--input", "patients.csv", "--home", home, "--json"
    )
    assert (done.exit_code, refusal(done)) == (3, "SB-506")
    hint = json.loads(done.stderr)["error"]["hint"]
    assert "--id names the column" in hint
    assert "contract's units" in hint


def test_a_hospital_fits_the_intercept_to_its_own_patients_and_predicts_with_it(
    json_demo: Demo, solblom: Solblom
) -> None:
    home, node = str(json_demo.home), json_demo.home / "sites" / "va"
    fit = ["node", "recalibrate", "heart-disease", "--node", str(node), "--home", home]
    done = solblom(*fit, "--out", "own.json", "--json")
    told = answer(done, "solblom.node.recalibrate/1")
    assert told["model"] == json_demo.data["model"]["digest"]
    assert (
        told["after"]["brier"] < told["before"]["brier"]
    )  # 75 % of this hospital's patients are ill
    assert told["patients"] + told["tested"] == 200
    use = [
        "model",
        "predict",
        "heart-disease",
        "--input",
        str(node / "patients.csv"),
        "--home",
        home,
    ]
    raw = answer(solblom(*use, "--json"), "solblom.model.predict/1")["predictions"]
    own = [*use, "--recalibration", "own.json", "--receipt", "receipt.json", "--json"]
    shifted = answer(solblom(*own), "solblom.model.predict/1")
    assert shifted["recalibrated"]["site"] == "va"
    sign = 1 if told["intercept"] > 0 else -1
    pairs = zip(raw, shifted["predictions"], strict=True)
    assert all(sign * (b["probability"] - a["probability"]) > 0 for a, b in pairs)
    receipt = json.loads(Path("receipt.json").read_text(encoding="utf-8"))
    assert receipt["recalibration"].startswith("hmac-sha256:")
    assert str(told["intercept"])[:6] not in json.dumps([shifted, receipt])


def test_a_changed_model_is_not_fitted(
    copied_model: Path, json_demo: Demo, solblom: Solblom
) -> None:
    (copied_model / "README.md").write_text("Harmless", encoding="utf-8")
    node = str(json_demo.home / "sites" / "va")
    done = solblom(
        "node", "recalibrate", str(copied_model), "--node", node, "--out", "own.json", "--json"
    )
    assert (done.exit_code, refusal(done)) == (5, "SB-401")
    assert not Path("own.json").exists()


def test_models_are_listed(json_demo: Demo, solblom: Solblom) -> None:
    listed = answer(
        solblom("model", "list", "--home", str(json_demo.home), "--json"), "solblom.model.list/1"
    )
    assert [m["digest"] for m in listed["models"]] == [json_demo.data["model"]["digest"]]


def test_a_run_is_shown_round_by_round(json_demo: Demo, solblom: Solblom) -> None:
    run = json_demo.data["run"]
    shown = answer(
        solblom("run", "show", run, "--home", str(json_demo.home), "--json"), "solblom.run.show/1"
    )
    assert (shown["status"], len(shown["rounds"])) == ("completed", ROUNDS)
    assert shown["epsilon"] == {s["site"]: s["epsilon"] for s in json_demo.data["sites"]}
    wanted = {"round", "base", "result", "results", "refusals", "missing", "seconds"}
    assert all(wanted <= set(row) for row in shown["rounds"])


def test_runs_are_listed(json_demo: Demo, solblom: Solblom) -> None:
    listed = answer(
        solblom("run", "list", "--home", str(json_demo.home), "--json"), "solblom.run.list/1"
    )
    assert [(r["run"], r["status"]) for r in listed["runs"]] == [
        (json_demo.data["run"], "completed")
    ]


def test_a_run_that_is_unknown_is_a_configuration_error(json_demo: Demo, solblom: Solblom) -> None:
    done = solblom("run", "show", "nowhere", "--home", str(json_demo.home), "--json")
    assert (done.exit_code, refusal(done)) == (3, "SB-502")


def test_a_hospitals_ledger_has_spent_reserved_left_and_events(
    json_demo: Demo, solblom: Solblom
) -> None:
    node = str(json_demo.home / "sites" / "va")
    told = answer(solblom("node", "ledger", "show", node, "--json"), "solblom.node.ledger.show/1")
    assert {"spent", "reserved", "left", "budget", "events"} <= set(told)
    assert len(told["events"]) == ROUNDS
    assert float(told["left"]) == pytest.approx(float(told["budget"]) - float(told["spent"]))


def test_a_study_is_written_checked_and_signed(json_demo: Demo, solblom: Solblom) -> None:
    assert solblom("study", "new", "mine").exit_code == 0
    checked = answer(
        solblom("study", "check", "mine/study.toml", "--json"), "solblom.study.check/1"
    )
    key = str(json_demo.home / "researcher" / "researcher.key")
    done = solblom("study", "sign", "mine/study.toml", "--key", key, "--json")
    signed = answer(done, "solblom.study.sign/1")
    assert signed["digest"] == checked["digest"]
    assert Path(signed["path"]).is_file()


def test_every_place_spells_delta_alike(json_demo: Demo, solblom: Solblom) -> None:
    home = json_demo.home
    study = home / "studies" / "heart-disease" / "study.toml"
    statement = json.loads(
        (home / "models/heart-disease-v1/privacy/statement.json").read_text(encoding="utf-8")
    )
    spelt = {
        "demo": json_demo.data["sites"][0]["delta"],
        "check": json.loads(solblom("study", "check", str(study), "--json").stdout)["delta"],
        "ledger": json.loads(
            solblom("node", "ledger", "show", str(home / "sites" / "va"), "--json").stdout
        )["delta"],
        "statement": statement["target"]["delta"],
    }
    assert spelt == dict.fromkeys(spelt, "1e-5")
    shown = solblom("study", "check", str(study)).stdout
    assert "at delta 1e-5 for each patient" in shown
    assert "2 rounds of 1 step each" in shown
    for text in (study, home / "sites" / "va" / "node.toml"):
        assert "delta = 1e-5\n" in text.read_text(encoding="utf-8")


def test_a_study_is_never_overwritten(solblom: Solblom) -> None:
    solblom("study", "new", "mine")
    assert solblom("study", "new", "mine").exit_code == 3


def test_a_study_that_is_not_signed_is_not_started(json_demo: Demo, solblom: Solblom) -> None:
    solblom("study", "new", "mine")
    home = str(json_demo.home)
    done = solblom("study", "start", "mine/study.toml", "--home", home, "--json")
    assert (done.exit_code, refusal(done)) == (3, "SB-110")


@pytest.mark.parametrize("name", ["study.toml", "contract.toml"])
def test_a_study_that_was_changed_after_its_signature_is_not_started(
    json_demo: Demo, solblom: Solblom, name: str
) -> None:
    solblom("study", "new", "mine")
    key = str(json_demo.home / "researcher" / "researcher.key")
    solblom("study", "sign", "mine/study.toml", "--key", key)
    file = Path("mine") / name
    text = file.read_text(encoding="utf-8")
    changed = text.replace("rounds = 10", "rounds = 9").replace("scale = 20", "scale = 21")
    assert changed != text
    file.write_text(changed, encoding="utf-8")
    home = str(json_demo.home)
    done = solblom("study", "start", "mine/study.toml", "--home", home, "--json")
    assert (done.exit_code, refusal(done)) == (3, "SB-110")


def test_a_dry_run_starts_nothing(json_demo: Demo, solblom: Solblom) -> None:
    home = json_demo.home
    file = str(home / "studies" / "heart-disease" / "study.toml")
    done = solblom("study", "start", file, "--home", str(home), "--dry-run", "--json")
    assert answer(done, "solblom.study.start/1")["dry_run"] is True
    listed = json.loads(solblom("run", "list", "--home", str(home), "--json").stdout)
    assert len(listed["runs"]) == 1


def test_a_new_researcher_gets_a_key_that_is_never_overwritten(solblom: Solblom) -> None:
    assert solblom("study", "keygen", "mine").exit_code == 0
    before = Path("mine/researcher.key").read_bytes()
    assert solblom("study", "keygen", "mine").exit_code == 3
    assert Path("mine/researcher.key").read_bytes() == before


def test_a_study_signed_by_an_unknown_researcher_is_not_approved(
    json_demo: Demo, solblom: Solblom
) -> None:
    solblom("study", "new", "mine")
    solblom("study", "keygen", "me")
    solblom("study", "sign", "mine/study.toml", "--key", "me/researcher.key")
    node = str(json_demo.home / "sites" / "va")
    done = solblom("node", "approve", "mine/study.signed.json", node, "--json")
    assert (done.exit_code, refusal(done)) == (5, "SB-215")


def test_a_run_killed_after_a_round_is_resumed_to_the_same_model(
    finished: FinishedRun, tmp_path: Path, solblom: Solblom
) -> None:
    federation = Federation(tmp_path / "home")
    study = str(federation.home / "study.signed.json")
    command = ["solblom", "study", "start", study, "--home", str(federation.home)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round 1 of"):
                process.kill()
    assert process.returncode == -9
    resumed = solblom("run", "resume", finished.run, "--home", str(federation.home), "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["model"]["digest"] == finished.digest
    charged = [[number for number, _ in found] for found in federation.charges().values()]
    assert charged == [[1, 2, 3]] * len(SITES)


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "home")
    study = str(federation.home / "study.signed.json")
    command = ["solblom", "study", "start", study, "--home", str(federation.home)]
    # Where tests run in the background of a script, SIGINT is ignored, and children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("round 1 of"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert said[-1].startswith("Interrupted. To go on: solblom run resume small-1-")
