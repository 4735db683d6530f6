"""The site's own log: JSON lines inside the state folder. Traces live here and nowhere else.

Anybody on the way can send garbage, and replay what was sent before. So what repeats is written once
an hour, and counted: the log grows with charges and with hours, not with messages.
"""

import datetime as dt
import json
import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solblom_protocol.messages.message import timestamp

MOST_KINDS = 20  # of repeating events in an hour; what comes after them is counted together


class SiteLog:
    """Append-only JSON lines. Never crosses the hospital's boundary."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hour_path = path.with_name("repeated.json")

    def write(self, event: str, *, now: dt.datetime, **facts: Any) -> None:
        """Append one event with its facts."""
        line = {"time": timestamp(now), "event": event, **facts}
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._path, "a", encoding="utf-8", opener=_private) as file:
            file.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")

    def write_once_an_hour(
        self, event: str, *, now: dt.datetime, kind: str = "", **facts: Any
    ) -> None:
        """Append an event that anybody may cause again and again; the same `kind` again is counted.

        The next such event after the hour first says how often each kind was left out.
        """
        hour = self._read_hour()
        if hour.name != timestamp(now)[:13]:
            self._write_counts(hour, now)
            hour = _Hour(timestamp(now)[:13])
        name = f"{event}: {kind}"
        if name not in hour.counts and len(hour.counts) >= MOST_KINDS:
            name = "others"
        hour.counts[name] = hour.counts.get(name, 0) + 1
        if hour.counts[name] == 1 and name != "others":
            self.write(event, now=now, **facts)
        self._write_hour(hour)

    def write_failure(
        self, event: str, error: BaseException, *, now: dt.datetime, known_sender: bool
    ) -> None:
        """Append an event with the full trace of an error, once an hour for each kind of failure.

        The text of an error about a message whose sender is not known may be the sender's own: there
        every text is one kind.
        """
        trace = "".join(traceback.format_exception(error))
        name = type(error).__name__
        kind = f"{name}: {error}"[:500] if known_sender else name
        self.write_once_an_hour(event, now=now, kind=kind, error=name, trace=trace)

    def _write_counts(self, hour: "_Hour", now: dt.datetime) -> None:
        for name, count in hour.counts.items():
            left_out = count if name == "others" else count - 1
            if left_out:
                self.write("repeated", now=now, what=name, times=left_out, hour=f"{hour.name}Z")

    def _read_hour(self) -> "_Hour":
        try:
            value = json.loads(self._hour_path.read_bytes())
            return _Hour(str(value["hour"]), {str(k): int(n) for k, n in value["counts"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return _Hour("")

    def _write_hour(self, hour: "_Hour") -> None:
        partial = self._hour_path.with_suffix(".partial")
        with open(partial, "w", encoding="utf-8", opener=_private) as file:
            json.dump({"hour": hour.name, "counts": hour.counts}, file, ensure_ascii=False)
        partial.replace(self._hour_path)


@dataclass
class _Hour:
    """How often each kind of event came in one hour (UTC)."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
