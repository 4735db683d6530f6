"""A node whose halves are other users' processes: root leaves nothing there, and another user's process is alive."""

import os
import subprocess
import sys

import pytest

from lab import LabHospital
from solblom_client.node import check_user
from solblom_client.policy import load_node_config
from solblom_client.service.start_cli import _is_alive
from solblom_protocol.errors import ConfigurationError

OTHER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to another user needs root")


@needs_root
def test_root_may_not_work_on_the_state_of_another_user(hospital: LabHospital) -> None:
    config = load_node_config(hospital.folder)
    check_user(config)
    os.chown(config.state, OTHER, OTHER)
    with pytest.raises(ConfigurationError) as caught:
        check_user(config)
    assert caught.value.hint == "Put before the command: sudo -u #54321"


def test_a_user_may_work_on_a_state_of_its_own(hospital: LabHospital) -> None:
    check_user(load_node_config(hospital.folder))


def test_a_process_that_has_ended_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not _is_alive(process.pid)
    assert not _is_alive(None)


@needs_root
def test_a_process_of_another_user_is_alive() -> None:
    pid = os.fork()
    if pid == 0:
        os.setresuid(OTHER, OTHER, OTHER)
        os._exit(0 if _is_alive(os.getppid()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
