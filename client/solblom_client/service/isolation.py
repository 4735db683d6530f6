"""Cut the vault's process off from every network, then measure what was reached instead of believing it.

Called while the process has one thread, before anything heavy is loaded: a network namespace and a
seccomp filter hold for the thread that asks, and for the threads and processes that it starts later.

What is done, as far as the machine allows:

- no core dumps, no reading of its memory by others of the same user, no new privileges (prctl(2))
- a network namespace without any interface (unshare(2)); for a user without rights by way of a user
  namespace in which this user is who it was, so that files keep their owners
- a seccomp filter (service/seccomp.py)
- caps on memory and open files

The level is derived from the measurement alone. Not a word of it comes from data.
"""

import contextlib
import ctypes
import os
import resource
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from solblom_client.service.seccomp import install_filter
from solblom_protocol.errors import ConfigurationError

NONE = "none"
OPEN_FILES = 1024
FAMILIES = ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK")
"""Kinds of sockets that lead to other machines, or to the kernel's network settings."""
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 3, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_LOOPBACK = "lo"


@dataclass(frozen=True)
class Isolation:
    """How far the process is cut off, as it measured itself.

    Attributes:
        level: network-namespace+seccomp, network-namespace, seccomp or none.
        notes: what hospital IT should know about it, in words.
    """

    level: str
    notes: tuple[str, ...]


def isolate(*, memory_bytes: int, open_files: int = OPEN_FILES) -> Isolation:
    """Cut this process off as far as the machine allows; there is no way back. Return what was reached.

    Raises:
        ConfigurationError: SB-612, the process is left in a user namespace where it is nobody.
    """
    threads, tried = sum(1 for _ in Path("/proc/self/task").iterdir()), []
    _limit(resource.RLIMIT_CORE, 0)  # a core dump would hold patients
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_NOFILE, open_files)
    if _interfaces() <= {_LOOPBACK}:
        tried.append("there was no network interface but loopback from the start")
    else:
        tried += _leave_network()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    reason = install_filter()
    if reason is not None:
        tried.append(reason)
    _prctl(_PR_SET_DUMPABLE, 0)
    reached = measure(tried)
    if threads > 1:
        note = f"{threads} threads ran before it was cut off, and are not"
        return Isolation(NONE, (*reached.notes, note))
    return reached


def measure(tried: Iterable[str] = ()) -> Isolation:
    """Return the level from what this process can really do now, after the notes of what was `tried`."""
    opened = [name for name in FAMILIES if _can_open(name)]
    interfaces, status = _interfaces(), _status()
    filtered = status.get("Seccomp") == "2" and not opened
    walls = {"network-namespace": interfaces <= {_LOOPBACK}, "seccomp": filtered}
    notes = list(tried)
    if opened:
        notes.append(f"it can still make sockets of {', '.join(opened)}")
    if not walls["network-namespace"]:
        notes.append("it sees this machine's network interfaces")
    elif opened and _loopback_is_up():
        notes.append("it can reach other programs in its network by way of loopback")
    if _can_connect():
        notes.append("it can call other programs of this machine by unix sockets")
    if status.get("NoNewPrivs") != "1":
        notes.append("it may gain privileges")
    if _prctl(_PR_GET_DUMPABLE, 0) != 0:
        notes.append("its memory may be dumped to a file, or read by others of its user")
    if os.geteuid() == 0:
        notes.append("it runs as root; a user of its own needs no rights but to the node's files")
    level = "+".join(name for name, stands in walls.items() if stands) or NONE
    return Isolation(level, tuple(notes))


def require(isolation: Isolation) -> None:
    """Refuse to go on where nothing was reached.

    Raises:
        ConfigurationError: SB-612.
    """
    if isolation.level == NONE:
        raise ConfigurationError(
            "SB-612", f"The vault is not cut off from the network: {'; '.join(isolation.notes)}"
        )


def writable_data(data: dict[str, Path]) -> list[str]:
    """Return notes on data sets (name → path) that this process could change: it needs to read, no more."""
    notes = []
    for name, path in data.items():
        if os.access(path, os.W_OK):
            notes.append(f"it could write to the data set {name}; mount it read-only")
        elif os.access(path.parent, os.W_OK):
            notes.append(f"it could replace the data set {name}, whose folder it may write to")
    return notes


def _leave_network() -> list[str]:
    """Move into a network namespace of our own; return what did not work.

    A child tries a user namespace first: who has entered one without its user ids being mapped is
    nobody there, and cannot leave.

    Raises:
        ConfigurationError: SB-612, what the child could do failed here.
    """
    reason = _unshare(_CLONE_NEWNET)
    if reason is None:
        return []
    tried = [f"no network namespace of its own ({reason})"]
    if not _succeeds_in_a_child():
        return [*tried, "nor one inside a user namespace, which this machine does not allow"]
    try:
        _enter_user_namespace()
    except OSError as error:
        raise ConfigurationError(
            "SB-612", f"A user namespace was entered, but not as this user: {error.strerror}"
        ) from None
    return []


def _succeeds_in_a_child() -> bool:
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _enter_user_namespace()
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _enter_user_namespace() -> None:
    """Enter a user and a network namespace in which this user is who it was, without any capability.

    Raises:
        OSError: this machine does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    reason = _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    if reason is not None:
        raise OSError(0, reason)
    _prctl(
        _PR_SET_DUMPABLE, 1
    )  # else these files are root's, after a change of user; 0 again later
    for name, text in (
        ("setgroups", "deny"),  # the kernel's condition for a user without rights to map its group
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_bytes(text.encode())
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _unshare(flags: int) -> str | None:
    """Return why it failed, or None."""
    libc = ctypes.CDLL(None, use_errno=True)
    return None if libc.unshare(flags) == 0 else os.strerror(ctypes.get_errno())


def _prctl(option: int, value: int) -> int:
    """Set or get an attribute of the process; `measure` sees whether it worked."""
    nothing = ctypes.c_ulong(0)
    return int(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), nothing, nothing, nothing))


def _limit(what: int, value: int) -> None:
    """Lower a limit of the process for good; one that is lower already stays."""
    hard = resource.getrlimit(what)[1]
    lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (lowest, lowest))


def _interfaces() -> set[str]:
    """Return the network interfaces that this process sees; what cannot be read is not taken for none."""
    try:
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    except OSError:
        return {"unknown"}
    return {line.partition(":")[0].strip() for line in lines}


def _loopback_is_up() -> bool:
    """Tell whether loopback works; a new network namespace has it switched off."""
    try:
        return bool(Path("/proc/thread-self/net/fib_trie").read_text(encoding="utf-8").strip())
    except OSError:
        return True


def _status() -> dict[str, str]:
    text = Path("/proc/thread-self/status").read_text(encoding="utf-8")
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _can_open(family: str) -> bool:
    """Tell whether a socket of a family can be made, of whichever type."""
    number = getattr(socket, family, None)
    if number is None:
        return False
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        with contextlib.suppress(OSError), socket.socket(number, kind):
            return True
    return False


def _can_connect() -> bool:
    """Tell whether a unix socket may call; nobody has this address, in the abstract namespace."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(b"\0solblom-measures-itself")
    except PermissionError:
        return False
    except OSError:
        return True
    return True
