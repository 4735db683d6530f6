"""The filter of system calls, run by a small interpreter of BPF: for both architectures, on any machine."""

import re
import socket
import struct
from pathlib import Path

import pytest

from solblom_client.service.seccomp import ARCHITECTURES, Instruction, denied_calls, filter_program

MACHINES = sorted(ARCHITECTURES)
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050001, 0x80000000
HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}


def run(program: tuple[Instruction, ...], number: int, audit: int, *args: int) -> int:
    """Return what the kernel would: the verdict on one system call."""
    memory = struct.pack("<iIQ6Q", number, audit, 0, *(args + (0,) * (6 - len(args))))
    accumulator = at = 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == 0x20:
            accumulator = int.from_bytes(memory[constant : constant + 4], "little")
        elif code == 0x54:
            accumulator &= constant
        elif code in (0x15, 0x35):
            holds = accumulator == constant if code == 0x15 else accumulator >= constant
            at += yes if holds else no
        elif code == 0x06:
            return constant
        else:
            raise AssertionError(f"unknown operation {code:#x}")


def verdict(machine: str, number: int, *args: int) -> int:
    return run(filter_program(machine), number, ARCHITECTURES[machine].audit, *args)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_only_stream_sockets_of_the_unix_family_are_made(machine: str, call: str) -> None:
    number = getattr(ARCHITECTURES[machine], call)
    allowed = {
        (family, kind)
        for family in range(64)
        for kind in range(16)
        if verdict(machine, number, family, kind) == ALLOW
    }
    assert allowed == {(socket.AF_UNIX, socket.SOCK_STREAM)}


@pytest.mark.parametrize("machine", MACHINES)
def test_flags_beside_the_type_change_nothing(machine: str) -> None:
    number, flags = ARCHITECTURES[machine].socket, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    assert verdict(machine, number, socket.AF_UNIX, socket.SOCK_STREAM | flags) == ALLOW
    assert verdict(machine, number, socket.AF_UNIX, socket.SOCK_DGRAM | flags) == DENY
    assert verdict(machine, number, socket.AF_INET, socket.SOCK_STREAM | flags) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_the_upper_half_of_an_argument_hides_no_family(machine: str) -> None:
    # The kernel takes an int: it sees the lower half only, as the filter must.
    number, high = ARCHITECTURES[machine].socket, 7 << 32
    assert verdict(machine, number, high | socket.AF_INET, socket.SOCK_STREAM) == DENY
    assert verdict(machine, number, high | socket.AF_UNIX, socket.SOCK_STREAM) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_every_denied_call_fails_whatever_its_arguments(machine: str) -> None:
    calls = denied_calls(machine)
    assert {"connect", "ptrace", "io_uring_setup", "bpf", "setns", "mount"} <= set(calls)
    for number in calls.values():
        assert verdict(machine, number) == DENY
        assert verdict(machine, number, 1, 1, 1, 1, 1, 1) == DENY


@pytest.mark.parametrize("machine", MACHINES)
def test_no_other_call_is_touched(machine: str) -> None:
    known = ARCHITECTURES[machine]
    special = {known.socket, known.socketpair, *denied_calls(machine).values()}
    others = [number for number in range(600) if number not in special]
    assert {verdict(machine, number) for number in others} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("audit", [0x40000003, 0x40000028, 0], ids=["i386", "arm", "none"])
def test_a_call_of_another_architecture_kills(machine: str, audit: int) -> None:
    for number in range(600):
        assert run(filter_program(machine), number, audit) == KILL


def test_a_call_of_x32_kills() -> None:
    x32 = 0x40000000
    assert {verdict("x86_64", x32 + number) for number in range(600)} == {KILL}
    assert verdict("x86_64", -1) == KILL  # a number that a tracer would have replaced


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    headers = [path for path in HEADERS[machine] if path.is_file()]
    if not headers:
        pytest.skip("no kernel headers here")
    text = "\n".join(path.read_text(encoding="ascii") for path in headers)
    theirs = {name: int(number) for name, number in re.findall(r"__NR3?_?(\w+)\s+(\d+)", text)}
    known = ARCHITECTURES[machine]
    ours = {**denied_calls(machine), "socket": known.socket, "socketpair": known.socketpair}
    assert {name: theirs.get(name) for name in ours} == ours
