"""A file that is replaced whole or not at all, and stands on disk under its name when the call returns."""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

PUBLIC = 0o666  # less the umask, as for any new file
PRIVATE = 0o600


def write_whole(path: Path, data: bytes | memoryview, *, mode: int = PRIVATE) -> None:
    """Write a file beside its place, sync it, give it its name, and sync the folder.

    A reader sees the old file or the new one, also after a crash. A link in the place of the partial file is not
    followed.

    Raises:
        OSError: the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def rewrite(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file that nobody reads yet, and sync it; where it is there already its place on disk is used again.

    That spares the file system a commit of its own. A link in its place is not followed.

    Raises:
        OSError: the disk does not take it.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.truncate()
        os.fdatasync(file.fileno())


def exchange(first: Path, second: Path) -> None:
    """Give two files each other's names in one step; where the system cannot, the second has the first's content.

    Raises:
        OSError: neither is possible.

    Source: renameat2(2), RENAME_EXCHANGE.
    """
    rename, here = _renameat2(), -100  # AT_FDCWD
    names = os.fsencode(first), os.fsencode(second)
    if rename is None or rename(here, names[0], here, names[1], 2) != 0:
        first.replace(second)


@cache
def _renameat2() -> Any:
    return getattr(ctypes.CDLL(None), "renameat2", None)
