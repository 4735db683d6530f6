"""A node's image, built of an offline bundle without a network, and its two containers as their units start them.

SOLBLOM_TEST_BASE names a root file system (tar) with Python 3.11 and its venv module, which becomes the base image:
`debootstrap --variant=minbase --include=python3.11,python3.11-venv bookworm base` and `tar -C base -cf base.tar .`
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import patient_rows, write_table
from network.containers import MORE, PODMAN, Unit, podman, status_of
from network.namespaces import QUIET, START, wait_until
from solblom_client import __version__
from solblom_client.policy import load_node_config
from solblom_client.service.container_units import FIRST_ID, IMAGE, podman_files

ROOT = Path(__file__).parents[2]
BASE = os.environ.get("SOLBLOM_TEST_BASE", "")
VAULT, LINK, GROUP = FIRST_ID, FIRST_ID + 1, FIRST_ID + 2
PLACE = Path("/srv/solblom-test")  # of a machine: a folder that containers see under its own name


def why_not() -> str | None:
    if os.geteuid() != 0 or shutil.which(PODMAN[0]) is None:
        return "podman, run by root, is needed"
    if not Path(BASE).is_file():
        return "SOLBLOM_TEST_BASE names no base image (see this file)"
    return f"{PLACE} exists" if PLACE.exists() else None


WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("podman"),
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]


@dataclass
class Machine:
    """A hospital's machine with a node, its image, and both containers at work."""

    place: Path
    built: str

    @property
    def node(self) -> Path:
        return self.place / "node"

    def inside(self, half: str, *words: str, user: int | None = None) -> str:
        """Run a program in a container; return what it prints, also where it fails."""
        who = () if user is None else ("--user", f"{user}:{user}")
        return podman("exec", *who, f"solblom-{half}", *words, check=False)

    def can(self, half: str, test: str) -> bool:
        return self.inside(half, "sh", "-c", f"({test}) 2>/dev/null && echo yes").strip() == "yes"


def solblom(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START, *words],
        cwd=PLACE,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    PLACE.mkdir(parents=True)
    try:
        number = set_up()
        made = podman_files(
            load_node_config(PLACE / "node"), PLACE / "node" / "node.toml", version=__version__
        )
        built = build(made["Containerfile"], number)
        give_owners(PLACE / "node")
        for half in ("vault", "link"):
            unit = Unit.read(made[f"solblom-{half}.container"])
            podman("run", "--detach", *MORE, *unit.options(), *unit.command)
        wait_until("the vault takes orders", lambda: "ready" in status(), seconds=60, every=1)
        yield Machine(PLACE, built)
    finally:
        podman("rm", "--force", "--ignore", "solblom-vault", "solblom-link", check=False)
        shutil.rmtree(PLACE)


def set_up() -> str:
    """Make coordinator, bundle and node; return the bundle's number."""
    where = ("--home", "home")
    solblom("coordinator", "init", "home", "--name", "nordic", "--address", "127.0.0.1:9443")
    words = ("--out", "bundle", "--source", str(ROOT), *where, "--json")
    made = json.loads(solblom("coordinator", "bundle", *words))
    (PLACE / "data").mkdir()
    write_table(PLACE / "data" / "patients.csv", patient_rows(40, site="north"))
    data = ("--data", "data/patients.csv")
    solblom("node", "init", "node", "--site", "north", *data)
    solblom("coordinator", "invite", "north", *where)
    solblom("node", "join", "north.invite.json", "--node", "node")
    (PLACE / "node" / "consent.csv").write_text("patient_id,status,valid_until\n")
    return str(made["number"]).replace(" ", "")


def build(containerfile: str, number: str) -> str:
    """Build the image without a network; return its name."""
    base = "localhost/solblom-test-base:1"
    podman("import", BASE, base)
    file = PLACE / "Containerfile"
    file.write_text(containerfile)
    said = ("--build-arg", f"BASE={base}", "--build-arg", f"NUMBER={number}")
    name = f"{IMAGE}:{__version__}"
    how = ("--network=none", "--pull=never", *MORE, "--tag", name, "--file", str(file))
    podman("build", *how, *said, str(PLACE / "bundle"))
    return name


