"""The stop button on a real vault's process: a long training ends, the ledger is right, and the node goes on later."""

import time
from collections.abc import Iterator

import pytest

from security.test_vault_process import Asked, Node, in_the_loss
from solblom_client.pausing import pause, resume
from solblom_protocol.result import Refusal, Result
from vault_process import hospital_of_today, running_vault, short_folder


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
