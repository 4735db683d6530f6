"""The place of the vault's socket: one vault, for its own group only, and nothing of others is removed."""

import fcntl
import os
import socket
import stat
from pathlib import Path

from solblom_protocol.errors import ConfigurationError

MAX_PATH_BYTES = 107  # sockaddr_un of Linux, less the closing zero
SOCKET_MODE, FOLDER_MODE = 0o660, 0o750


class SocketPlace:
    """A path at which no other vault listens. Held until the process ends or `release`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Take the socket away and let another vault have the place."""
        self.path.unlink(missing_ok=True)
        os.close(self._lock)


def claim(path: Path) -> SocketPlace:
    """Take a place for the vault's socket; a socket left there by a vault that has ended is removed.

    Two vaults that start at once cannot both succeed: a lock beside the socket is taken first.

    Raises:
        ConfigurationError: SB-610, the path or its folder cannot be used; SB-613, a vault listens.
    """
    path = path.absolute()
    _check_length(path)
    _make_folder(path.parent)
    lock = _lock(path)
    try:
        _remove_stale(path)
    except ConfigurationError:
        os.close(lock)
        raise
    return SocketPlace(path, lock)


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ConfigurationError(
            "SB-610",
            f"The path of vault.socket has {size} bytes; Linux allows {MAX_PATH_BYTES}: {path}",
            "Give a short path in vault.socket, such as /run/solblom/vault.sock",
        )


def _make_folder(folder: Path) -> None:
    """Make the socket's folder, or check that nobody else can put another socket into it.

    A folder that was there may be seen by others, such as the node's own: the socket's mode keeps them out.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            pass
        else:
            folder.chmod(FOLDER_MODE)  # whatever the umask
        found = folder.stat()
    except OSError as error:
        raise ConfigurationError(
            "SB-610", f"The folder {folder} of vault.socket cannot be made: {error.strerror}"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError("SB-610", f"{folder} is not a folder")
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError("SB-610", f"The folder {folder} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            "SB-610",
            f"Others may write to the folder {folder} of vault.socket "
            f"(mode {stat.S_IMODE(found.st_mode):o}), and could put their own socket there",
            f"chmod {FOLDER_MODE:o} {folder}",
        )


def _lock(path: Path) -> int:
    """Return an open, locked file beside the socket; the kernel lets go of it when the process ends."""
    file = path.with_name(f"{path.name}.lock")
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError("SB-610", f"{file} cannot be made: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise ConfigurationError("SB-613", f"A vault runs on {path} already") from None
    return lock


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; refuse to touch anything else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError("SB-610", f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ConfigurationError(
                "SB-610", f"{path} is a socket that cannot be tried: {error.strerror or error}"
            ) from None
    raise ConfigurationError(
        "SB-610", f"Another program listens on {path}", "Choose another path for vault.socket"
    )
