"""Cut the vault's process off from every network, and measure what was reached instead of believing it.

Called before anything heavy is imported, while the process has one thread. Three walls, as far as the
machine allows: a network namespace without interfaces (unshare(2)), a seccomp filter that lets
socket(2) make unix sockets only (seccomp(2)), and no core dumps, no new privileges (prctl(2)).
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# AUDIT_ARCH_*, number of socket(2), and of calls that reach into other processes or the kernel:
# ptrace, process_vm_readv, process_vm_writev, bpf, keyctl, add_key, request_key, kexec_load, io_uring_setup
_ARCHITECTURES = {
    "x86_64": (0xC000003E, 41, (101, 310, 311, 321, 250, 248, 249, 246, 425)),
    "aarch64": (0xC00000B7, 198, (117, 270, 271, 280, 219, 217, 218, 104, 425)),
}
_X32_BIT = 0x40000000
_FAMILIES = ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET")
NONE = "none"


@dataclass(frozen=True)
class Isolation:
    """How far the process is cut off, as measured.

    `level`: network-namespace+seccomp | network-namespace | seccomp | none.
    """

    level: str
    notes: tuple[str, ...]


def isolate(*, memory_bytes: int | None = None) -> Isolation:
    """Raise every wall that this machine allows; return what was reached."""
    tried: list[str] = []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold patients
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    _prctl(_PR_SET_DUMPABLE, 0)
    if not _has_no_network():
        _leave_network(tried)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if not _filter_sockets():
        tried.append(f"no seccomp filter: not known for {platform.machine()}, or not allowed")
    return measure(tried)


def measure(tried: list[str]) -> Isolation:
    """Return the level from what this process can really do now."""
    opened = [name for name in _FAMILIES if _can_open(name)]
    alone = _has_no_network()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    filtered = "Seccomp:\t2" in status and not {"AF_INET", "AF_INET6"} & set(opened)
    walls = [name for name, up in (("network-namespace", alone), ("seccomp", filtered)) if up]
    notes = list(tried)
    if opened:
        notes.append(f"can still make sockets of {', '.join(opened)}")
    if not alone:
        notes.append("sees this machine's network interfaces")
    if "NoNewPrivs:\t1" not in status:
        notes.append("may gain privileges")
    return Isolation("+".join(walls) or NONE, tuple(notes))


def can_write(paths: list[Path]) -> list[str]:
    """Return notes on data that this process could change; reading is all that it needs."""
    return [
        f"could write to {path}: mount the data read-only"
        for path in paths
        if os.access(path, os.W_OK)
    ]


def _has_no_network() -> bool:
    """Tell whether loopback is all there is, and it leads nowhere."""
    try:
        lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return False
    return [line.split(":")[0].strip() for line in lines] in ([], ["lo"])


def _leave_network(tried: list[str]) -> None:
    """Move into a network namespace of our own; as a user without rights, by way of a user namespace."""
    libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    first = errno.errorcode.get(ctypes.get_errno(), "?")
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        second = errno.errorcode.get(ctypes.get_errno(), "?")
        tried.append(f"no network namespace: {first}, with a user namespace {second}")
        return
    with contextlib.suppress(OSError):  # the same user inside as outside: files keep their owners
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")


def _filter_sockets() -> bool:
    """Install the seccomp filter: socket(2) for AF_UNIX only, nothing of another architecture."""
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    arch, socket_call, denied = known
    deny = _ERRNO | errno.EPERM
    # struct seccomp_data: nr at 0, arch at 4, args[0] at 16 (little endian: its low half first)
    tail = [(0x15, 0, 1, call) for call in denied]
    program: list[tuple[int, int, int, int]] = [
        (0x20, 0, 0, 4),
        (0x15, 1, 0, arch),
        (0x06, 0, 0, _KILL),
        (0x20, 0, 0, 0),
        (0x35, 0, 1, _X32_BIT),
        (0x06, 0, 0, _KILL),
    ]
    for code, yes, no, value in tail:
        program += [(code, yes, no, value), (0x06, 0, 0, deny)]
    program += [
        (0x15, 0, 3, socket_call),
        (0x20, 0, 0, 16),
        (0x15, 1, 0, socket.AF_UNIX),
        (0x06, 0, 0, deny),
        (0x06, 0, 0, _ALLOW),
    ]
    packed = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(packed)
    header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header))


def _prctl(option: int, value: int, pointer: object = None) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    third = ctypes.c_ulong(0) if pointer is None else pointer
    return bool(libc.prctl(option, ctypes.c_ulong(value), third, 0, 0) == 0)


def _can_open(family: str) -> bool:
    number = getattr(socket, family, None)
    if number is None:
        return False
    kind = socket.SOCK_RAW if family in ("AF_NETLINK", "AF_PACKET") else socket.SOCK_STREAM
    try:
        socket.socket(number, kind).close()
    except OSError:
        return False
    return True
