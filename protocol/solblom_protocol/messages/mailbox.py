"""Messages as files that anybody may carry: named by their content, written whole, read only when whole.

    <digest>.order                   an order; the digest is that of the file
    <order's digest>.<digest>.reply  a reply, and which order it answers

A copy that has not arrived whole has another digest than its name says, so it waits. The same file
twice is the same name. Nothing is believed because of a name: what is inside is sealed and signed.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.seal import MAX_SEALED_BYTES

MAX_FILES = 10_000
_ORDER = re.compile(r"([0-9a-f]{64})\.order")
_REPLY = re.compile(r"([0-9a-f]{64})\.([0-9a-f]{64})\.reply")


@dataclass(frozen=True)
class MailFile:
    """A file with a message's name. `answers` is the digest of the order's file; None for an order."""

    path: Path
    digest: str
    answers: str | None


@dataclass(frozen=True)
class Mailbox:
    """What lies in a folder: messages by name, and names that are no message's."""

    mail: tuple[MailFile, ...]
    strange: tuple[str, ...]


def content_name(*parts: bytes | memoryview) -> str:
    """Return the name that follows from a message's bytes, in one piece or several: their SHA-256 in hexadecimal."""
    name = hashlib.sha256()
    for part in parts:
        name.update(part)
    return name.hexdigest()


def list_mail(folder: Path) -> Mailbox:
    """Return a folder's messages, oldest first, and the names of everything else but hidden files.

    Raises:
        ConfigurationError: SB-601, the folder cannot be read or holds too many files.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise ConfigurationError("SB-601", f"{folder} cannot be read: {error.strerror}") from None
    if len(names) > MAX_FILES:
        raise ConfigurationError("SB-601", f"{folder} holds {len(names)} files, over {MAX_FILES}")
    shown = [name for name in names if not name.startswith(".")]
    found = {name: _named(folder / name) for name in shown}
    mail = [file for file in found.values() if file is not None]
    strange = tuple(name for name, file in found.items() if file is None)
    return Mailbox(tuple(sorted(mail, key=_age)), strange)


def read_mail(file: MailFile) -> bytes | None:
    """Return a message's bytes; None while they are not those that its name says.

    A link is never followed: whoever writes into the folder must not choose what is read.
    """
    try:
        handle = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as opened:
        kind = os.fstat(opened.fileno())
        if not stat.S_ISREG(kind.st_mode) or kind.st_size > MAX_SEALED_BYTES:
            return None
        data = opened.read(kind.st_size + 1)  # Python sets aside as much as is asked for
    return data if content_name(data) == file.digest else None


def write_mail(folder: Path, data: bytes, *, answers: str | None = None) -> MailFile:
    """Write a message under its name, synced to disk, whole or not at all; the same one again changes nothing.

    Raises:
        ConfigurationError: SB-601, the folder cannot be written.
    """
    name = content_name(data)
    path = folder / (f"{name}.order" if answers is None else f"{answers}.{name}.reply")
    partial = folder / f".{path.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigurationError(
            "SB-601", f"{folder} cannot be written: {error.strerror}"
        ) from None
    return MailFile(path, name, answers)


def _named(path: Path) -> MailFile | None:
    order, reply = _ORDER.fullmatch(path.name), _REPLY.fullmatch(path.name)
    if order:
        return MailFile(path, order[1], None)
    return MailFile(path, reply[2], reply[1]) if reply else None


def _age(file: MailFile) -> tuple[float, str]:
    try:
        return file.path.lstat().st_mtime, file.path.name
    except OSError:
        return 0.0, file.path.name
