"""When a node works: never while it is paused, and within `policy.hours` where the hospital names them."""

import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

from solblom_client.policy import NodeConfig, PolicyTable
from solblom_protocol.errors import RefusedError

VAULT_PAUSE_FILE = "paused"


class WaitingError(RefusedError):
    """Neither yes nor no yet: the coordinator asks again. Says the same whatever the data, so it costs nothing."""

    def __init__(self, message: str) -> None:
        super().__init__("SB-219", message)


def vault_pause_file(config: NodeConfig) -> Path:
    """Return the marker that pauses the vault: it cannot see the link's, which lies in the link's own folder."""
    return config.state / VAULT_PAUSE_FILE


def is_open(policy: PolicyTable, now: dt.datetime) -> bool:
    """Tell whether a moment lies within policy.hours; they may go past midnight, and end before their last minute.

    The clock on the wall counts: in the night that summer time begins, an hour of it does not exist.
    """
    if policy.hours is None:
        return True
    begins, ends = policy.hours.split("-")
    wall = now.astimezone(ZoneInfo(policy.time_zone)).strftime("%H:%M")
    if begins <= ends:
        return begins <= wall < ends
    return wall >= begins or wall < ends


def check_open(config: NodeConfig, now: dt.datetime) -> None:
    """Refuse to work while the node is paused or its hours have not begun.

    Raises:
        WaitingError: SB-219.
    """
    if vault_pause_file(config).exists():
        raise WaitingError("The node is paused: solblom node resume")
    if not is_open(config.policy, now):
        raise WaitingError(
            f"Orders are worked on at {config.policy.hours} ({config.policy.time_zone})"
        )
