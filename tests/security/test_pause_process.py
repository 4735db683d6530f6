"""The stop button on a real vault's process: a long training ends, the ledger is right, and the node goes on later."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from security.test_vault_process import Asked, Node, in_the_loss
from solblom_client.service.pausing import pause, resume
from solblom_protocol.messages.mailbox import list_mail, write_mail
from solblom_protocol.messages.result import Refusal, Result
from vault_process import BEGIN, hospital_of_today, running_vault, short_folder


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as folder:
        yield Node(folder, *hospital_of_today(folder))


def test_a_pause_ends_a_long_training_within_ten_seconds_and_the_charge_stays(node: Node) -> None:
    with running_vault(node.folder, hook=in_the_loss("import time; time.sleep(3600)")) as vault:
        order = node.hospital.order(node.study)
        sent = Asked(vault.wait_until_ready(), order)
        vault.wait_for(node.has_reserved)
        time.sleep(1)
        paused = time.monotonic()
        pause(node.hospital.config)
        assert vault.wait() == 75
        took = time.monotonic() - paused
        assert took < 10
        print(f"stopped {took:.1f} s after the pause")
        assert sent.error().code == "SB-611"
    assert node.log()[-1]["event"] == "stopped-by-pause"
    assert node.charges() == ["reserved"]
    assert node.strikes() == 0
    with running_vault(node.folder) as again:
        client = again.wait_until_ready().client
        waiting = node.hospital.read(client.process(order))
        assert isinstance(waiting, Refusal)
        assert waiting.code == "SB-219"  # paused: not even the order that was at work goes on
        resume(node.hospital.config)
        assert isinstance(node.hospital.read(client.process(order)), Result)
        assert again.terminate() == 0
    assert node.charges() == ["spent"]


def test_a_pause_ends_rounds_by_file_too_and_no_reply_lies_in_the_outbox(node: Node) -> None:
    text = node.config.read_text("utf-8")
    folders = 'inbox = "in"\noutbox = "out"\n'
    node.config.write_text(text.replace("[coordinator]\n", f"[coordinator]\n{folders}"), "utf-8")
    for name in ("in", "out"):
        (node.folder / name).mkdir()
    write_mail(node.folder / "in", node.hospital.order(node.study))
    slowly = in_the_loss("import time; time.sleep(3600)")
    process = subprocess.Popen(
        [sys.executable, "-c", slowly + BEGIN, "node", "exchange", str(node.folder)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        ends = time.monotonic() + 120
        while not node.has_reserved() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.1)
        time.sleep(1)
        paused = time.monotonic()
        pause(node.hospital.config)
        assert process.wait(timeout=60) == 75
        assert time.monotonic() - paused < 10
    finally:
        process.kill()
        process.wait(timeout=30)
    assert list_mail(node.folder / "out").mail == ()
    assert node.charges() == ["reserved"]
