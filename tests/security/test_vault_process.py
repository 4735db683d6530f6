"""The vault as a process of its own, attacked from both sides: what is sent to it, and what runs inside it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import LabHospital
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.link.vault_client import VaultUnavailableError
from solblom_client.policy import load_node_config
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_client.vault import Vault
from solblom_protocol.messages.result import Refusal, Result
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import digest
from vault_process import (
    FULL_LEVEL,
    VaultProcess,
    hospital_of_today,
    reachable_level,
    running_vault,
    short_folder,
)

NOBODY = 65534
PLANTED = "north-patient-0001"  # a patient of the laboratory's hospital
IN_THE_LOSS = """
from solblom_models.tabular.task import TabularClassification
def losses(self, *about):
    {body}
really = TabularClassification.losses
TabularClassification.losses = losses
"""


def in_the_loss(body: str) -> str:
    """Return a hook: `body` runs where a task sees patients, in the middle of an order."""
    return IN_THE_LOSS.format(body=body.strip().replace("\n", "\n    "))


@dataclass
class Node:
    """A hospital whose vault is a process."""

    folder: Path
    hospital: LabHospital
    study: StudyDocument

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    def log(self) -> list[dict[str, Any]]:
        path = self.hospital.config.state / "log" / "vault.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def has_reserved(self) -> bool:
        """Tell whether an order is past its reservation."""
        return any(line["event"] == "reserved" for line in self.log())

    def charges(self) -> list[str]:
        """Return the status of each charge in the ledger, read while no process has it."""
        with closing(self.hospital.open_vault()) as vault:
            return [entry.status for entry in vault.ledger.entries()]

    def strikes(self) -> int:
        """Return how many data refusals the study has had, read while no process has it."""
        with closing(VaultState(self.hospital.config.state / STATE_FILE)) as state:
            return Store(state).strikes(self.study.digest)

    def add_strikes(self, count: int) -> None:
        """Add data refusals to the study's record, while no process has it."""
        with closing(VaultState(self.hospital.config.state / STATE_FILE)) as state:
            for _ in range(count):
                Store(state).add_strike(self.study.digest)


@pytest.fixture(scope="module", autouse=True)
def machine_that_grants_both_walls() -> None:
    """These tests need what a hospital's machine would grant."""
    if reachable_level() != FULL_LEVEL:
        pytest.skip(f"this machine grants {reachable_level()}")


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as folder:
        yield Node(folder, *hospital_of_today(folder))


@pytest.fixture(scope="module")
def honest() -> Iterator[tuple[Node, VaultProcess]]:
    """One process for all tests that do it no harm."""
    with short_folder() as folder:
        node = Node(folder, *hospital_of_today(folder))
        twin = folder.with_name(f"{folder.name}-twin")
        shutil.copytree(folder, twin)
        try:
            with running_vault(folder) as vault:
                yield node, vault.wait_until_ready()
        finally:
            shutil.rmtree(twin)


def set_vault(node: Node, line: str) -> None:
    node.config.write_text(node.config.read_text(encoding="utf-8") + f"{line}\n", encoding="utf-8")


def status_of(path: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: value.strip() for name, _, value in pairs}


# --- The same vault


def test_the_process_gives_what_the_vault_gives(honest: tuple[Node, VaultProcess]) -> None:
    node, vault = honest
    order = node.hospital.order(node.study)
    theirs = vault.client.process(order)
    same_start = Vault(load_node_config(node.folder.with_name(f"{node.folder.name}-twin")))
    mine = same_start.process(order)
    same_start.close()
    ours, opened = node.hospital.read(mine), node.hospital.read(theirs)
    assert isinstance(ours, Result)
    assert isinstance(opened, Result)
    assert opened.update == ours.update
    assert (opened.receipt.work, opened.receipt.order) == (ours.receipt.work, ours.receipt.order)
    assert opened.receipt.noise_commitment == ours.receipt.noise_commitment
    # One state, two doors: the very bytes.
    in_process = node.hospital.open_vault()
    assert in_process.process(order) == theirs
    assert len(in_process.ledger.entries()) == 1
    in_process.close()
    assert vault.client.process(order) == theirs


