"""A seccomp filter for the vault: unix sockets that can be called but cannot call, and no way into other processes.

The filter is a program of classic BPF that the kernel runs at every system call of this process and
of all that it starts (seccomp(2)). It looks at numbers only, so it can be computed, and tested, for
any architecture on any machine.

What it denies fails with EPERM, as if a user without rights had asked. A call of another architecture
(32-bit calls, x32), where the numbers mean other things, kills the process.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
from dataclasses import dataclass

Instruction = tuple[int, int, int, int]
"""Operation, lines to skip if true, lines to skip if false, constant (struct sock_filter)."""

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL, _DENY = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
# struct seccomp_data: nr, arch, instruction pointer, args[]; the low halves of args on little endian.
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_SOCKET_TYPE_MASK = 0xF  # the rest of socket(2)'s type are flags
_X32_BIT = 0x40000000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # out to other programs of this machine: a name service or a container engine would carry data on
    "connect": (42, 203),
    # into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # system calls by another way, which no filter sees
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # into the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "iopl": (172, None),
    "ioperm": (173, None),
    # out of namespaces, and around the mounts that protect the data
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # of the whole machine
    "acct": (163, 89),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
}
"""Denied system calls: number on x86_64, and on aarch64 (asm/unistd.h of Linux)."""


@dataclass(frozen=True)
class Architecture:
    """What the filter must know of a processor's system calls."""

    audit: int  # AUDIT_ARCH_* of linux/audit.h
    socket: int
    socketpair: int
    column: int  # of `_NUMBERS`
    has_x32: bool


ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, socket=41, socketpair=53, column=0, has_x32=True),
    "aarch64": Architecture(0xC00000B7, socket=198, socketpair=199, column=1, has_x32=False),
}


def denied_calls(machine: str) -> dict[str, int]:
    """Return the numbers of the system calls that fail whatever their arguments."""
    column = ARCHITECTURES[machine].column
    numbers = {name: row[column] for name, row in _NUMBERS.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def filter_program(machine: str) -> tuple[Instruction, ...]:
    """Return the filter for `machine`, a key of ARCHITECTURES."""
    known = ARCHITECTURES[machine]
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if known.has_x32:
        program += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    for number in denied_calls(machine).values():
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _DENY)]
    for number in (known.socket, known.socketpair):
        program += [(_EQUAL, 0, 7, number), *_stream_of_unix()]
    return (*program, (_RETURN, 0, 0, _ALLOW))


def _stream_of_unix() -> tuple[Instruction, ...]:
    """Allow AF_UNIX of type SOCK_STREAM: a datagram socket could send without connecting."""
    return (
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, 0, 4, socket.AF_UNIX),
        (_LOAD, 0, 0, _SECOND),
        (_AND, 0, 0, _SOCKET_TYPE_MASK),
        (_EQUAL, 0, 1, socket.SOCK_STREAM),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    )


def install_filter() -> str | None:
    """Put this thread and all that it starts under the filter, for ever; return why not, or None.

    The process must not be able to gain privileges any more (PR_SET_NO_NEW_PRIVS).
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return f"no seccomp filter is known for {machine}"
    program = b"".join(struct.pack("=HBBI", *line) for line in filter_program(machine))
    lines = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(lines))
    header = ctypes.create_string_buffer(pointer, len(pointer))
    libc = ctypes.CDLL(None, use_errno=True)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    if libc.prctl(_PR_SET_SECCOMP, mode, header, ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0:
        return None
    return f"the kernel took no seccomp filter ({os.strerror(ctypes.get_errno())})"
