"""A clock that may not run backwards: dates of orders, approvals, permits and lists mean nothing otherwise.

The newest moment that the node has seen stands in its state file, so a restart forgets nothing. It is noted
for every order of the pinned coordinator, refused ones too: an expired permit cannot be revived by setting
the clock back.
"""

import datetime as dt

from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.message import CLOCK_TOLERANCE, parse_timestamp, timestamp

STEP = dt.timedelta(minutes=1)  # noted no more often: a flood of orders must not flood the disk
_KEY = "clock"


def latest_time(state: VaultState) -> dt.datetime | None:
    """Return the newest moment that this node has seen.

    Raises:
        IntegrityError: SB-402, what is noted is no moment.
    """
    rows = state.query("SELECT value FROM meta WHERE key = ?", (_KEY,))
    if not rows:  # a state of before moments were noted
        rows = [row for row in state.query("SELECT max(seen_at) FROM orders") if row[0] is not None]
    if not rows:
        return None
    try:
        return parse_timestamp(str(rows[0][0]))
    except IntegrityError:
        raise IntegrityError("SB-402", "The newest moment noted is no moment") from None


def pass_clock(state: VaultState, now: dt.datetime) -> None:
    """Stop when the clock is behind what this node has seen; note the moment where it is not.

    Raises:
        RefusedError: SB-206.
    """
    check_clock(state, now)
    note_time(state, now)


def check_clock(state: VaultState, now: dt.datetime) -> None:
    """Stop when the clock is behind what this node has seen.

    Raises:
        RefusedError: SB-206.
    """
    if is_behind(state, now):
        raise RefusedError(
            "SB-206",
            "This node's clock has gone backwards since the newest moment that it has seen",
            "Set this machine's clock. Was it wrong before, and is right now: `solblom node clock --accept`",
        )


def is_behind(state: VaultState, now: dt.datetime) -> bool:
    """Tell whether the clock is behind what this node has seen, by more than clocks differ."""
    latest = latest_time(state)
    return latest is not None and now < latest - CLOCK_TOLERANCE


def accept_clock(state: VaultState, now: dt.datetime) -> None:
    """Take a person's word that the clock is right now: it had been set too far ahead."""
    with state.transaction():
        _set_time(state, now)


def note_time(state: VaultState, now: dt.datetime) -> None:
    """Remember a moment, where it is newer than what was noted."""
    latest = latest_time(state)
    if latest is None or now >= latest + STEP:
        with state.transaction():
            _set_time(state, now)


def _set_time(state: VaultState, now: dt.datetime) -> None:
    state.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, timestamp(now)))