@pytest.mark.parametrize(
    "garbage",
    [b"", b"junk", bytes(300), b"SBSEAL1\n\xff\xff\xff\xff", bytes(64 * 2**20)],
    ids=["empty", "junk", "zeros", "cut", "64-mib"],
)
def test_garbage_gets_a_sealed_refusal(honest: tuple[Node, VaultProcess], garbage: bytes) -> None:
    node, vault = honest
    reply = node.hospital.read(vault.client.process(garbage))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-202"
    assert vault.client.ready()


# --- Cut off


def test_every_thread_of_it_is_cut_off(honest: tuple[Node, VaultProcess]) -> None:
    _, vault = honest
    threads = sorted(Path(f"/proc/{vault.pid}/task").iterdir())
    assert len(threads) > 3
    for thread in threads:
        status = status_of(thread / "status")
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert (thread / "ns" / "net").readlink() != Path("/proc/self/ns/net").readlink()
        lines = (thread / "net" / "dev").read_text(encoding="utf-8").splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in lines] == ["lo"]


def test_it_holds_no_socket_but_unix_ones(honest: tuple[Node, VaultProcess]) -> None:
    _, vault = honest
    own = {f"socket:[{line.split()[6]}]" for line in unix_sockets(vault.pid)}
    held = {
        str(file.readlink())
        for file in Path(f"/proc/{vault.pid}/fd").iterdir()
        if str(file.readlink()).startswith("socket:")
    }
    assert held
    assert held <= own


