"""A demo in a process of its own, as a newcomer would run it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

BIN = Path(sys.executable).parent
ROUNDS = 2

Solblom = Callable[..., Result]


@dataclass(frozen=True)
class Demo:
    """What a demo printed, and its folder. `isolated`: it ran without any network."""

    home: Path
    exit_status: int
    stdout: str
    stderr: str
    isolated: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """Return the printed object."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def environment() -> dict[str, str]:
    """Return the environment of a shell in which `solblom` is on PATH."""
    kept = {k: v for k, v in os.environ.items() if k not in ("SOLBLOM_HOME", "COLUMNS")}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def without_network() -> list[str]:
    """Return a prefix that takes a command's network away; empty where this machine does not allow it."""
    if shutil.which("unshare") is None:
        return []
    for prefix in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
            return prefix
    return []


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Demo]) -> Demo:
    """Make a demo once per session, even where several workers of xdist share it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "demo.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            made = make(folder)
            record = vars(made) | {"home": str(made.home)}
            (folder / "demo.json").write_text(json.dumps(record), encoding="utf-8")
    record = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    return Demo(**(record | {"home": Path(record["home"])}))


def run_demo(folder: Path, *options: str, prefix: list[str], task: str = "heart") -> Demo:
    home = folder / "demo"
    rounds = ["--rounds", str(ROUNDS)] if task == "heart" else []
    done = subprocess.run(
        [*prefix, "solblom", "demo", task, *rounds, "--out", str(home), *options],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Demo(home, done.returncode, done.stdout, done.stderr, isolated=bool(prefix))
