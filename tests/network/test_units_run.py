"""The services of a node, started as their users: each gets ready, and the link's user opens nothing of the vault's.

sysusers and tmpfiles make users and owners in a folder of the test's own (--root); nothing of this machine changes.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import patient_rows, write_table
from network.namespaces import QUIET, START, interfaces, process_status, wait_until
from solblom_client.policy import load_node_config
from solblom_client.service.units import systemd_files

DEPLOY = Path(__file__).parents[2] / "deploy" / "systemd"
TOOLS = ("unshare", "setpriv", "systemd-sysusers", "systemd-tmpfiles")
NODE = "srv/node"  # below the root
_TRY = "import sys; open(sys.argv[1], sys.argv[2]).close()"


_OPEN_THE_WAY = """
set -e
python=$1 shut=$2 aside=$3; shift 3
mkdir -p "$aside"
mount --bind "$python" "$aside"
mount -t tmpfs -o mode=755 none "$shut"
mkdir -p "$python"
mount --bind "$aside" "$python"
exec "$@"
"""


def way_to_python(aside: Path) -> list[str]:
    """Return words before a command that let other users reach this Python, where it lies in a shut folder.

    In a mount namespace of the command's own: a developer's Python in a home folder, as the command sees it,
    lies in an open one. `aside` is an empty folder for that.
    """
    python = Path(sys.base_prefix)
    shut = [folder for folder in reversed(python.parents) if not folder.stat().st_mode & 0o001]
    if not shut:
        return []
    where = (str(python), str(shut[0]), str(aside))
    return ["unshare", "-m", "--", "sh", "-c", _OPEN_THE_WAY, "sh", *where]


def why_not() -> str | None:
    """Return why services cannot be started as other users here; None where they can."""
    if os.geteuid() != 0:
        return "starting services as their users needs root"
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    with tempfile.TemporaryDirectory() as folder:
        other = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "sh", "-c"]
        words = [*way_to_python(Path(folder)), *other, 'exec "$@"', "sh"]
        program = [sys.executable, "-c", "import solblom_client, solblom_server"]
        tried = subprocess.run([*words, *program], capture_output=True, check=False, cwd="/")
    return None if tried.returncode == 0 else "another user cannot read this installation"


WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("units"),  # set up once, in one worker
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]


@dataclass
class Host:
    """A folder with users, a node and what its services would start; below it, paths are as on a machine."""

    root: Path
    users: dict[str, tuple[int, int]] = field(default_factory=dict)  # name → (user, group)
    socket_group: int = 0
    units: dict[str, str] = field(default_factory=dict)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def node(self) -> Path:
        return self.root / NODE

    def install(self, sysusers: Path) -> None:
        """Make the users of a sysusers file."""
        place = self.root / "etc/sysusers.d"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(sysusers, place)
        words = ["systemd-sysusers", f"--root={self.root}"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert "not a valid" not in done.stderr
        groups = {}
        for line in (self.root / "etc/group").read_text().splitlines():
            name, _, number, _ = line.split(":")
            groups[name] = int(number)
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, user, group = line.split(":")[:4]
            self.users[name] = (int(user), int(group))
        self.socket_group = groups.get("solblom-socket", 0)

    def as_user(self, name: str, *, groups: tuple[int, ...] = ()) -> list[str]:
        """Return the words that make a command run as a user, as its unit does."""
        user, group = self.users[name]
        also = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
        return ["setpriv", f"--reuid={user}", f"--regid={group}", also, "--no-new-privs",
                "--bounding-set=-all", "--inh-caps=-all"]  # fmt: skip

    def run(self, user: list[str], *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a program as a user."""
        way = way_to_python(self.root / "python")
        line = [*way, *user, "sh", "-c", 'exec "$@"', "sh", *words]
        return subprocess.run(line, capture_output=True, text=True, check=False, cwd="/")

    def link_user(self) -> list[str]:
        return self.as_user("solblom-link", groups=(self.socket_group,))

    def can(self, user: list[str], mode: str, path: Path) -> bool:
        """Tell whether a user can open a file to read (r) or to append (a)."""
        done = self.run(user, sys.executable, "-I", "-S", "-c", _TRY, str(path), mode)
        assert "PermissionError" in done.stderr or done.returncode == 0, done.stderr
        return done.returncode == 0

    def start(self, unit: str, user: list[str], log: str) -> "subprocess.Popen[bytes]":
        """Start a unit's ExecStart as its user; with PrivateNetwork, without a network."""
        command = shlex.split(re.findall(r"^ExecStart=(.*)$", unit, re.M)[0])
        alone = ["unshare", "-n", "--"] if "PrivateNetwork=yes" in unit else []
        way = way_to_python(self.root / "python")
        mask = re.findall(r"^UMask=(.*)$", unit, re.M)[0]
        words = [*way, *alone, *user, "sh", "-c", f'umask {mask}; exec "$@"', "sh", *command]
        env = {"PATH": os.environ["PATH"], "HOME": "/", "USER": "solblom", "LOGNAME": "solblom"}
        with (self.root / log).open("ab") as output:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env | QUIET,
                cwd="/",
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def program(root: Path) -> Path:
    """Write a `solblom` that any user can start: that of this test's Python."""
    path = root / "solblom"
    path.write_text(f"#!{sys.executable}\n{START}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A machine with a node whose vault and link are started as their units say."""
    root = Path(tempfile.mkdtemp(prefix="sbu"))
    root.chmod(0o755)  # pytest's own folders are shut to other users
    made = Host(root)
    try:
        set_up(made)
        made.start(made.units["solblom-vault.service"], made.as_user("solblom-vault"), "vault.txt")
        made.start(made.units["solblom-link.service"], made.link_user(), "link.txt")
        yield made
    finally:
        made.close()
        shutil.rmtree(root)


def set_up(host: Host) -> None:
    """Make node, users, units and owners, as docs/how-to/run-a-node.md says."""
    node, data = host.node, host.root / "data"
    data.mkdir()
    write_table(data / "patients.csv", patient_rows(60, site="north"))
    solblom("node", "init", str(node), "--site", "north", "--data", str(data / "patients.csv"))
    (node / "consent.csv").write_text("patient_id,status,valid_until\n", encoding="utf-8")
    (node / "consent.csv").chmod(0o600)  # tmpfiles opens it to the vault
    coordinator = host.root / "federation"
    address = f"127.0.0.1:{closed_port()}"
    solblom("coordinator", "init", str(coordinator), "--name", "nordic", "--address", address)
    invite = host.root / "north.invite.json"
    solblom("coordinator", "invite", "north", "--home", str(coordinator), "--out", str(invite))
    answer = str(host.root / "answer.json")
    solblom("node", "join", str(invite), "--node", str(node), "--out", answer)
    host.install(DEPLOY / "solblom-node.sysusers.conf")
    config = load_node_config(node)
    host.units = systemd_files(config, node / "node.toml", program(host.root))
    # --root puts the root before every path, and reads the users from below it.
    owners = host.units["solblom-node.tmpfiles.conf"].replace(f"{host.root}/", "/")
    place = host.root / "etc/tmpfiles.d"
    place.mkdir()
    (place / "solblom-node.conf").write_text(owners, encoding="utf-8")
    words = ["systemd-tmpfiles", f"--root={host.root}", "--create", "solblom-node.conf"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    give_to_the_vault(host, data)


def give_to_the_vault(host: Host, data: Path) -> None:
    """Open the data to the vault's group, which is the hospital's own business."""
    for path, mode in ((data, 0o750), (data / "patients.csv", 0o640)):
        os.chown(path, 0, host.users["solblom-vault"][1])
        path.chmod(mode)


def solblom(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-c", START, *words],
        env=os.environ | QUIET,
        check=True,
        capture_output=True,
        timeout=60,
    )


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def said(host: Host, name: str) -> str:
    return (host.root / name).read_text()


def test_the_vault_gets_ready_as_its_user_without_a_network(host: Host) -> None:
    wait_until(
        f"the vault is not ready: {said(host, 'vault.txt')}",
        lambda: "vault on" in said(host, "vault.txt"),
        seconds=60,
    )
    pid = host.processes[0].pid
    assert "cut off by network-namespace+seccomp" in said(host, "vault.txt")
    assert "it could write" not in said(host, "vault.txt")
    assert interfaces(pid) == ["lo"]
    status = process_status(pid)
    assert status["Uid"].split()[0] == str(host.users["solblom-vault"][0])
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["Groups"].strip() == ""


def test_the_link_gets_ready_as_its_user_and_reaches_the_vault(host: Host) -> None:
    wait_until(
        f"the link does not run: {said(host, 'link.txt')}",
        lambda: (host.node / "link/status.json").is_file(),
        seconds=60,
    )
    wait_until(
        "the vault has no socket", lambda: (host.node / "vault/vault.sock").exists(), seconds=60
    )
    assert host.processes[1].poll() is None
    ask = (
        "import sys; from pathlib import Path; from solblom_client.link.vault_client import VaultClient;"
        "print(VaultClient(Path(sys.argv[1])).describe().site)"
    )
    socket_path = str(host.node / "vault/vault.sock")
    done = host.run(host.link_user(), sys.executable, "-c", ask, socket_path)
    assert done.stdout == "north\n", done.stderr


def test_a_user_outside_the_sockets_group_cannot_reach_the_vault(host: Host) -> None:
    path = host.node / "vault/vault.sock"
    wait_until("the vault has no socket", path.exists, seconds=60)
    wait_until(
        "the socket's mode is not set", lambda: path.stat().st_mode & 0o777 == 0o660, seconds=60
    )
    assert path.stat().st_gid == host.socket_group
    knock = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    program = (sys.executable, "-I", "-S", "-c", knock, str(path))
    assert host.run(host.link_user(), *program).returncode == 0
    assert "PermissionError" in host.run(host.as_user("solblom-link"), *program).stderr


def test_the_links_user_opens_what_it_needs_and_nothing_of_the_vaults(host: Host) -> None:
    link, node = host.link_user(), host.node
    for needed in ("node.toml", "coordinator-ca.pem", "link/transport.key"):
        assert host.can(link, "r", node / needed), needed
    secret = [node / "consent.csv", host.root / "data/patients.csv"]
    secret += [path for path in (node / "state").rglob("*") if path.is_file()]
    assert len(secret) >= 6  # keys and ledger are among them
    assert [path for path in secret if host.can(link, "r", path)] == []
    for rule in ("node.toml", "coordinator.pub", "coordinator-ca.pem"):
        assert not host.can(link, "a", node / rule), rule


def test_the_vaults_user_reads_data_and_rules_and_changes_neither(host: Host) -> None:
    vault, node = host.as_user("solblom-vault"), host.node
    for path in (node / "consent.csv", host.root / "data/patients.csv", node / "node.toml"):
        assert host.can(vault, "r", path), path
        assert not host.can(vault, "a", path), path
    assert host.can(vault, "a", node / "state/vault.sqlite")
    assert not host.can(vault, "r", node / "link/transport.key")


def test_the_coordinator_gets_ready_as_its_user(host: Host) -> None:
    host.install(DEPLOY / "solblom-coordinator.sysusers.conf")
    home = host.root / "federation"
    user, group = host.users["solblom-coordinator"]
    for path in (home, *home.rglob("*")):
        os.chown(path, user, group)
    unit = (DEPLOY / "solblom-coordinator.service").read_text(encoding="utf-8")
    unit = unit.replace("/opt/solblom/bin/solblom", str(host.root / "solblom"))
    unit = unit.replace("--home /var/lib/solblom-coordinator", f"--home {home}")
    process = host.start(unit, host.as_user("solblom-coordinator"), "coordinator.txt")
    wait_until(
        f"the coordinator is not ready: {said(host, 'coordinator.txt')}",
        lambda: "Hospitals reach this coordinator" in said(host, "coordinator.txt"),
        seconds=90,
    )
    assert process.poll() is None
    assert process_status(process.pid)["Uid"].split()[0] == str(user)
