"""The service units of a node: filled with its paths, and equal to the examples in deploy/."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from solblom_client.cli import app
from solblom_client.policy import NodeConfig, load_node_config
from solblom_client.service.units import UNITS, hidden_paths, systemd_files
from solblom_client.setup_cli import NODE_TOML
from solblom_protocol.errors import ConfigurationError

DEPLOY = Path(__file__).parents[3] / "deploy" / "systemd"
SOLBLOM = Path("/opt/solblom/bin/solblom")
PLACE = Path("/srv/solblom/node")
ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def config_at(folder: Path, *changes: tuple[str, str], home: Path = PLACE) -> NodeConfig:
    """Return the settings that `node init` writes, changed, as if they stood in `home`."""
    text = NODE_TOML.format(site="st-olavs", data="/data/ro/cardiology.csv", patient="patient_id")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "node.toml").write_text(text, encoding="utf-8")
    config = load_node_config(folder)
    config._folder = home
    return config


def rendered(folder: Path, *changes: tuple[str, str]) -> dict[str, str]:
    return systemd_files(config_at(folder, *changes), PLACE / "node.toml", SOLBLOM)


def setting(unit: str, name: str) -> list[str]:
    """Return the words of a setting, over all its lines."""
    return [word for line in re.findall(rf"^{name}=(.*)$", unit, re.M) for word in line.split()]


def test_the_examples_in_deploy_are_what_the_command_makes(tmp_path: Path) -> None:
    made = rendered(tmp_path)
    assert {name: (DEPLOY / name).read_text(encoding="utf-8") for name in made} == made


def test_no_place_in_a_template_is_left_open(tmp_path: Path) -> None:
    for name, text in rendered(tmp_path).items():
        assert re.findall(r"@[A-Z_]+@", text) == [], name


def test_the_vault_writes_its_own_folders_only(tmp_path: Path) -> None:
    vault = rendered(tmp_path)["solblom-vault.service"]
    assert setting(vault, "ProtectSystem") == ["strict"]
    assert setting(vault, "ReadWritePaths") == [
        f"{PLACE}/{n}" for n in ("state", "anchor", "vault")
    ]
    assert "-/data/ro" in setting(vault, "ReadOnlyPaths")


def test_the_vault_has_no_network_and_may_make_unix_sockets_only(tmp_path: Path) -> None:
    vault = rendered(tmp_path)["solblom-vault.service"]
    assert setting(vault, "PrivateNetwork") == ["yes"]
    assert setting(vault, "RestrictAddressFamilies") == ["AF_UNIX"]


def test_what_the_vault_has_is_not_there_for_the_link(tmp_path: Path) -> None:
    link = rendered(tmp_path)["solblom-link.service"]
    assert setting(link, "ReadWritePaths") == [f"{PLACE}/link"]
    hidden = ("/data/ro", f"{PLACE}/state", f"{PLACE}/anchor", f"{PLACE}/consent.csv")
    assert {f"-{path}" for path in hidden} <= set(setting(link, "InaccessiblePaths"))


def test_no_file_that_is_replaced_each_day_is_mounted_for_the_vault(tmp_path: Path) -> None:
    reads = setting(rendered(tmp_path)["solblom-vault.service"], "ReadOnlyPaths")
    assert f"-{PLACE}" in reads
    assert not [path for path in reads if path.endswith(".csv")]


def test_memory_follows_node_toml(tmp_path: Path) -> None:
    change = ("# memory_gib = 8", "memory_gib = 2.5")
    assert "MemoryMax=4G\n" in rendered(tmp_path, change)["solblom-vault.service"]


def test_an_anchor_beside_the_rules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="change its own rules"):
        rendered(tmp_path, ('"anchor/ledger-anchor.json"', '"ledger-anchor.json"'))


@pytest.mark.parametrize("path", ["/data/r o/a.csv", "/data/%n/a.csv", "/data/$x/a.csv"])
def test_a_path_that_systemd_reads_as_something_else_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="systemd would read"):
        rendered(tmp_path, ("/data/ro/cardiology.csv", path))


def test_a_path_that_services_do_not_see_is_named(tmp_path: Path) -> None:
    below_home = Path("/home") / "it" / "a.csv"
    config = config_at(tmp_path, ("/data/ro/cardiology.csv", str(below_home)))
    assert hidden_paths(config, PLACE / "node.toml", SOLBLOM) == [below_home]


def test_the_command_writes_all_files_and_overwrites_none(tmp_path: Path) -> None:
    config_at(tmp_path)
    words = ["unit", "systemd", "--node", str(tmp_path), "--out", str(tmp_path / "units")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert len(list((tmp_path / "units").iterdir())) == 4
    assert CliRunner().invoke(app, words).exit_code == 3


@needs_analyze
@pytest.mark.parametrize("name", [*UNITS, "solblom-coordinator.service"])
def test_systemd_finds_no_fault_with_a_unit(tmp_path: Path, name: str) -> None:
    program = tmp_path / "solblom"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    for file in DEPLOY.glob("*.service"):
        text = file.read_text(encoding="utf-8").replace(str(SOLBLOM), str(program))
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [str(ANALYZE), "verify", "--recursive-errors=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize(
    ("name", "most"), [(UNITS[0], 1.0), (UNITS[1], 1.5), ("solblom-coordinator.service", 2.0)]
)
def test_systemd_rates_a_unit_as_little_exposed(name: str, most: float) -> None:
    words = ["security", "--offline=true", "--no-pager", f"--threshold={most * 10:.0f}"]
    done = subprocess.run(
        [str(ANALYZE), *words, str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-300:]
    assert "Overall exposure level" in done.stdout
