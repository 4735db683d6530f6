"""Rounds by file, at the hospital: one pass over the inbox, one sealed reply for each sealed order.

For sites without a network. Who carries the files is nobody's business: they are sealed and signed.
A pass may be repeated, interrupted, or see files twice and in any order; the vault gives the same
work the same bytes. Everything that is not an order for this node is named and left alone.
"""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from solblom_client.link.process import is_paused
from solblom_client.policy import NodeConfig
from solblom_client.vault import Vault
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.messages.mailbox import MailFile, list_mail, read_mail, write_mail
from solblom_protocol.messages.seal import read_header

CARRIER_SECONDS = 3600


@dataclass
class PassReport:
    """What one pass did, by file name. `waiting`: not whole yet; `held`: until a person or the hours allow it."""

    answered: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)  # name → reason


def exchange_once(config: NodeConfig, vault: Vault, *, again: bool = False) -> PassReport:
    """Answer every whole order in the inbox that has not been answered; `again`: those too.

    Raises:
        ConfigurationError: SB-601 a folder is missing or cannot be used; SB-602 the carrier failed.
    """
    vault.end_permits()
    inbox, outbox = _folders(config)
    if is_paused(config):
        report = PassReport()
        report.left_alone = {file.path.name: "paused" for file in list_mail(inbox).mail}
        return report
    _carry(config, config.coordinator.carrier_before, inbox, outbox)
    found, report = list_mail(inbox), PassReport()
    report.left_alone = dict.fromkeys(found.strange, "not named like an order")
    for file in found.mail:
        _answer(config, vault, file, outbox, report, again=again)
    _carry(config, config.coordinator.carrier_after, inbox, outbox)
    return report


def _answer(
    config: NodeConfig,
    vault: Vault,
    file: MailFile,
    outbox: Path,
    report: PassReport,
    *,
    again: bool,
) -> None:
    name, note = file.path.name, config.state / "exchange" / f"{file.digest}.answered"
    if file.answers is not None:
        report.left_alone[name] = "a reply, not an order"
        return
    if note.exists() and not again:
        report.known.append(name)
        return
    sealed = read_mail(file)
    if sealed is None:
        report.waiting.append(name)
        return
    try:
        header = read_header(sealed)
    except IntegrityError:
        report.left_alone[name] = "not a sealed message"
        return
    if header.kind != "order" or header.recipient != vault.recipient:
        report.left_alone[name] = "sealed for another node"
        return
    reply = vault.process(sealed)
    if vault.waits:
        report.held.append(name)  # no file leaves that would say so: the order is asked again here
        return
    write_mail(outbox, reply, answers=file.digest)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch(mode=0o600)
    report.answered.append(name)


def _folders(config: NodeConfig) -> tuple[Path, Path]:
    names = (config.coordinator.inbox, config.coordinator.outbox)
    if names[0] is None or names[1] is None:
        raise ConfigurationError(
            "SB-601", "node.toml names no coordinator.inbox and coordinator.outbox"
        )
    inbox, outbox = (config.path(name) for name in names if name is not None)
    for folder in (inbox, outbox):
        if not folder.is_dir():
            raise ConfigurationError("SB-601", f"{folder} is not a folder")
    return inbox, outbox


def _carry(config: NodeConfig, command: tuple[str, ...], inbox: Path, outbox: Path) -> None:
    """Run the site's own command that fetches or delivers files; no shell, no words of ours in it.

    Raises:
        ConfigurationError: SB-602, it could not be run, failed, or took over an hour.
    """
    if not command:
        return
    environment = os.environ | {"SOLBLOM_INBOX": str(inbox), "SOLBLOM_OUTBOX": str(outbox)}
    try:
        done = subprocess.run(  # noqa: S603 - the hospital's own command, from its own node.toml
            [str(config.path(command[0])) if "/" in command[0] else command[0], *command[1:]],
            env=environment,
            check=False,
            timeout=CARRIER_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            "SB-602", f"The carrier {command[0]} could not be run: {type(error).__name__}"
        ) from None
    if done.returncode != 0:
        raise ConfigurationError(
            "SB-602", f"The carrier {command[0]} ended with status {done.returncode}"
        )
