"""Two real hospitals without a network, set up by the commands alone: invited, joined, trained by file, verified."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from lab import CONTRACT, patient_rows, write_table
from solblom_protocol.cli import app

SITES = ("north", "south")
START = "from solblom_protocol.cli import main; main()"
STUDY = {
    "study": {
        "name": "by-file",
        "title": "A study without a network",
        "purpose": "Test",
        "legal_basis": ["made-up patients"],
        "ends": "2099-12-31",
    },
    "task": {
        "name": "tabular-classification",
        "target": "ill",
        "model": {"kind": "logistic"},
        "contract": "contract.toml",
    },
    "training": {"rounds": 2, "learning_rate": 0.5, "expected_batch_size": 60.0},
    "privacy": {"epsilon": 2.0, "clipping_norm": 1.0},
    "cohort": {"min_nodes": 2, "quorum": 2, "min_patients": 20, "deadline_minutes": 2},
    "evaluation": {"releases": 1},
}


class Desk:
    """A folder and a command line; what lasts is a process of its own, and may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}

    def run(self, *words: str) -> str:
        code, out, error = self.ask(*words)
        assert code == 0, error
        return out

    def ask(self, *words: str) -> tuple[int, str, str]:
        """Give a command in this process; return its exit status and what it said on either stream."""
        with contextlib.chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["solblom", *words])
            done = CliRunner(env={"NO_COLOR": "1", "SOLBLOM_HOME": None}).invoke(app, words)
        return done.exit_code, done.stdout, done.stderr

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", START, *words],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("by-file"))
    made.run("coordinator", "init", "federation", "--name", "nordic")
    made.run("study", "keygen", "researcher")
    for site in SITES:
        enrol(made, site)
    write_study(made)
    return made


def enrol(desk: Desk, site: str, *more: str) -> None:
    """Invite a hospital and let it join, as operator and hospital IT would, fingerprints compared."""
    desk.run("coordinator", "invite", site, "--home", "federation")
    made = json.loads(desk.run("node", "init", site, "--site", site, "--json"))
    desk.run("node", "join", f"{site}.invite.json", "--node", site)
    words = ("--fingerprint", made["fingerprint"], "--home", "federation", *more)
    desk.run("coordinator", "enrol", f"{site}.join.json", *words)
    rows = patient_rows(240, site=site)
    write_table(desk.folder / site / "patients.csv", rows)
    consents = [f"{row['patient_id']},granted," for row in rows[:-3]]
    text = "\n".join(["patient_id,status,valid_until", *consents]) + "\n"
    (desk.folder / site / "consent.csv").write_text(text, encoding="utf-8")
    shutil.copy(desk.folder / "researcher/researcher.pub", desk.folder / site / "researcher.pub")


def write_study(desk: Desk) -> None:
    folder = desk.folder / "study"
    folder.mkdir()
    text = tomli_w.dumps(STUDY).replace('"2099-12-31"', "2099-12-31")
    (folder / "study.toml").write_text(text, encoding="utf-8")
    (folder / "contract.toml").write_text(tomli_w.dumps(CONTRACT), encoding="utf-8")
    desk.run("study", "sign", "study/study.toml", "--key", "researcher/researcher.key")
    for site in SITES:
        desk.run("node", "approve", "study/study.signed.json", site)


def carry(desk: Desk) -> None:
    """Move files between the coordinator and the hospitals, as a person with a stick would."""
    for site in SITES:
        exchange = desk.folder / "federation/exchange" / site
        for source, target in (
            (exchange / "orders", desk.folder / site / "inbox"),
            (desk.folder / site / "outbox", exchange / "replies"),
        ):
            for file in source.iterdir():
                if file.name.startswith("."):
                    continue  # still being written
                if not (target / file.name).exists():
                    shutil.copy(file, target / f".{file.name}")
                    (target / f".{file.name}").rename(target / file.name)
                if source.name == "outbox":
                    file.unlink()


def test_hospitals_without_a_network_train_a_model_that_verifies(desk: Desk) -> None:
    words = ("study", "start", "study/study.toml", "--transport", "files", "--home", "federation")
    watching = [desk.start("node", "exchange", site, "--watch", "0.2") for site in SITES]
    run = desk.start(*words, "--json")
    deadline = time.monotonic() + 150
    while run.poll() is None and time.monotonic() < deadline:
        carry(desk)
        time.sleep(0.1)
    for process in (run, *watching):
        process.terminate()
    out, err = run.communicate(timeout=20)
    for process in watching:
        process.communicate(timeout=20)
    assert run.returncode == 0, err
    finished = json.loads(out)
    model = finished["model"]["path"]
    desk.run("model", "verify", model, "--trust", "federation/trust.json")
    shown = json.loads(desk.run("run", "show", finished["run"], "--home", "federation", "--json"))
    assert shown["simulation"] is False
    assert [len(r["results"]) for r in shown["rounds"]] == [2, 2]
    assert [r["status"] for r in shown["releases"]] == ["released"]
    card = (desk.folder / model / "README.md").read_text(encoding="utf-8")
    assert "Simulation" not in card
    statement = json.loads((desk.folder / model / "privacy/statement.json").read_bytes())
    assert not any("simulation" in line for line in statement["not_covered"])


def test_a_false_fingerprint_lets_nobody_in(desk: Desk) -> None:
    desk.run("coordinator", "invite", "west", "--home", "federation")
    desk.run("node", "init", "west", "--site", "west")
    desk.run("node", "join", "west.invite.json", "--node", "west")
    words = ("coordinator", "enrol", "west.join.json", "--fingerprint", "0000 0000 0000 0000 0000")
    code, _, err = desk.ask(*words, "--home", "federation")
    assert code == 5
    assert "SB-603" in err
    nodes = json.loads(desk.run("coordinator", "nodes", "--home", "federation", "--json"))["nodes"]
    assert [node["site"] for node in nodes] == list(SITES)
