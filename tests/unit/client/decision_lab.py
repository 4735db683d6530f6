"""A log of decisions with a state and an anchor beside it, and somebody who can write to its tables."""

import datetime as dt
import sqlite3
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_client.log.check import verify_log
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import LOG_FILE, DecisionLog, LogPlace
from solblom_client.state import create_state

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORDER = "sha256:" + "a" * 64


def log_place_in(folder: Path) -> LogPlace:
    """Make the state of a vault, and return where its log will stand."""
    create_state(folder / "vault.sqlite", {})
    anchor = folder / "anchor" / "anchor.json"
    return LogPlace(folder / "log", "north", anchor, folder / "vault.sqlite")


def fill(log: DecisionLog, count: int, *, days: int = 0) -> None:
    """Append so many entries, a minute apart."""
    for number in range(count):
        moment = NOW + dt.timedelta(days=days, minutes=number)
        log.append(Decision("accepted", order=ORDER, round=number + 1), now=moment)


def change(place: LogPlace, sql: str, *values: Any) -> None:
    """Write to the log's file as anybody can who may write to it."""
    database = sqlite3.connect(place.folder / LOG_FILE)
    with database:
        database.execute(sql, values)
    database.close()


def cut(place: LogPlace, keep: int) -> None:
    """Remove the newest entries and their hashes, as somebody would who knows the tables."""
    change(place, "DELETE FROM entries WHERE seq >= ?", keep)
    change(place, "DELETE FROM nodes WHERE (place + 1) << level > ?", keep)


def problems(place: LogPlace) -> tuple[str, ...]:
    """Return what `log verify` finds."""
    return verify_log(place, KEY.public_key()).problems
