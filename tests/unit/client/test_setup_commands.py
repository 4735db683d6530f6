"""`solblom node init`: a path that is typed means what its typist sees."""

import tomllib
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from solblom_client.setup_cli import app


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(data: str) -> tuple[str, Result]:
    """Return the path of the table in a new node's node.toml, and what the command said."""
    done = CliRunner().invoke(app, ["init", "node", "--site", "north", "--data", data])
    assert done.exit_code == 0, done.output
    table = tomllib.loads(Path("node/node.toml").read_text(encoding="utf-8"))
    return table["dataset"][0]["path"], done


def test_a_table_that_stands_here_is_named_by_its_whole_path(here: Path) -> None:
    (here / "heart.csv").write_text("patient_id\n")
    path, done = made("heart.csv")
    assert path == str(here / "heart.csv")
    assert "LOOK" not in done.stderr


def test_a_table_in_the_nodes_folder_keeps_its_short_path(here: Path) -> None:
    (here / "heart.csv").write_text("patient_id\n")
    (here / "node").mkdir()
    (here / "node" / "heart.csv").write_text("patient_id\n")
    assert made("heart.csv")[0] == "heart.csv"


def test_a_table_that_is_nowhere_is_said_at_once() -> None:
    path, done = made("heart.csv")
    assert path == "heart.csv"
    assert "LOOK  heart.csv is not there yet" in done.stderr
