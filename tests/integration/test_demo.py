"""The demo: what it prints, that it repeats, that it needs no network, and that the commands it names work."""

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from integration.demo_run import ROUNDS, Demo, Solblom, environment
from solblom_protocol.cli import app

HOSPITALS = ["cleveland", "hungarian", "switzerland", "va"]


def test_the_demo_ends_well(printed_demo: Demo) -> None:
    assert printed_demo.exit_status == 0, printed_demo.stderr


def test_the_demo_prints_one_object_and_speaks_on_stderr(json_demo: Demo) -> None:
    assert json_demo.data["schema"] == "solblom.demo/1"
    assert "round 2 of 2: 4 of 4 hospitals" in json_demo.stderr


def test_the_demos_object_has_the_promised_members(json_demo: Demo) -> None:
    promised = {"run", "task", "transport", "rounds", "seconds", "simulation", "model", "sites"}
    assert promised | {"metrics"} <= set(json_demo.data)
    assert {"ref", "digest", "path"} <= set(json_demo.data["model"])
    for site in json_demo.data["sites"]:
        assert {"site", "patients", "epsilon", "delta", "metrics"} <= set(site)
    for metrics in (json_demo.data["metrics"], *(s["metrics"] for s in json_demo.data["sites"])):
        assert set(metrics) == {"local", "federated", "own_intercept", "pooled"}
        assert all("auroc" in metric for metric in metrics.values())


def test_the_demo_is_a_simulation_of_four_hospitals_and_says_so(json_demo: Demo) -> None:
    assert json_demo.data["simulation"] is True
    assert [site["site"] for site in json_demo.data["sites"]] == HOSPITALS
    assert (json_demo.data["transport"], json_demo.data["rounds"]) == ("local", ROUNDS)


def test_the_demo_keeps_its_promise_of_privacy(json_demo: Demo) -> None:
    spent = [(float(s["epsilon"]), float(s["delta"])) for s in json_demo.data["sites"]]
    assert all(2.9 < epsilon <= 3.0 and delta == 1e-5 for epsilon, delta in spent)


def test_no_area_is_shown_for_the_hospital_with_two_healthy_test_patients(json_demo: Demo) -> None:
    (swiss,) = [s for s in json_demo.data["sites"] if s["site"] == "switzerland"]
    assert swiss["metrics"]["federated"]["auroc"] is None
    assert "without disease" in swiss["metrics"]["federated"]["reason"]


def test_the_demo_learns_something(json_demo: Demo) -> None:
    assert json_demo.data["metrics"]["federated"]["auroc"] > 0.8


def test_two_demos_give_the_same_model(printed_demo: Demo, json_demo: Demo) -> None:
    printed = re.findall(r"sha256:[0-9a-f]{64}", printed_demo.stdout)
    assert printed == [json_demo.data["model"]["digest"]]


def test_the_demo_needs_no_network(json_demo: Demo) -> None:
    if not json_demo.isolated:
        pytest.skip("this machine cannot take the network away (unshare -n)")
    assert json_demo.exit_status == 0, json_demo.stderr


def printed_commands(demo: Demo) -> list[str]:
    return [line.strip() for line in demo.stdout.splitlines() if line.startswith("  solblom ")]


def test_the_demo_prints_the_commands_of_all_three_users(printed_demo: Demo) -> None:
    nouns = {" ".join(line.split()[1:3]) for line in printed_commands(printed_demo)}
    assert nouns >= {
        "model verify",
        "model replay",
        "steward report",
        "model predict",
        "run show",
        "node ledger",
        "study new",
        "study check",
        "study sign",
        "node approve",
        "study start",
    }


def assert_work(commands: list[str], folder: Path) -> None:
    """Run each command: in a shell the first, and what only a shell understands; all others in this process."""
    assert commands
    for line in commands:
        if line is commands[0] or set(line) & set("*?$~|&;<>`"):
            assert_works_in_a_shell(line, folder)
            continue
        words = shlex.split(line)
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            done = CliRunner(env={"SOLBLOM_HOME": None}).invoke(app, words[1:])
        assert done.exit_code == 0, f"{line}\n{done.stderr}"


def assert_works_in_a_shell(line: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_every_printed_command_that_looks_at_the_demo_works(
    printed_demo: Demo, tmp_path: Path
) -> None:
    assert_work([c for c in printed_commands(printed_demo) if not changes(c)], tmp_path)


def test_every_printed_command_towards_a_second_study_works_in_order(
    printed_demo: Demo, tmp_path: Path
) -> None:
    assert_work([c for c in printed_commands(printed_demo) if changes(c)], tmp_path)


def changes(command: str) -> bool:
    """Tell whether a command makes, approves or starts a study; all others only read."""
    return command.split()[1] == "study" or "node approve" in command


def test_a_demo_never_overwrites_another(json_demo: Demo, solblom: Solblom) -> None:
    done = solblom("demo", "--rounds", "1", "--out", str(json_demo.home))
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-3].startswith("error[SB-113]")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["astrology"], "SB-108"),
        (["--transport", "pigeon"], "SB-108"),
        (["--rounds", "0"], "SB-103"),
        (["--rounds", "1001"], "SB-103"),
        (["--epsilon", "0"], "SB-105"),
        (["--epsilon", "101"], "SB-105"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_demo_that_cannot_be_is_refused_before_anything_is_written(
    solblom: Solblom, options: list[str], code: str
) -> None:
    done = solblom("demo", *options, "--out", "folder")
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error[{code}]")
    assert not Path("folder").exists()
