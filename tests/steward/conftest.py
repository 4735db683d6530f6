"""One real demo for all tests of the page: the same that the commands are tested on."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from integration.demo_run import Demo, Solblom, once, run_demo, without_network
from solblom_protocol.cli import app
from steward.lab import Page, copy_of, scene_of, serving


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo that other tests share under the same name."""
    return once(
        tmp_path_factory,
        "json",
        lambda folder: run_demo(folder, "--json", prefix=without_network()),
    )


@pytest.fixture(scope="session")
def home(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder with one finished run, to be read only."""
    return copy_of(demo.home, tmp_path_factory.mktemp("steward") / "home")


@pytest.fixture
def own_home(home: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return copy_of(home, tmp_path / "home")


@pytest.fixture(scope="module")
def page(home: Path) -> Iterator[Page]:
    """A page that one browser has opened."""
    with serving(scene_of(home)) as running:
        running.enter()
        yield running


@pytest.fixture
def solblom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Solblom:
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLBLOM_HOME", raising=False)

    def invoke(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["solblom", *arguments])
        return CliRunner().invoke(app, arguments)

    return invoke
