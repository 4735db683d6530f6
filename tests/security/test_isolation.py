"""A process that was cut off tries to get out: each attempt runs in a process of its own and must fail."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from solblom_client.service import isolation
from solblom_client.service.isolation import Isolation, require, writable_data
from solblom_client.service.seccomp import denied_calls
from solblom_protocol.errors import ConfigurationError
from vault_process import FULL_LEVEL, reachable_level, short_folder

NOBODY = 65534
BOTH = FULL_LEVEL
BEGIN = """
import ctypes, errno, json, os, resource, socket, subprocess, sys, threading
from pathlib import Path
from solblom_client.service import isolation
said = {}
def tried(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def called(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    return "done" if libc.syscall(number, *arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
"""
ISOLATE = "reached = isolation.isolate(memory_bytes=4 << 30)\n"
END = """
said |= {"level": reached.level, "notes": reached.notes}
print(json.dumps(said))
"""


def in_a_process(after: str, *, before: str = "", under: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a process said that ran `before`, cut itself off, and ran `after`."""
    script = BEGIN + textwrap.dedent(before) + ISOLATE + textwrap.dedent(after) + END
    done = subprocess.run(
        [*under, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module", autouse=True)
def machine_that_grants_both_walls() -> None:
    """These tests need what a hospital's machine would grant."""
    if reachable_level() != BOTH:
        pytest.skip(f"this machine grants {reachable_level()}")


AS_NOBODY = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
USERS = [
    pytest.param("", id="as-the-test-user"),
    pytest.param(
        AS_NOBODY,
        id="as-nobody",
        marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    ),
]


# --- What cannot be done any more


@pytest.mark.parametrize("become", USERS)
def test_no_socket_but_a_unix_stream_can_be_made(become: str) -> None:
    said = in_a_process(
        """
        said["families"] = {}
        for family in range(46):
            for kind in (1, 2, 3, 5):
                said["families"][f"{family},{kind}"] = tried(socket.socket, family, kind)
        said["pair"] = tried(socket.socketpair)
        said["datagram_pair"] = tried(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)
        """,
        before=become,
    )
    made = [name for name, outcome in said["families"].items() if outcome == "done"]
    assert made == ["1,1"], "AF_UNIX, SOCK_STREAM"
    assert (said["pair"], said["datagram_pair"]) == ("done", "EPERM")
    assert said["level"] == BOTH


@pytest.mark.parametrize("become", USERS)
def test_its_network_has_no_interface_but_a_loopback_that_is_off(become: str) -> None:
    said = in_a_process(
        """
        said["interfaces"] = sorted(isolation._interfaces())
        said["routes"] = Path("/proc/self/net/fib_trie").read_text().strip()
        said["up"] = isolation._loopback_is_up()
        """,
        before=become + 'said["before"] = os.readlink("/proc/self/ns/net")\n',
    )
    assert said["interfaces"] == ["lo"]
    assert (said["routes"], said["up"]) == ("", False)


@pytest.mark.parametrize("become", USERS)
def test_a_file_keeps_its_owner_and_this_user_stays_who_it_was(become: str) -> None:
    said = in_a_process(
        """
        name = f"/tmp/sv-{os.getpid()}"
        Path(name).touch()
        said["owner"] = os.stat(name).st_uid
        os.unlink(name)
        said["user"], said["group"] = os.geteuid(), os.getegid()
        status = isolation._status()
        said["effective"] = int(status["CapEff"], 16)
        """,
        before=become,
    )
    expected = NOBODY if become else os.geteuid()
    assert said["owner"] == said["user"] == expected
    if become:
        assert said["group"] == NOBODY
        assert said["effective"] == 0, "rights in a user namespace of its own are rights too"


def test_it_cannot_call_another_program(tmp_path: Path) -> None:
    said = in_a_process(
        """
        with socket.socket(socket.AF_UNIX) as caller:
            said["connect"] = tried(caller.connect, f"{folder}/other.sock")
        """,
        before=f"""
        folder = {str(tmp_path)!r}
        os.chdir(folder)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind("other.sock")
        listening.listen()
        """,
    )
    assert said["connect"] == "EPERM"


def test_it_can_still_be_called(tmp_path: Path) -> None:
    said = in_a_process(
        """
        os.chdir(folder)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind("own.sock")
        listening.listen()
        os.write(ready[1], b"x")
        connection, _ = listening.accept()
        said["heard"] = connection.recv(5).decode()
        os.waitpid(child, 0)
        """,
        before=f"""
        folder = {str(tmp_path)!r}
        ready = os.pipe()
        child = os.fork()
        if child == 0:
            os.chdir(folder)
            os.read(ready[0], 1)
            caller = socket.socket(socket.AF_UNIX)
            caller.connect("own.sock")
            caller.sendall(b"hello")
            os._exit(0)
        """,
    )
    assert said["heard"] == "hello"


def test_system_calls_that_lead_out_are_denied() -> None:
    names = denied_calls(os.uname().machine)
    said = in_a_process(
        f"""
        said["calls"] = {{name: called(number, 0, 0, 0, 0, 0) for name, number in {names}.items()}}
        """
    )
    assert set(said["calls"].values()) == {"EPERM"}
    assert len(said["calls"]) == len(names)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86_64")
def test_a_call_by_another_numbering_kills() -> None:
    script = BEGIN + ISOLATE + "called(0x40000000 + 41, 2, 1, 0)"
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode == -31, "SIGSYS"


@pytest.mark.parametrize("how", ["thread", "child", "program"])
def test_what_it_starts_is_cut_off_too(how: str) -> None:
    attempt = "import socket; socket.socket(socket.AF_INET)"
    said = in_a_process(
        f"""
        attempt = {attempt!r}
        if {how!r} == "thread":
            found = []
            thread = threading.Thread(target=lambda: found.append(tried(exec, attempt)))
            thread.start()
            thread.join()
            said["outcome"] = found[0]
        elif {how!r} == "child":
            child = os.fork()
            if child == 0:
                os._exit(7 if tried(exec, attempt) == "EPERM" else 0)
            said["outcome"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            done = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True)
            said["outcome"] = done.stderr.splitlines()[-1]
        """
    )
    expected = {"thread": "EPERM", "child": 7}.get(how)
    if expected is None:
        assert "PermissionError" in said["outcome"]
    else:
        assert said["outcome"] == expected


def test_its_memory_is_dumped_nowhere_and_read_by_nobody() -> None:
    said = in_a_process(
        """
        said["core"] = resource.getrlimit(resource.RLIMIT_CORE)
        said["dumpable"] = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
        said["more"] = tried(resource.setrlimit, resource.RLIMIT_CORE, (0, 0))
        """
    )
    assert (said["core"], said["dumpable"]) == ([0, 0], 0)


def test_memory_and_open_files_have_a_cap() -> None:
    said = in_a_process(
        """
        try:
            bytearray(5 << 30)
        except MemoryError:
            said["memory"] = "refused"
        said["small"] = len(bytearray(1 << 30))
        said["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)
        """
    )
    assert said["memory"] == "refused"
    assert said["small"] == 1 << 30
    assert max(said["files"]) <= isolation.OPEN_FILES


# --- The level is measured, never believed


def lie(name: str, what: str) -> str:
    return f"isolation.{name} = lambda *about: {what}\n"


NO_FILTER = lie("install_filter", "'no filter here'")
NO_NAMESPACE = lie("_unshare", "'Operation not permitted'")
SILENT_FILTER = lie("install_filter", "None")  # says that it worked
SILENT_NAMESPACE = lie("_unshare", "None")


@pytest.mark.parametrize(
    ("before", "level"),
    [
        ("", BOTH),
        (NO_FILTER, "network-namespace"),
        (SILENT_FILTER, "network-namespace"),
        (NO_NAMESPACE, "seccomp"),
        (SILENT_NAMESPACE, "seccomp"),
        (NO_FILTER + NO_NAMESPACE, "none"),
        (SILENT_FILTER + SILENT_NAMESPACE, "none"),
    ],
)
def test_the_level_is_what_was_reached(before: str, level: str) -> None:
    assert in_a_process("", before=before)["level"] == level


def test_notes_say_what_was_tried_and_what_is_still_possible() -> None:
    notes = "; ".join(in_a_process("", before=NO_FILTER + NO_NAMESPACE)["notes"])
    for word in (
        "no network namespace of its own (Operation not permitted)",
        "user namespace",
        "no filter here",
        "AF_INET, AF_INET6",
        "network interfaces",
        "unix sockets",
    ):
        assert word in notes


def test_threads_that_ran_before_are_not_covered_and_the_level_is_none() -> None:
    said = in_a_process(
        "stop.set()",
        before="""
        stop = threading.Event()
        threading.Thread(target=stop.wait).start()
        """,
    )
    assert said["level"] == "none"
    assert "2 threads ran before" in said["notes"][-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the surroundings")
def test_surroundings_without_a_network_count_and_are_named() -> None:
    said = in_a_process("", before=NO_NAMESPACE, under=("unshare", "--net"))
    assert said["level"] == BOTH
    assert "from the start" in said["notes"][0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the surroundings")
def test_a_loopback_that_works_is_named_where_no_filter_stops_it() -> None:
    said = in_a_process("", before=NO_FILTER, under=("unshare", "--net"))
    assert not any("loopback" in note for note in said["notes"][1:])
    up = """
    import fcntl, struct
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1))
    """
    said = in_a_process("", before=NO_FILTER + textwrap.dedent(up), under=("unshare", "--net"))
    assert any("by way of loopback" in note for note in said["notes"])


def test_a_level_of_none_is_refused_with_the_reasons() -> None:
    with pytest.raises(ConfigurationError) as error:
        require(Isolation("none", ("no namespace", "no filter")))
    assert error.value.code == "SB-612"
    assert "no namespace; no filter" in error.value.message
    assert "PrivateNetwork=yes" in error.value.hint
    for level in (BOTH, "network-namespace", "seccomp"):
        require(Isolation(level, ()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_data_that_it_could_change_are_named_by_their_data_set() -> None:
    with short_folder() as home:
        home.chmod(0o755)
        for name in ("open", "replaceable", "safe"):
            (home / name).mkdir()
            (home / name / "patients.csv").write_text("id\n")
        (home / "open" / "patients.csv").chmod(0o666)
        (home / "replaceable").chmod(0o777)
        said = in_a_process(
            f"""
            names = ("open", "replaceable", "safe")
            data = {{name: Path({str(home)!r}) / name / "patients.csv" for name in names}}
            said["data"] = isolation.writable_data(data)
            """,
            before=AS_NOBODY,
        )
    assert len(said["data"]) == 2
    assert "could write to the data set open" in said["data"][0]
    assert "could replace the data set replaceable" in said["data"][1]


def test_data_of_its_own_are_named(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text("id\n")
    notes = writable_data({"cardiology": tmp_path / "patients.csv"})
    assert notes == ["it could write to the data set cardiology; mount it read-only"]
