"""Two ways to fill a disk: a small file system in memory (root only), and a limit on the size of files."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest


class Disk(Protocol):
    """A disk that a test fills."""

    folder: Path

    def fill(self) -> None: ...

    def free(self) -> None: ...


class SmallFileSystem:
    """A tmpfs of a megabyte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Write until the system says that no space is left."""
        file = os.open(self._ballast, os.O_CREAT | os.O_WRONLY)
        try:
            while os.write(file, bytes(4096)):
                pass
        except OSError:
            pass
        finally:
            os.close(file)

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)


class LimitedFiles:
    """A limit for this process: no file grows beyond one byte. Existing bytes stay readable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """Let every write fail from now on."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, self._before[1]))

    def free(self) -> None:
        """Let files grow again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@contextmanager
def small_file_system(folder: Path) -> Iterator[SmallFileSystem]:
    """Mount a tmpfs of a megabyte while the block runs; skip the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "solblom-test", str(folder)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallFileSystem(folder)
    finally:
        # Lazily: on a busy machine a process that has just ended may hold it for a moment.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def limited_files(folder: Path) -> Iterator[LimitedFiles]:
    """Give a limit on the size of files; lifted when the block ends."""
    folder.mkdir()
    disk = LimitedFiles(folder)
    try:
        yield disk
    finally:
        disk.free()
