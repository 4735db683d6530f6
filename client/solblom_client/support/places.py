"""A node's files by the part that they play: kind, mode, owner, and of some a band of the size."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from solblom_client.budget.ledger import STATE_FILE
from solblom_client.link.transport_key import FILE as TRANSPORT_KEY
from solblom_client.log.decision_log import CHECKPOINT_FILE, FOLDER, LOG_FILE
from solblom_client.policy import NodeConfig
from solblom_client.support.report import FewOrMany, Part, StateFile, few_or_many, size_band

Kind = Literal["file", "folder", "socket", "link", "missing", "cannot be looked at", "another"]
SITE_LOG = "vault.jsonl"
MOST_COUNTED = 1000


def look_at_files(config: NodeConfig) -> tuple[tuple[StateFile, ...], FewOrMany | None]:
    """Return the parts of a node, and a band of how many files the state folder holds."""
    files = tuple(_file(part, path, with_size=sized) for part, path, sized in _places(config))
    try:
        count = sum(1 for _ in _some(config.state))
    except OSError:
        return files, None
    return files, few_or_many(count)


def _places(config: NodeConfig) -> Iterator[tuple[Part, Path, bool]]:
    """Give part, path, and whether its size follows rounds and settings alone, not patients."""
    state, link = config.state, config.path(config.link.state)
    socket = config.path(config.vault.socket)
    yield "state folder", state, False
    yield "folder of keys", state / "keys", False
    yield "signing key", state / "keys" / "signing.key", False
    yield "sealing key", state / "keys" / "sealing.key", False
    yield "split key", state / "keys" / "split.key", False
    # Beside the ledger it has a row for each patient of a study by family (docs/adr/0021).
    yield "ledger", state / STATE_FILE, False
    yield "log of decisions", state / FOLDER / LOG_FILE, True
    yield "signed head of the log", state / FOLDER / CHECKPOINT_FILE, True
    yield "site log", state / FOLDER / SITE_LOG, False  # its traces may hold what data hold
    if config.node.anchor is not None:
        yield "anchor", config.path(config.node.anchor), True
    yield "folder of the socket", socket.parent, False
    yield "socket of the vault", socket, False
    yield "folder of the link", link, False
    yield "transport key", link / TRANSPORT_KEY, False
    yield "consent source", config.path(config.consent.source), False
    yield "coordinator's key", config.path(config.coordinator.key), False


def _file(part: Part, path: Path, *, with_size: bool) -> StateFile:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return StateFile(part=part, kind="missing", mode=None, owner=None, size=None)
    except OSError:
        return StateFile(part=part, kind="cannot be looked at", mode=None, owner=None, size=None)
    kind = _kind(info.st_mode)
    return StateFile(
        part=part,
        kind=kind,
        mode=f"{stat.S_IMODE(info.st_mode):04o}",
        owner=_owner(info.st_uid),
        size=size_band(info.st_size) if with_size and kind == "file" else None,
    )


def _kind(mode: int) -> Kind:
    kinds: tuple[tuple[bool, Kind], ...] = (
        (stat.S_ISREG(mode), "file"),
        (stat.S_ISDIR(mode), "folder"),
        (stat.S_ISSOCK(mode), "socket"),
        (stat.S_ISLNK(mode), "link"),
    )
    return next((name for is_so, name in kinds if is_so), "another")


def _owner(user: int) -> Literal["this user", "root", "another"]:
    if user == os.geteuid():
        return "this user"
    return "root" if user == 0 else "another"


def _some(folder: Path) -> Iterator[str]:
    """Give the files below a folder, up to as many as the largest band needs."""
    given = 0
    for _, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            yield name
            given += 1
            if given >= MOST_COUNTED:
                return


def _raise(error: OSError) -> None:
    raise error
