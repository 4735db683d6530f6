"""The site's own log: JSON lines inside the state folder. Traces live here and nowhere else."""

import datetime as dt
import json
import os
import traceback
from pathlib import Path
from typing import Any

from solblom_protocol.messages import timestamp


class SiteLog:
    """Append-only JSON lines. Never crosses the hospital's boundary."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, *, now: dt.datetime, **facts: Any) -> None:
        """Append one event with its facts."""
        line = {"time": timestamp(now), "event": event, **facts}
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._path, "a", encoding="utf-8", opener=_private) as file:
            file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")

    def write_failure(self, event: str, error: BaseException, *, now: dt.datetime) -> None:
        """Append an event with the full trace of an error."""
        trace = "".join(traceback.format_exception(error))
        self.write(event, now=now, error=type(error).__name__, trace=trace)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
