"""One decision of a person, put into the log by a command that ends afterwards."""

import datetime as dt

from solblom_client.keys import NodeKeys
from solblom_client.log.decision import Decision
from solblom_client.log.decision_log import open_decisions
from solblom_client.policy import NodeConfig


def log_once(config: NodeConfig, keys: NodeKeys, decision: Decision, *, now: dt.datetime) -> None:
    """Put a decision on disk.

    Raises:
        IntegrityError: SB-406.
    """
    log = open_decisions(config, keys)
    try:
        log.append(decision, now=now)
    finally:
        log.close()
