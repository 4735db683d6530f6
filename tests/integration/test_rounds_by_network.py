"""Real processes on loopback with TLS: one model whatever carries it, and whoever is killed on the way."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.demo_run import Solblom
from integration.test_rounds_by_file import Desk, enrol, write_study
from network_lab import NetworkLab, running
from solblom_server.coordinator import Coordinator
from solblom_server.settings import free_port

CHANGES = {
    "training": {"rounds": 3},
    "cohort": {"min_nodes": 2, "quorum": 2, "deadline_minutes": 3},
}
SITES = ("north", "south")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NetworkLab, str]]:
    lab = NetworkLab(tmp_path_factory.mktemp("net") / "home", sites=SITES, changes=CHANGES)
    with running(lab):
        run = lab.start_run()
        assert lab.wait(run).status == "completed"
        yield lab, run


def test_a_run_over_the_network_gives_the_same_model_as_one_in_a_single_process(
    undisturbed: tuple[NetworkLab, str], tmp_path: Path, solblom: Solblom
) -> None:
    network, run = undisturbed
    local = NetworkLab(tmp_path / "home", sites=SITES, changes=CHANGES)
    local.create()
    try:
        name = local.start_run("local")
        done = solblom("run", "resume", name, "--home", str(local.home))
        assert done.exit_code == 0, done.stderr
        assert local.digest(name) == network.digest(run) is not None
    finally:
        local.close()


def test_hospitals_cosign_the_log_over_the_network_and_again_when_they_are_asked(
    undisturbed: tuple[NetworkLab, str],
) -> None:
    lab, run = undisturbed
    log = Coordinator.open(lab.home).log()
    try:
        (first,) = log.cosigned_sizes()
        assert set(log.cosigners(first)) == set(SITES)
        assert log.size() == first + 1  # the run has ended since
        lab.database.set_status(run, "witnessing")
        ends = time.monotonic() + 120
        while lab.database.status(run) == "witnessing" and time.monotonic() < ends:
            lab.look_after()
            time.sleep(0.2)
        assert lab.database.status(run) == "completed"
        assert set(log.cosigners(first + 1)) == set(SITES)
    finally:
        log.close()


def test_every_part_may_be_killed_and_the_run_ends_in_the_same_model(
    undisturbed: tuple[NetworkLab, str], tmp_path: Path
) -> None:
    lab = NetworkLab(tmp_path / "home", sites=SITES, changes=CHANGES)
    with running(lab):
        run = lab.start_run()
        for closed, part in ((0, "vault north"), (1, "superlink"), (2, "link south")):
            lab.wait_for_rounds(run, closed)
            if closed == 0:
                wait_for_order(lab)
            os.kill(lab.pids()[part], signal.SIGKILL)
        row = lab.wait(run)
        assert (row.status, row.reason) == ("completed", None)
        assert lab.digest(run) == undisturbed[0].digest(undisturbed[1])
        assert lab.charges() == {"north": 3, "south": 3}


def wait_for_order(lab: NetworkLab) -> None:
    """Wait until a hospital's link has taken an order."""
    status, ends = lab.home / "sites/north/link/status.json", time.monotonic() + 60
    while time.monotonic() < ends:
        if status.is_file() and json.loads(status.read_text())["orders"]:
            return
        time.sleep(0.02)
    raise TimeoutError("No order arrived")


def test_hospitals_join_by_network_and_by_file_with_the_commands_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    desk = Desk(tmp_path_factory.mktemp("mixed"))
    address = f"127.0.0.1:{free_port()}"
    words = ("--name", "nordic", "--address", address, "--listen", address)
    desk.run("coordinator", "init", "federation", *words)
    desk.run("study", "keygen", "researcher")
    enrol(desk, "north")
    enrol(desk, "south", "--by-file")
    write_study(desk)
    home = ("--home", "federation")
    started = [
        desk.start("coordinator", "start", *home),
        desk.start("node", "start", "--node", "north"),
    ]
    run = desk.start(
        "study", "start", "study/study.toml", "--transport", "network", *home, "--json"
    )
    started.append(run)
    try:
        ends = time.monotonic() + 150
        while run.poll() is None and time.monotonic() < ends:
            carry_south(desk)
            time.sleep(0.2)
        out, error = run.communicate(timeout=10)
        assert run.returncode == 0, error
        status = json.loads(desk.run("coordinator", "status", *home, "--json"))
        assert {n["site"]: n["route"] for n in status["nodes"]} == {
            "north": "network",
            "south": "files",
        }
        assert status["nodes"][0]["online"] is True
        assert "connected" in desk.run("node", "status", "--node", "north")
        model = json.loads(out)["model"]["path"]
        trust = ("--trust", "federation/trust.json")
        assert json.loads(desk.run("model", "verify", model, *trust, "--json"))["ok"] is True
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=60)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def carry_south(desk: Desk) -> None:
    """Carry files for the hospital without a network, and let it answer."""
    exchange = desk.folder / "federation/exchange/south"
    inbox, outbox = desk.folder / "south/inbox", desk.folder / "south/outbox"
    for file in exchange.glob("orders/[0-9a-f]*"):
        shutil.copy(file, inbox / file.name)
    if any(inbox.iterdir()):
        desk.run("node", "exchange", "south")
        for file in inbox.iterdir():
            file.unlink()
    for file in outbox.glob("[0-9a-f]*"):
        shutil.copy(file, exchange / "replies" / f".{file.name}")
        (exchange / "replies" / f".{file.name}").rename(exchange / "replies" / file.name)
        file.unlink()
