"""The ClientApp: a code when something fails, and nothing held on to."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from solblom_client.app import app
from solblom_server.transports.grids.local import LocalGrid, LocalNode


@pytest.mark.parametrize("record", ["solblom", "another"])
def test_an_order_is_freed_when_it_was_answered(tmp_path: Path, record: str) -> None:
    gc.collect()
    gc.disable()  # for a few large objects it hardly ever comes by
    held: list[weakref.ref[Any]] = []

    def watched(message: Message, context: Context) -> Message:
        held.append(weakref.ref(message.content[record]))
        return app(message, context)

    grid = LocalGrid({1: LocalNode(watched, {"node-config": str(tmp_path / "node.toml")})})
    array = Array(dtype="uint8", shape=(1,), stype="solblom.sealed", data=b"x")
    content = RecordDict({record: ArrayRecord({"sealed": array})})
    message = grid.create_message(content, "train", 1, "1")
    (reply,) = grid.pull_messages(grid.push_messages([message]))
    gc.enable()
    assert reply.has_error()
    assert reply.error.reason == "SB-214"
    assert held[0]() is None
