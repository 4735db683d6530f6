"""A file that is replaced whole or not at all, and stands on disk under its name when the call returns."""

import os
from pathlib import Path

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
