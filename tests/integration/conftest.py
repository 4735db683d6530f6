"""What is costly and shared: two demos (one read by a person, one by a program), and one small federation's run."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from integration.federation import SITES, Federation, Traces, progress
from solblom_client.app import open_vault
from solblom_protocol.cli import app
from solblom_server.runs import FinishedRun

BIN = Path(sys.executable).parent
ROUNDS = 2

Solblom = Callable[..., Result]


@dataclass(frozen=True)
class Demo:
    """What a demo printed, and its folder. `isolated`: it ran without any network."""

    home: Path
    exit_status: int
    stdout: str
    stderr: str
    isolated: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """Return the printed object."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def environment() -> dict[str, str]:
    """Return the environment of a shell in which `solblom` is on PATH."""
    kept = {k: v for k, v in os.environ.items() if k not in ("SOLBLOM_HOME", "COLUMNS")}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def without_network() -> list[str]:
    """Return a prefix that takes a command's network away; empty where this machine does not allow it."""
    if shutil.which("unshare") is None:
        return []
    for prefix in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
            return prefix
    return []


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Demo]) -> Demo:
    """Make a demo once per session, even where several workers of xdist share it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "demo.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made = make(folder)
            record = vars(made) | {"home": str(made.home)}
            (folder / "demo.json").write_text(json.dumps(record), encoding="utf-8")
    record = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    return Demo(**(record | {"home": Path(record["home"])}))


def run_demo(folder: Path, *options: str, prefix: list[str]) -> Demo:
    home = folder / "demo"
    done = subprocess.run(
        [*prefix, "solblom", "demo", "--rounds", str(ROUNDS), "--out", str(home), *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Demo(home, done.returncode, done.stdout, done.stderr, isolated=bool(prefix))


@pytest.fixture(scope="session")
def printed_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo whose output a person reads."""
    return once(tmp_path_factory, "printed", lambda folder: run_demo(folder, prefix=[]))


@pytest.fixture(scope="session")
def json_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo whose output a program reads, without a network where this machine can take it away."""
    return once(
        tmp_path_factory,
        "json",
        lambda folder: run_demo(folder, "--json", prefix=without_network()),
    )


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("whole") / "home")


@pytest.fixture(scope="session")
def finished_and_traced(federation: Federation) -> tuple[FinishedRun, Traces]:
    """One undisturbed run, and what training really did at each hospital in each round."""
    traces: Traces = {site: [] for site in SITES}

    def look(number: int, rounds: int, text: str) -> None:
        for site in SITES:
            node = federation.home / "sites" / site / "node.toml"
            trace = open_vault(str(node.resolve())).last_trace
            assert trace is not None
            traces[site].append(trace)

    with progress(look):
        return federation.start(), traces


@pytest.fixture(scope="session")
def finished(finished_and_traced: tuple[FinishedRun, Traces]) -> FinishedRun:
    return finished_and_traced[0]


@pytest.fixture(scope="session")
def traces(finished_and_traced: tuple[FinishedRun, Traces]) -> Traces:
    return finished_and_traced[1]


@pytest.fixture
def solblom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Solblom:
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLBLOM_HOME", raising=False)

    def invoke(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["solblom", *arguments])
        return CliRunner().invoke(app, arguments)

    return invoke
