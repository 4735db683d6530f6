"""The Flower ClientApp: a thin door. Sealed bytes in, sealed bytes out; it reads neither."""

from functools import lru_cache
from pathlib import Path
from typing import cast

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from solblom_client.vault import Vault

app = ClientApp()


@lru_cache(maxsize=256)
def open_vault(path: str) -> Vault:
    """Open a vault once per process, and again when its hospital has changed the rules."""
    return Vault.open(Path(path))


def _vault_of_today(path: str) -> Vault:
    if open_vault(path).rules.others_are_ready:
        open_vault.cache_clear()
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