def give_owners(node: Path) -> None:
    """Do what the node's tmpfiles do, with the numbers that its sysusers name."""
    owners = {"state": (VAULT, VAULT, 0o700), "anchor": (VAULT, VAULT, 0o700)}
    owners |= {"vault": (VAULT, GROUP, 0o2750), "link": (LINK, LINK, 0o700)}
    for name, (user, group, mode) in owners.items():
        (node / name).mkdir(exist_ok=True)
        for path in (node / name, *(node / name).rglob("*")):
            os.chown(path, user, group)
        (node / name).chmod(mode)
    for path in (node / "consent.csv", PLACE / "data" / "patients.csv"):
        os.chown(path, 0, VAULT)
        path.chmod(0o640)


def status() -> str:
    return podman(
        "exec",
        "solblom-link",
        "solblom",
        "node",
        "status",
        "--node",
        f"{PLACE}/node",
        "--json",
        check=False,
    )


def test_the_image_is_nobodys_and_keeps_no_wheel(machine: Machine) -> None:
    config = json.loads(podman("image", "inspect", machine.built))[0]["Config"]
    assert config["User"] == "65534:65534"
    found = podman("run", "--rm", "--network=none", *MORE, machine.built, "ls", "/", "/opt")
    assert "solblom" in found
    assert "bundle" not in found


def test_another_number_builds_no_image(machine: Machine) -> None:
    with pytest.raises(AssertionError, match="podman build"):
        build((PLACE / "Containerfile").read_text(), "0" * 64)


def test_vault_and_link_find_each_other_and_the_vault_is_cut_off(machine: Machine) -> None:
    found = json.loads(status())
    assert found["vault"]["isolation"] == "network-namespace+seccomp"
    assert found["link"]["code"] == "SB-620"  # it runs; nobody listens at that address


def test_the_vault_has_no_interface_but_loopback(machine: Machine) -> None:
    lines = machine.inside("vault", "cat", "/proc/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


@pytest.mark.parametrize(("half", "user"), [("vault", VAULT), ("link", LINK)])
def test_neither_half_is_root_or_may_become_it(machine: Machine, half: str, user: int) -> None:
    seen = status_of(f"solblom-{half}")
    assert seen["Uid"].split() == [str(user)] * 4
    assert {int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")


def test_neither_half_writes_beyond_its_folders(machine: Machine) -> None:
    node, data = machine.node, machine.place / "data"
    for path in (
        f"{node}/x",
        f"{node}/node.toml",
        f"{data}/x",
        f"{data}/patients.csv",
        "/x",
        "/opt/x",
    ):
        assert not machine.can("vault", f"echo >> {path}"), path
    assert machine.can("vault", f"touch {node}/state/x && rm {node}/state/x")
    for path in (f"{node}/x", f"{node}/node.toml", f"{node}/vault/x", "/x"):
        assert not machine.can("link", f"echo >> {path}"), path
    assert machine.can("link", f"touch {node}/link/x && rm {node}/link/x")


def test_what_is_the_vaults_is_not_there_for_the_link_not_even_as_root(machine: Machine) -> None:
    names = machine.inside("link", "ls", str(machine.node), user=0).split()
    assert set(names) == {"node.toml", "coordinator-ca.pem", "vault", "link"}
    assert not machine.can("link", f"ls {machine.place}/data")


def test_the_vault_sees_an_empty_folder_for_the_links_not_even_as_root(machine: Machine) -> None:
    assert (machine.node / "link" / "transport.key").is_file()
    assert machine.inside("vault", "ls", "-A", f"{machine.node}/link", user=0) == ""


def test_the_node_checks_itself_in_the_vaults_container(machine: Machine) -> None:
    words = ("solblom", "node", "check", str(machine.node), "--json")
    found = json.loads(machine.inside("vault", *words))
    lights = {row["name"]: row["light"] for row in found["checks"]}
    assert found["ok"]
    assert (lights["isolation"], lights["data sets"]) == ("ok", "ok")
