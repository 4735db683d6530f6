"""What coordinator and node say to each other inside Flower's messages, and the one bundle (FAB) that a run names.

A FAB is what Flower ships code in. Ours holds none: `pyproject.toml` names two components that are
installed on either side already. Both sides build the same bytes, so its SHA-256 is a constant; a
node answers no run with another one, and never fetches or unpacks any.
"""

import hashlib
import io
import zipfile

RECORD = "solblom"
"""The record of a message."""
BODY = "body"
"""A second record, in a large order: the locked model. Flower stores the same bytes to several nodes once."""
SEALED = "sealed"
"""Name of the sealed bytes in an order or a reply: an array, or a plain value where they are small."""
SMALL_BYTES = 4 * 1024**2
"""Up to here sealed bytes travel as a plain value: Flower makes three objects of it, and five of an array."""
ASK = "query"
"""Message type of a question about an order: is it known, at work, answered?"""
ORDER = "train"
"""Message type of an order."""
ORDER_NAME = "order"
"""In a question: the content name of the order's sealed bytes."""
STATE = "state"
"""In the answer to a question: one of STATES."""
STATES = ("unknown", "working", "paused")
"""`unknown`: send the order again. An answered order's reply is sent instead of a state."""

RUN_KEY = "run"
_PYPROJECT = b"""\
[project]
name = "solblom-rounds"
version = "1.0.0"
description = "No code: both components are installed at the coordinator and at the hospitals."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "solblom"

[tool.flwr.app.components]
serverapp = "solblom_server.app:app"
clientapp = "solblom_client.app:app"

[tool.flwr.app.config]
run = ""
"""


def build_fab() -> bytes:
    """Return the bundle without code; the same bytes everywhere (stored, not compressed; a fixed date)."""
    listed = f"pyproject.toml,{hashlib.sha256(_PYPROJECT).hexdigest()},{8 * len(_PYPROJECT)}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in (("pyproject.toml", _PYPROJECT), (".info/CONTENT", listed.encode())):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # otherwise it would tell the operating system of the builder
            file.writestr(entry, content)
    return buffer.getvalue()


FAB_HASH = hashlib.sha256(build_fab()).hexdigest()
"""The only bundle that a node answers to."""
