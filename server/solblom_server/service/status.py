"""What the coordinator's service says of itself, for commands that must start fast."""

import contextlib
import fcntl
import json
from pathlib import Path
from typing import Any

STATUS_FILE = "service.json"
LOCK_FILE = "service.lock"


def service_status(home: Path) -> dict[str, Any] | None:
    """Return what a living service says of itself; None when none runs."""
    path = home / LOCK_FILE
    if not path.is_file():
        return None
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return read_status(home)
    return None


def read_status(home: Path) -> dict[str, Any]:
    """Return the status file of a service, living or dead; empty when there is none."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((home / STATUS_FILE).read_text(encoding="ascii"))
        if isinstance(found, dict):
            return found
    return {}
