"""A bundle as the operator makes it, real packages by a real pip; installed where there is no network at all.

The hospital's machine is a network namespace without any cable, a Python 3.11 with nothing installed, and no setting
of pip's. What is typed there is what INSTALL.en.txt says.
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
from network.namespaces import QUIET, START

ROOT = Path(__file__).parents[2]
PYTHON = str(getattr(sys, "_base_executable", sys.executable))
_REACH = """
import socket, sys
for address in (("127.0.0.1", 1), ("192.0.2.1", 443), ("2001:db8::1", 443)):
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError as error:
        print(error.errno)
"""


def why_not() -> str | None:
    """Return why there is no such machine here; None where there is."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if shutil.which("unshare") is None or shutil.which("sha256sum") is None:
        return "unshare or sha256sum is not installed"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "unshare -n does not work here"


WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("offline"),  # made once, in one worker
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]


@dataclass
class Operator:
    """Where there is internet, or what pip has instead of it."""

    folder: Path

    def solblom(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", START, *words],
            cwd=self.folder,
            env=os.environ | QUIET,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


@dataclass
class Hospital:
    """A machine without a network."""

    folder: Path

    def run(self, *words: str, at: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["unshare", "-n", "--", *words],
            cwd=at or self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "PIP_CONFIG_FILE": os.devnull}
            | QUIET,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def do(self, *words: str, at: Path | None = None) -> str:
        done = self.run(*words, at=at)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    @property
    def solblom(self) -> str:
        return str(self.folder / "venv" / "bin" / "solblom")

    def install(self, bundle: Path, *more: str) -> "subprocess.CompletedProcess[str]":
        pip = str(self.folder / "venv" / "bin" / "pip")
        words = ("install", "--no-index", "--find-links", "wheels", "--require-hashes")
        return self.run(pip, *words, *more, "-r", "requirements.txt", at=bundle)


@dataclass
class Delivery:
    """A bundle that was carried from one to the other."""

    operator: Operator
    hospital: Hospital
    number: str

    @property
    def bundle(self) -> Path:
        return self.operator.folder / "bundle"


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    folder = tmp_path_factory.mktemp("offline")
    operator, hospital = Operator(folder / "operator"), Hospital(folder / "hospital")
    for place in (operator, hospital):
        place.folder.mkdir()
    operator.solblom("coordinator", "init", "home", "--name", "nordic")
    where = ("--source", str(ROOT), "--home", "home", "--json")
    made = json.loads(operator.solblom("coordinator", "bundle", "--out", "bundle", *where))
    hospital.do(PYTHON, "-I", "-m", "venv", "venv")
    yield Delivery(operator, hospital, made["number"])
    shutil.rmtree(folder)  # gigabytes that the next test run does not need


def test_the_hospital_reaches_nothing(delivery: Delivery) -> None:
    failed = delivery.hospital.do(PYTHON, "-I", "-c", _REACH).split()
    assert len(failed) == 3


def test_before_anything_is_installed_a_plain_machine_says_the_operators_number(
    delivery: Delivery,
) -> None:
    hospital, bundle = delivery.hospital, delivery.bundle
    named = hospital.do("sha256sum", "SHA256SUMS", at=bundle).split()[0]
    assert named == delivery.number.replace(" ", "")
    hospital.do("sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS", at=bundle)
    said = hospital.do(PYTHON, "-I", "check_bundle.py", at=bundle)
    assert delivery.number in said


def test_pip_refuses_a_wheel_whose_bytes_changed(delivery: Delivery, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(delivery.bundle, changed, copy_function=os.link)
    wheel = next((changed / "wheels").glob("rfc8785-*.whl"))
    data = bytearray(wheel.read_bytes())
    data[-1] ^= 1
    wheel.unlink()  # a link to the real one
    wheel.write_bytes(data)
    refused = delivery.hospital.install(changed, "--dry-run")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_a_node_is_installed_set_up_and_ready_without_a_network(delivery: Delivery) -> None:
    hospital, bundle, operator = delivery.hospital, delivery.bundle, delivery.operator
    installed = hospital.install(bundle)
    assert installed.returncode == 0, installed.stderr[-2000:]
    write_table(hospital.folder / "patients.csv", patient_rows(40, site="north"))
    hospital.do(
        hospital.solblom, "node", "init", "node", "--site", "north", "--data", "patients.csv"
    )
    operator.solblom("coordinator", "invite", "north", "--home", "home")
    operator.solblom("study", "keygen", "researcher")
    invitation = operator.folder / "north.invite.json"
    hospital.do(hospital.solblom, "node", "join", str(invitation), "--node", "node")
    node = hospital.folder / "node"
    shutil.copy(operator.folder / "researcher" / "researcher.pub", node)
    (node / "consent.csv").write_text("patient_id,status,valid_until\n")
    seen = json.loads(hospital.do(hospital.solblom, "node", "check", "node", "--json"))
    assert seen["ok"] is True
    pinned = str(node / "coordinator.pub")
    words = ("node", "bundle", "verify", str(bundle), "--key", pinned, "--json")
    assert json.loads(hospital.do(hospital.solblom, *words))["ok"] is True


def test_what_was_installed_is_a_node_and_no_coordinator(delivery: Delivery) -> None:
    hospital = delivery.hospital
    hospital.do(str(hospital.folder / "venv" / "bin" / "pip"), "check")
    nouns = hospital.do(hospital.solblom, "--help")
    assert "node" in nouns
    assert "coordinator" not in nouns
    listed = hospital.do(str(hospital.folder / "venv" / "bin" / "pip"), "list", "--format", "json")
    there = {row["name"].lower() for row in json.loads(listed)}
    assert {"solblom-client", "torch", "flwr"} <= there
    assert {"solblom-server", "solblom-simulation"} & there == set()
