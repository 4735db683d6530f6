"""The `solblom` command: fast, quiet on stdout, errors as people and programs expect them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from solblom_protocol import cli
from solblom_protocol.cli import app
from solblom_protocol.home import MARKER, find_home

SOLBLOM = [sys.executable, "-c", "from solblom_protocol.cli import main; main()"]
LIST_MODULES = """
import sys
from solblom_protocol.cli import main
sys.argv = ["solblom", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    heavy = {"torch", "flwr", "opacus", "sklearn", "dp_accounting", "numpy", "scipy"}
    sys.stderr.write(f"heavy:{sorted(heavy & set(sys.modules))} exit:{end.code or 0}")
"""


Solblom = Callable[..., Result]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [*SOLBLOM, *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "SOLBLOM_HOME"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def solblom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Solblom:
    """Run the command in this process, in a folder of its own: torch is loaded once for all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLBLOM_HOME", raising=False)

    def invoke(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["solblom", *arguments])
        return CliRunner().invoke(app, arguments)

    return invoke


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-q", "--help"], ["--version"], ["study", "--help"], ["node", "--help"]],
    ids=" ".join,
)
def test_help_needs_no_framework(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr.endswith("heavy:[] exit:0")


def test_help_lists_the_nouns_of_the_installed_parts(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help").stdout
    assert all(noun in shown for noun in ("demo", "study", "run", "node", "model"))


def test_an_error_is_a_code_a_message_and_a_hint_on_stderr(tmp_path: Path) -> None:
    done = run(tmp_path, "study", "check", "nowhere.toml")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == (
        "error[SB-101]: nowhere.toml cannot be read: No such file or directory\n"
        "\n"
        "hint: Check the path and that it is valid TOML\n"
    )


def test_an_error_with_json_is_one_object_on_stderr(solblom: Solblom) -> None:
    done = solblom("study", "check", "nowhere.toml", "--json")
    assert (done.exit_code, done.stdout) == (3, "")
    error = json.loads(done.stderr)["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == "SB-101"


def test_a_message_is_never_read_as_markup(solblom: Solblom) -> None:
    done = solblom("study", "check", "[bold]x[/].toml")
    assert "[bold]x[/].toml cannot be read" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["study", "check"], ["study", "grow"], ["astrology"], ["study", "check", "x", "--jsn"]],
    ids=" ".join,
)
def test_a_command_typed_wrongly_is_a_usage_error(arguments: list[str], solblom: Solblom) -> None:
    assert solblom(*arguments).exit_code == 2


def test_a_noun_of_a_part_that_is_not_installed_says_which_part_brings_it(
    solblom: Solblom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_installed", lambda: {})
    for noun, part in (("study", "server"), ("node", "client"), ("demo", "simulation")):
        done = solblom(noun, "check")
        assert done.exit_code == 2
        assert f"./{part}" in done.stderr
    assert "another part" not in solblom("astrology").stderr


def test_every_noun_is_known_with_the_part_that_brings_it() -> None:
    assert {*cli.PARTS, "key", "permit"} == set(cli.SUMMARIES)  # those two come with every part
    for noun, points in cli._installed().items():
        assert noun in ("key", "permit") or any(
            point.value.startswith(f"solblom_{cli.PARTS[noun]}.") for point in points
        )


def test_in_a_solblom_folder_no_home_need_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLBLOM_HOME", raising=False)
    (tmp_path / "solblom-demo").mkdir()
    (tmp_path / "solblom-demo" / MARKER).touch()
    assert find_home(None) == Path("solblom-demo")
    (tmp_path / MARKER).touch()
    assert find_home(None) == Path()
    assert find_home(Path("solblom-demo")) == Path("solblom-demo")
    monkeypatch.setenv("SOLBLOM_HOME", "solblom-demo")
    assert find_home(None) == Path("solblom-demo")


def test_no_solblom_folder_is_a_configuration_error(solblom: Solblom) -> None:
    done = solblom("run", "list")
    assert done.exit_code == 3
    assert done.stderr.startswith("error[SB-111]")


def test_a_missing_node_file_is_a_configuration_error(solblom: Solblom) -> None:
    done = solblom("node", "ledger", "show", "node.toml")
    assert done.exit_code == 3
    assert done.stderr.startswith("error[SB-101]: node.toml is not there")
    assert "solblom node init" in done.stderr


def test_an_unknown_model_is_named(solblom: Solblom) -> None:
    Path("solblom.toml").touch()
    done = solblom("model", "show", "asthma@v3", "--home", ".")
    assert done.exit_code == 3
    assert done.stderr.startswith("error[SB-503]: There is no model asthma@v3")


def test_a_model_without_trust_file_is_not_verified_by_default(solblom: Solblom) -> None:
    Path("a/model").mkdir(parents=True)
    Path("a/model/manifest.json").write_text("{}")
    done = solblom("model", "verify", "a/model")
    assert done.exit_code == 3
    assert done.stderr.startswith("error[SB-112]")


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["card", "json"])
def test_a_folder_that_is_no_model_is_refused_with_a_code(
    form: list[str], solblom: Solblom
) -> None:
    Path("a/model").mkdir(parents=True)
    done = solblom("model", "show", "a/model", *form)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "SB-" in done.stderr


def test_a_new_study_with_an_impossible_name_is_refused(solblom: Solblom) -> None:
    assert solblom("study", "new", "Heart Disease").exit_code == 3


def test_presets_are_listed_for_people_and_for_programs(solblom: Solblom) -> None:
    told = json.loads(solblom("study", "presets", "--json").stdout)
    assert told["schema"] == "solblom.study.presets/1"
    assert told["presets"][0]["name"] == "few-large-steps"
    assert all(set(p) == {"name", "does", "fits", "evidence"} for p in told["presets"])
    shown = solblom("study", "presets").stdout
    assert all(preset["name"] in shown for preset in told["presets"])


def test_a_new_study_starts_from_the_preset_that_was_asked_for(solblom: Solblom) -> None:
    assert solblom("study", "new", "mine", "--preset", "many-small-steps").exit_code == 0
    text = Path("mine/study.toml").read_text(encoding="utf-8")
    assert "# Preset many-small-steps:" in text
    assert "local_steps = 10" in text


def test_a_new_study_from_an_unknown_preset_is_refused_and_leaves_nothing(solblom: Solblom) -> None:
    assert solblom("study", "new", "mine", "--preset", "magic").exit_code == 3
    assert not Path("mine").exists()


@pytest.mark.parametrize(("given", "kept"), [(None, "glibc.malloc.hugetlb=1"), ("a=b", "a=b")])
def test_processes_that_a_command_starts_ask_for_large_pages_unless_a_person_chose(
    given: str | None, kept: str
) -> None:
    """Copies of a large model are four times dearer without; a hospital's own setting stands."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if given is not None:
        environment["GLIBC_TUNABLES"] = given
    show = "import os, solblom_protocol.cli; print(os.environ['GLIBC_TUNABLES'])"
    done = subprocess.run(
        [sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == kept
