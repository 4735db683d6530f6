"""A vault as a process of its own, as `solblom node vault` starts it; tests can plug into it what goes wrong."""

import contextlib
import datetime as dt
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from lab import LabHospital, study_document
from solblom_client.link.vault_client import VaultClient
from solblom_client.policy import load_node_config
from solblom_protocol.studies.study import StudyDocument

START_SECONDS = 120.0
BEGIN = "from solblom_protocol.cli import main; main()"
# Runs after the process has cut itself off, so that what a hook imports starts no thread before.
PLUG = """
import solblom_client.service.isolation as isolation
really_isolate = isolation.isolate
def isolate(**limits):
    reached = really_isolate(**limits)
    {hook}
    return reached
isolation.isolate = isolate
"""


FULL_LEVEL = "network-namespace+seccomp"
MEASURE = (
    "from solblom_client.service.isolation import isolate; print(isolate(memory_bytes=2**33).level)"
)


@functools.cache
def reachable_level() -> str:
    """Return how far this machine lets the tests' user cut a process off."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sv-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hospital_of_today(folder: Path, *, vault: str = "") -> tuple[LabHospital, StudyDocument]:
    """Return a hospital by the machine's own clock, its vault closed, with an approved study."""
    hospital = LabHospital(folder)
    hospital.clock.now = dt.datetime.now(dt.UTC)
    hospital.write_consent([])
    with (folder / "node.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[vault]\n{vault}\n")
    hospital.config = load_node_config(folder)
    study = study_document(study={"ends": "2999-12-31"})
    hospital.approve(study)
    hospital.vault.close()
    return hospital, study


class VaultProcess:
    """A running `solblom node vault`.

    `hook`: Python that is run in the process once it is cut off, before the vault is opened.
    `before`: Python that is run before everything else.
    """

    def __init__(
        self, folder: Path, *, hook: str = "", before: str = "", user: int | None = None
    ) -> None:
        self.socket = folder / "vault" / "vault.sock"
        self.client = VaultClient(self.socket)
        plug = PLUG.format(hook=textwrap.indent(hook, "    ").strip()) if hook else ""
        # As little as possible about this process: threads of BLAS, coverage and colours of a terminal.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + plug + BEGIN, "node", "vault", "--node", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> "VaultProcess":
        """Wait until orders are taken."""
        self.wait_for(self.client.ready)
        return self

    def wait_for(self, condition: object) -> None:
        """Wait until `condition()` holds; the process must not end meanwhile."""
        ends = time.monotonic() + START_SECONDS
        while not condition():  # type: ignore[operator]
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < ends, "the vault's process does not get there"
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, by its id."""
        self.process.kill()
        self.process.wait(timeout=30)

    def terminate(self) -> int:
        """Ask it to stop; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended by itself."""
        return self.process.wait(timeout=60)

    def output(self) -> str:
        """Return all that it printed; it must have ended."""
        printed = "".join(part or "" for part in self.process.communicate(timeout=30))
        return printed

    def close(self) -> None:
        """End it, if it has not ended."""
        self.client.close()
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def running_vault(
    folder: Path, *, hook: str = "", before: str = "", user: int | None = None
) -> Iterator[VaultProcess]:
    """A vault's process, ended afterwards."""
    vault = VaultProcess(folder, hook=hook, before=before, user=user)
    try:
        yield vault
    finally:
        vault.close()
