"""What is costly and shared: two demos, one for a person and one for a program, and one small federation's run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from integration.demo_run import Demo, Solblom, once, run_demo, without_network
from integration.federation import SITES, Federation, Traces, progress
from remembered import remembered_fits
from solblom_client.app import open_vault
from solblom_protocol.cli import app
from solblom_server.rounds.runs import FinishedRun


@pytest.fixture(scope="module", autouse=True)
def evaluations_remember() -> Iterator[None]:
    """Fit the same baselines once for all runs in this process; tests/unit/simulation fits them anew."""
    with remembered_fits():
        yield


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
def rare_demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo of rare diseases, without a network where this machine can take it away."""
    return once(
        tmp_path_factory,
        "rare",
        lambda folder: run_demo(folder, prefix=without_network(), task="rare-disease"),
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
