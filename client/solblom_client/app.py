"""The Flower ClientApp: a thin door. Sealed bytes in, sealed bytes out; it reads neither."""

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import cast

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from solblom_client.vault import Vault

app = ClientApp()


_changes: Counter[str] = Counter()  # how often the rules of a node have changed


def open_vault(path: str) -> Vault:
    """Open a vault once per process, and again when its hospital has changed the rules."""
    return _opened(path, _changes[path])


def forget_vaults() -> None:
    """Forget the vaults of this process: whoever asks next opens them anew."""
    _opened.cache_clear()


@lru_cache(maxsize=256)
def _opened(path: str, change: int) -> Vault:
    return Vault.open(Path(path))


def _vault_of_today(path: str) -> Vault:
    """Return a node's vault by the rules of now; the other nodes of this process keep theirs."""
    if open_vault(path).rules.others_are_ready:
        _changes[path] += 1
    return open_vault(path)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Pass the sealed order to the vault of `node-config` and return its sealed reply."""
    try:
        # Not through `array_records`: that view is a cycle, and would hold the order's bytes on.
        sealed = cast(ArrayRecord, message.content["solblom"])["sealed"].data
        reply = _vault_of_today(str(context.node_config["node-config"])).process(sealed)
    except Exception:
        # Stock Flower sends an exception's text to the server; a code is all that may leave.
        return Message(Error(code=0, reason="SB-214"), reply_to=message)
    array = Array(dtype="uint8", shape=(len(reply),), stype="solblom.sealed", data=reply)
    content = RecordDict({"solblom": ArrayRecord({"sealed": array})})
    return Message(content, reply_to=message)
