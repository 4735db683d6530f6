"""What a person at a hospital should do about a node, seen from beside it: nothing is written, and no log is opened."""

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from solblom_client.outbox.outbox import Outbox
from solblom_client.policy import NodeConfig
from solblom_verify.wording import counted

_REFUSED = re.compile(r"refused (SB-[0-9]{3})")
_WAITS = "SB-219"  # neither yes nor no, and said of itself by the answers that wait
_TIME = re.compile(r"[0-9T:-]{19}Z")
OLDER_SETTINGS = (
    "node.toml has changed since the vault started: no answer leaves by the old one, and the vault opens anew, within "
    "seconds, once the new one has no fault (solblom node check) and no order is at work"
)
TAIL_BYTES = 64 * 1024


def notes_of(config: NodeConfig) -> list[str]:
    """Return what waits for a person, a line each; what this user may not read is left out."""
    found = []
    if has_older_settings(config):
        found.append(OLDER_SETTINGS)
    for look in (_waiting, _refused):
        with contextlib.suppress(OSError):  # the link's user may not look into the state folder
            found += look(config)
    return found


def has_older_settings(config: NodeConfig) -> bool:
    """Tell whether a vault runs that was started before node.toml was last changed.

    It opens itself anew (rules_in_force.py); where that takes long, the new file has a fault or an order is at work.
    """
    place = config.path(config.vault.socket)
    try:
        changed, started = config.path("node.toml").stat().st_mtime, place.stat().st_mtime
        return changed > started and _listens(place)
    except OSError:
        return False


def _listens(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(2.0)
        caller.connect(str(place))
    return True


def _waiting(config: NodeConfig) -> Iterator[str]:
    count = sum(held.status == "waiting" for held in Outbox.of(config).all())
    if count:
        verb = "waits" if count == 1 else "wait"
        yield f"{counted(count, 'answer')} {verb} for a person: solblom node outbox list"


def _refused(config: NodeConfig) -> Iterator[str]:
    """Say that the newest event of the site log is a refusal; its reason is left where it stands."""
    with (config.state / "log" / "vault.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().splitlines()
    try:
        newest = json.loads(lines[-1])
        code = _REFUSED.fullmatch(newest["event"])
        time = newest["time"]
    except (IndexError, ValueError, KeyError, TypeError):
        return
    if code and code[1] != _WAITS and _TIME.fullmatch(time):
        yield f"the last order was refused, {code[1]} at {time}; the reason: solblom node log show"
