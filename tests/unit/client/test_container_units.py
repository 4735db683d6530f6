"""A node in containers: units for Podman and an image for Apptainer, filled with one node's paths."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from network.containers import Unit
from solblom_client.cli import app
from solblom_client.policy import NodeConfig, load_node_config
from solblom_client.service.container_units import (
    APPTAINER_PLACES,
    PODMAN_PLACES,
    apptainer_files,
    podman_files,
)
from solblom_client.setup_cli import NODE_TOML
from solblom_protocol.errors import ConfigurationError

DEPLOY = Path(__file__).parents[3] / "deploy"
PLACE = Path("/srv/solblom/node")
FILE = PLACE / "node.toml"
ANALYZE = shutil.which("systemd-analyze")


def config_at(folder: Path, *changes: tuple[str, str]) -> NodeConfig:
    """Return the settings that `node init` writes, changed, as if they stood in PLACE."""
    text = NODE_TOML.format(site="st-olavs", data="/data/ro/cardiology.csv", patient="patient_id")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "node.toml").write_text(text, encoding="utf-8")
    config = load_node_config(folder)
    config._folder = PLACE
    return config


def podman_at(folder: Path, *changes: tuple[str, str]) -> dict[str, str]:
    return podman_files(config_at(folder, *changes), FILE, version="0.1.0")


def units(folder: Path, *changes: tuple[str, str]) -> tuple[Unit, Unit]:
    made = podman_at(folder, *changes)
    return Unit.read(made["solblom-vault.container"]), Unit.read(made["solblom-link.container"])


def test_the_examples_in_deploy_are_what_the_command_makes(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    for kind, made in (
        ("podman", podman_files(config, FILE, version="0.1.0")),
        ("apptainer", apptainer_files(config, FILE)),
    ):
        assert {name: (DEPLOY / kind / name).read_text(encoding="utf-8") for name in made} == made


def test_no_place_in_a_template_is_left_open(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    made = podman_files(config, FILE, version="0.1.0") | apptainer_files(config, FILE)
    assert set(made) == set(PODMAN_PLACES) | set(APPTAINER_PLACES)
    for name, text in made.items():
        assert re.findall(r"@[A-Z_]+@", text) == [], name


def test_the_vault_has_no_network_and_the_link_opens_no_port(tmp_path: Path) -> None:
    vault, link = units(tmp_path)
    assert vault.of("Network") == ["none"]
    assert link.of("Network") == ["podman"]
    assert not any("PublishPort" in unit.sections["Container"] for unit in (vault, link))


def test_both_halves_are_two_users_without_rights_in_a_read_only_image(tmp_path: Path) -> None:
    vault, link = units(tmp_path)
    for unit in (vault, link):
        assert unit.of("ReadOnly") == unit.of("NoNewPrivileges") == ["true"]
        assert unit.of("DropCapability") == ["all"]
        assert unit.of("Pull") == ["never"]
        assert unit.options()  # every key is one that Podman knows
    assert (vault.of("User"), link.of("User")) == (["7301"], ["7302"])


def test_the_vault_writes_its_own_folders_only(tmp_path: Path) -> None:
    vault, _ = units(tmp_path)
    written = [v.split(":")[0] for v in vault.of("Volume") if v.endswith(":rw")]
    assert written == [f"{PLACE}/{name}" for name in ("state", "anchor", "vault")]
    assert "/data/ro:/data/ro:ro" in vault.of("Volume")


def test_the_link_sees_its_own_few_files_and_nothing_of_the_vaults(tmp_path: Path) -> None:
    _, link = units(tmp_path)
    assert link.of("Volume") == [
        f"{PLACE}/{name}:{PLACE}/{name}:{how}"
        for name, how in (
            ("node.toml", "ro"),
            ("coordinator-ca.pem", "ro"),
            ("vault", "ro"),
            ("link", "rw"),
        )
    ]


def test_an_empty_folder_without_a_copy_lies_over_the_links(tmp_path: Path) -> None:
    vault, _ = units(tmp_path)
    (mask,) = vault.of("Tmpfs")
    assert mask.startswith(f"{PLACE}/link:ro,")
    assert "notmpcopyup" in mask.split(":")[1].split(",")  # else Podman copies the key into it


def test_a_links_folder_elsewhere_is_not_there_for_the_vault(tmp_path: Path) -> None:
    elsewhere = ("[policy]", '[link]\nstate = "/var/lib/link"\n[policy]')
    vault, link = units(tmp_path, elsewhere)
    assert vault.of("Tmpfs") == []
    assert "/var/lib/link:/var/lib/link:rw" in link.of("Volume")


def test_numbers_of_users_can_be_chosen_and_stand_everywhere(tmp_path: Path) -> None:
    made = podman_files(config_at(tmp_path), FILE, version="0.1.0", first_id=9001)
    assert "7301" not in "".join(made.values())
    assert "u solblom-link   9002" in made["solblom-node.sysusers.conf"]
    assert "--group-add=9003" in made["solblom-link.container"]
    with pytest.raises(ConfigurationError, match="no number of a user"):
        podman_files(config_at(tmp_path), FILE, version="0.1.0", first_id=0)


def test_memory_follows_node_toml(tmp_path: Path) -> None:
    vault, _ = units(tmp_path, ("# memory_gib = 8", "memory_gib = 2.5"))
    assert any("--memory=4g --memory-swap=4g" in words for words in vault.of("PodmanArgs"))


def test_an_anchor_beside_the_rules_is_refused(tmp_path: Path) -> None:
    beside = ('"anchor/ledger-anchor.json"', '"ledger-anchor.json"')
    with pytest.raises(ConfigurationError, match="change its own rules"):
        podman_at(tmp_path, beside)
    with pytest.raises(ConfigurationError, match="change its own rules"):
        apptainer_files(config_at(tmp_path, beside), FILE)


@pytest.mark.parametrize("path", ["/data/a:b/x.csv", "/data/r o/x.csv", "/data/%n/x.csv"])
def test_a_path_that_would_be_read_as_something_else_is_refused(tmp_path: Path, path: str) -> None:
    change = ("/data/ro/cardiology.csv", path)
    with pytest.raises(ConfigurationError, match="as something else"):
        podman_at(tmp_path, change)
    with pytest.raises(ConfigurationError, match="as something else"):
        apptainer_files(config_at(tmp_path, change), FILE)


def test_the_images_are_built_of_the_bundle_alone_once_its_number_is_right(tmp_path: Path) -> None:
    for text in (
        podman_at(tmp_path)["Containerfile"],
        apptainer_files(config_at(tmp_path), FILE)["solblom-node.def"],
    ):
        number, sums, install = (
            text.index(word)
            for word in ("sha256sum SHA256SUMS", "sha256sum --check", "pip install --no-cache-dir")
        )
        assert number < sums < text.index("python3.11 -I check_bundle.py") < install
        assert "--no-index" in text[install:]
        assert "--require-hashes" in text[install:]


def test_apptainers_vault_has_no_network_and_its_link_sees_no_state(tmp_path: Path) -> None:
    made = apptainer_files(config_at(tmp_path), FILE)
    vault, link = made["solblom-vault.sh"], made["solblom-link.sh"]
    assert "--net --network none" in vault
    assert f"--bind {PLACE}/state:{PLACE}/state:rw" in vault
    assert all(word not in link for word in ("/state", "/anchor", "/data/ro", "consent"))
    for text in (vault, link):
        assert "--containall --no-privs" in text


@pytest.mark.parametrize("half", ["vault", "link"])
def test_a_shell_finds_no_fault_with_apptainers_commands(tmp_path: Path, half: str) -> None:
    text = apptainer_files(config_at(tmp_path), FILE)[f"solblom-{half}.sh"]
    shim = tmp_path / "apptainer"
    shim.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    shim.chmod(0o755)
    done = subprocess.run(
        ["sh", "-e", "-u", "-c", text, "sh", "my.sif"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    tail = ["my.sif", "solblom", "node", half, "--node", str(FILE)]
    assert done.stdout.splitlines()[-6:] == tail


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("half", ["vault", "link"])
def test_systemd_finds_no_fault_with_what_podman_passes_on(tmp_path: Path, half: str) -> None:
    """The generator turns [Container] into ExecStart and leaves the other sections as they are."""
    text = podman_at(tmp_path)[f"solblom-{half}.container"]
    lines, keep = [], True
    for line in text.splitlines():
        keep = line != "[Container]" if line.startswith("[") else keep
        lines += [line] if keep else []
        lines += ["ExecStart=/bin/true"] if line == "[Service]" else []
    for name in ("vault", "link"):
        (tmp_path / f"solblom-{name}.service").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [
            str(ANALYZE),
            "verify",
            "--recursive-errors=no",
            str(tmp_path / f"solblom-{half}.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["podman", "apptainer"])
def test_the_command_writes_all_files_and_overwrites_none(tmp_path: Path, kind: str) -> None:
    config_at(tmp_path)
    words = ["unit", kind, "--node", str(tmp_path), "--out", str(tmp_path / "units")]
    assert CliRunner().invoke(app, words).exit_code == 0
    made = {path.name: path for path in (tmp_path / "units").iterdir()}
    assert set(made) == set(PODMAN_PLACES if kind == "podman" else APPTAINER_PLACES)
    assert all(bool(p.stat().st_mode & 0o100) == n.endswith(".sh") for n, p in made.items())
    assert CliRunner().invoke(app, words).exit_code == 3


def test_units_of_another_kind_are_refused(tmp_path: Path) -> None:
    config_at(tmp_path)
    result = CliRunner().invoke(app, ["unit", "docker", "--node", str(tmp_path)])
    assert result.exit_code == 3
    assert "SB-108" in result.output


def test_a_comma_that_apptainer_would_read_as_two_paths_is_refused(tmp_path: Path) -> None:
    config = config_at(tmp_path, ("/data/ro/cardiology.csv", "/data/ro,/etc/cardiology.csv"))
    with pytest.raises(ConfigurationError, match="two paths"):
        apptainer_files(config, FILE)