def unix_sockets(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8").splitlines()[1:]


def test_its_memory_goes_into_no_file_and_has_a_cap(honest: tuple[Node, VaultProcess]) -> None:
    _, vault = honest
    limits = Path(f"/proc/{vault.pid}/limits").read_text(encoding="utf-8")
    found = {line[:25].strip(): line[25:].split()[:2] for line in limits.splitlines()[1:]}
    assert found["Max core file size"] == ["0", "0"]
    assert found["Max data size"] == [str(8 * 2**30)] * 2


def test_it_says_how_far_it_is_cut_off(honest: tuple[Node, VaultProcess]) -> None:
    node, vault = honest
    described = vault.client.describe()
    assert described.site == "north"
    assert described.recipient == digest(node.hospital.public.sealing.public_bytes_raw())
    assert described.isolation_level == FULL_LEVEL
    assert not described.working


def test_what_a_task_tries_from_inside_fails(node: Node) -> None:
    hook = in_the_loss(
        """
import errno, json, os, socket
outcomes = {}
attempts = {
    "inet": lambda: socket.create_connection(("127.0.0.1", 22), 1),
    "inet6": lambda: socket.socket(socket.AF_INET6),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "datagram": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "connect": lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket"),
}
for name, attempt in attempts.items():
    try:
        attempt()
        outcomes[name] = "done"
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]
with open(os.environ["SV_OUT"], "w") as file:
    json.dump(outcomes, file)
return really(self, *about)
"""
    )
    found = node.folder / "found.json"
    before = f"import os; os.environ['SV_OUT'] = {str(found)!r}\n"
    with running_vault(node.folder, hook=hook, before=before) as vault:
        reply = vault.wait_until_ready().client.process(node.hospital.order(node.study))
    assert isinstance(node.hospital.read(reply), Result)
    outcomes = json.loads(found.read_text())
    assert len(outcomes) == 6
    assert set(outcomes.values()) == {"EPERM"}


# --- What goes wrong inside


def test_no_word_about_a_patient_crosses_or_is_printed(node: Node) -> None:
    hook = in_the_loss(f'raise RuntimeError("row of {PLANTED} in patients.csv")')
    with running_vault(node.folder, hook=hook) as vault:
        vault.wait_until_ready()
        reply = vault.client.process(node.hospital.order(node.study))
        assert vault.terminate() == 0
        printed = vault.output()
    opened = node.hospital.read(reply)
    assert isinstance(opened, Refusal)
    assert opened.code == "SB-209"
    for patient in (PLANTED, "RuntimeError", "patients.csv"):
        assert patient not in printed
        assert patient.encode() not in reply
        assert patient not in repr(opened)
    assert PLANTED in node.log()[-1]["trace"]
    assert len(printed.splitlines()) == 1
    assert printed.startswith("north: vault on ")
    assert FULL_LEVEL in printed


@pytest.mark.slow
def test_an_order_that_wants_more_memory_than_allowed_is_refused_and_the_next_is_answered(
    node: Node,
) -> None:
    set_vault(node, "memory_gib = 3")
    hook = in_the_loss("import numpy; numpy.zeros(2**30); return really(self, *about)")
    with running_vault(node.folder, hook=hook) as vault:
        vault.wait_until_ready()
        reply = node.hospital.read(vault.client.process(node.hospital.order(node.study)))
        assert isinstance(reply, Refusal)
        assert reply.code == "SB-209"
        assert isinstance(node.hospital.read(vault.client.process(b"junk")), Refusal)
    assert "MemoryError" in node.log()[-2]["trace"]


def test_a_kill_at_work_then_a_restart_gives_one_charge_and_one_answer(node: Node) -> None:
    order = node.hospital.order(node.study)
    with running_vault(node.folder, hook=in_the_loss("import time; time.sleep(3600)")) as vault:
        sent = Asked(vault.wait_until_ready(), order)
        vault.wait_for(node.has_reserved)
        vault.kill()
        error = sent.error()
    assert error.code == "SB-611"
    assert "ended while it worked" in error.message
    assert node.charges() == ["reserved"]
    assert vault.socket.is_socket(), "kill -9 leaves the socket behind"
    with running_vault(node.folder) as vault:
        first = vault.wait_until_ready().client.process(order)
        assert vault.client.process(order) == first
        assert vault.terminate() == 0
    assert isinstance(node.hospital.read(first), Result)
    assert node.charges() == ["spent"]
    assert not vault.socket.exists()


class Asked:
    """An order under way in a thread of its own."""

    def __init__(self, vault: VaultProcess, order: bytes) -> None:
        self._found: Any = None

        def ask() -> None:
            try:
                self._found = vault.client.process(order)
            except VaultUnavailableError as error:
                self._found = error

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    def error(self) -> VaultUnavailableError:
        self._thread.join(60)
        assert isinstance(self._found, VaultUnavailableError), self._found
        return self._found


def test_a_hung_order_ends_the_process_and_the_charge_stays(node: Node) -> None:
    set_vault(node, "order_minutes = 0.03")
    with running_vault(node.folder, hook=in_the_loss("import time; time.sleep(3600)")) as vault:
        sent = Asked(vault.wait_until_ready(), node.hospital.order(node.study))
        started = time.monotonic()
        assert vault.wait() == 75
        assert time.monotonic() - started < 30
        assert sent.error().code == "SB-611"
    line = node.log()[-1]
    assert line["event"] == "order-hung"
    assert line["seconds"] >= 1
    assert node.charges() == ["reserved"]
    assert node.strikes() == 1


@pytest.mark.parametrize("hangs", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_an_order_that_hangs_three_times_stops_the_study_until_a_person_looks(
    node: Node, hangs: int
) -> None:
    """Otherwise hanging on one patient's row would answer questions about patients without end."""
    set_vault(node, "order_minutes = 0.03")
    order = node.hospital.order(node.study)
    node.add_strikes(3 - hangs)  # as hung orders leave them: the test above
    for _ in range(hangs):
        with running_vault(node.folder, hook=in_the_loss("import time; time.sleep(3600)")) as vault:
            Asked(vault.wait_until_ready(), order)
            assert vault.wait() == 75
    with running_vault(node.folder) as vault:
        found = node.hospital.read(vault.wait_until_ready().client.process(order))
    assert isinstance(found, Refusal)
    assert found.code == "SB-210"
    assert node.strikes() == 3


@pytest.mark.slow
def test_a_hung_order_that_lets_no_other_thread_run_ends_the_process_too(node: Node) -> None:
    set_vault(node, "order_minutes = 0.03")
    hook = in_the_loss("import ctypes; ctypes.PyDLL(None).sleep(3600)")
    hook += "\nimport solblom_client.service.vault_service as s; s.FALLBACK_SECONDS = 1.0"
    with running_vault(node.folder, hook=hook) as vault:
        Asked(vault.wait_until_ready(), node.hospital.order(node.study))
        assert vault.wait() == 1
        assert PLANTED not in vault.output()
    assert node.charges() == ["reserved"]


@pytest.mark.slow
def test_a_stop_in_the_middle_of_an_order_takes_seconds_and_loses_no_charge(node: Node) -> None:
    order = node.hospital.order(node.study)
    with running_vault(node.folder, hook=in_the_loss("import time; time.sleep(3600)")) as vault:
        sent = Asked(vault.wait_until_ready(), order)
        vault.wait_for(node.has_reserved)
        started = time.monotonic()
        assert vault.terminate() == 0
        assert time.monotonic() - started < 15
        assert sent.error().code == "SB-611"
    assert not vault.socket.exists()
    assert node.charges() == ["reserved"]
    with running_vault(node.folder) as vault:
        reply = vault.wait_until_ready().client.process(order)
    assert isinstance(node.hospital.read(reply), Result)
    assert node.charges() == ["spent"]


@pytest.mark.slow
def test_an_order_that_is_nearly_done_is_finished_before_a_stop(node: Node) -> None:
    hook = in_the_loss("import time; time.sleep(0.5); return really(self, *about)")
    order = node.hospital.order(node.study)
    with running_vault(node.folder, hook=hook) as vault:
        sent = Asked(vault.wait_until_ready(), order)
        vault.wait_for(node.has_reserved)
        assert vault.terminate() == 0
        sent._thread.join(60)
    assert isinstance(node.hospital.read(sent._found), Result)
    assert node.charges() == ["spent"]


# --- Starting


def test_it_is_not_ready_while_it_starts_and_a_second_one_is_refused_by_name(node: Node) -> None:
    slow_start = "import time; time.sleep(3)"
    hook = f"""
import solblom_client.service.vault_service as service
really_open = service._open_vault
def slowly(config):
    {slow_start}
    return really_open(config)
service._open_vault = slowly
"""
    with running_vault(node.folder, hook=hook) as vault:
        vault.wait_for(lambda: answers(vault))
        assert not vault.client.ready()
        with pytest.raises(VaultUnavailableError, match="still starting"):
            vault.client.process(b"early")
        with running_vault(node.folder) as second:
            assert second.wait() == 3
            said = second.output()
        assert "SB-613" in said
        assert "vault.sock" in said
        vault.wait_until_ready()
        assert vault.terminate() == 0
        assert not vault.client.ready()


def answers(vault: VaultProcess) -> bool:
    try:
        return vault.client.describe().site == "north"
    except VaultUnavailableError:
        return False


def may_run(user: int) -> bool:
    """Tell whether another user may run this installation."""
    words = [sys.executable, "-c", "import torch, solblom_client"]
    try:
        done = subprocess.run(
            words, user=user, group=user, extra_groups=[], cwd="/", check=False, timeout=120
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as another user")
def test_a_user_without_rights_gets_the_same_walls_and_reads_through_its_groups(node: Node) -> None:
    if not may_run(NOBODY):
        pytest.skip("another user may not run this installation")
    data = node.folder / "patients.csv"
    for path in (node.folder, *node.folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.chown(data, 0, NOBODY)
    data.chmod(0o640)
    with running_vault(node.folder, user=NOBODY) as vault:
        vault.wait_until_ready()
        assert vault.client.describe().isolation_level == FULL_LEVEL
        reply = vault.client.process(node.hospital.order(node.study))
    assert isinstance(node.hospital.read(reply), Result)


NOTHING_HELPS = """
import solblom_client.service.isolation as walls
walls._unshare = lambda flags: "Operation not permitted"
walls.install_filter = lambda: "no filter here"
"""


def test_a_vault_that_is_not_cut_off_does_not_start(node: Node) -> None:
    with running_vault(node.folder, before=NOTHING_HELPS) as vault:
        assert vault.wait() == 3
        said = " ".join(vault.output().split())
    assert "SB-612" in said
    assert "no filter here" in said
    assert "PrivateNetwork=yes" in said
    assert not vault.socket.exists()


@pytest.mark.slow
def test_best_effort_lets_it_start_and_says_so(node: Node) -> None:
    set_vault(node, 'isolation = "best-effort"')
    with running_vault(node.folder, before=NOTHING_HELPS) as vault:
        described = vault.wait_until_ready().client.describe()
    assert described.isolation_level == "none"
    assert any("network interfaces" in note for note in described.isolation_notes)


@pytest.mark.slow
def test_a_ledger_that_is_gone_stops_it_with_its_own_code(node: Node) -> None:
    (node.hospital.config.state / "vault.sqlite").unlink()
    with running_vault(node.folder) as vault:
        assert vault.wait() == 5
        assert "SB-402" in vault.output()
    assert not vault.socket.exists()
