"""`node pause`: two markers, because vault and link each see their own folder only, and the end of what is at work.

A step of training may take minutes and cannot be interrupted from inside, so the process that works ends:
what is being written is finished, the charge stays, and the order gives the same bytes when it comes again.
A pause is the hospital's own doing and says nothing about patients, so it counts as no refusal.
"""

import contextlib
import datetime as dt
import os
import threading
from collections.abc import Callable, Iterator

from solblom_client.link.process import pause_file
from solblom_client.policy import NodeConfig
from solblom_client.service.opening_hours import vault_pause_file
from solblom_client.site_log import SiteLog
from solblom_client.state import hold_writes
from solblom_protocol.errors import ConfigurationError

PAUSED_STATUS = 75  # EX_TEMPFAIL: whoever supervises starts the process again, and it waits
LOOK_SECONDS = 0.5
LOOKS = 4  # in a row that find an order at work: the refusal of one, while paused, takes less
WRITE_SECONDS = 4.0
"""Together far below the ten seconds within which a pause must have stopped everything."""


def pause(config: NodeConfig) -> list[str]:
    """Let link and vault answer nothing from now on; return what could not be told, in words.

    Raises:
        ConfigurationError: SB-103, this user can tell neither of them.
    """
    missed = []
    for name, path in (("link", pause_file(config)), ("vault", vault_pause_file(config))):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            missed.append(f"the {name} ({error.strerror})")
    if len(missed) == 2:
        raise ConfigurationError(
            "SB-103",
            f"This user cannot pause {' and '.join(missed)}",
            "Put sudo before the command",
        )
    return missed


def resume(config: NodeConfig) -> None:
    """Let both answer again.

    Raises:
        ConfigurationError: SB-103, this user may not.
    """
    for path in (vault_pause_file(config), pause_file(config)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                "SB-103",
                f"{path} cannot be removed: {error.strerror}",
                "Put sudo before the command",
            ) from None


def is_vault_paused(config: NodeConfig) -> bool:
    """Tell whether the vault may not work; a marker that cannot be looked at counts as one."""
    try:
        return vault_pause_file(config).exists()
    except OSError:
        return True


def end_when_paused(
    config: NodeConfig, at_work: Callable[[], bool], ended: threading.Event
) -> None:
    """Watch for a pause; end this process when an order is at work then. Runs in a thread of its own."""
    from solblom_client.budget.ledger import STATE_FILE

    found = 0
    while not ended.wait(LOOK_SECONDS):
        found = found + 1 if at_work() and is_vault_paused(config) else 0
        if found == LOOKS:
            with contextlib.suppress(Exception):
                log = SiteLog(config.state / "log" / "vault.jsonl")
                log.write("stopped-by-pause", now=dt.datetime.now(dt.UTC))
            hold_writes(config.state / STATE_FILE, seconds=WRITE_SECONDS)
            os._exit(PAUSED_STATUS)


@contextlib.contextmanager
def stopped_by_a_pause(config: NodeConfig, at_work: Callable[[], bool]) -> Iterator[None]:
    """Let a pause end this process while the block runs."""
    ended = threading.Event()
    watch = threading.Thread(target=end_when_paused, args=(config, at_work, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
