"""The checkpoint that an artefact carries, and which entries of the log are about it.

Read from log/checkpoint.txt and log/inclusion.json. That they hold is the verifier's word; here they are only shown.
"""

from dataclasses import dataclass
from typing import Any

from solblom_server.steward.artefact_files import ArtefactFiles

CHECKPOINT, INCLUSION = "log/checkpoint.txt", "log/inclusion.json"


@dataclass(frozen=True)
class LogView:
    """A checkpoint and what it covers of this artefact."""

    origin: str
    size: int
    root: str
    signers: tuple[str, ...]  # names beside the signatures, the log's own first
    entries: tuple[tuple[int, str, str], ...]  # index, kind, time


def log_view(files: ArtefactFiles) -> LogView | None:
    """Return the checkpoint that the artefact carries; None where it carries none."""
    note = files.text(CHECKPOINT)
    if note is None:
        return None
    lines = note.splitlines()
    if len(lines) < 3 or not lines[1].isdecimal():
        return None
    signers = tuple(line.split(" ")[1] for line in lines if line.startswith("\u2014 "))
    entries = tuple(
        (int(e["index"]), str(e["entry"].get("kind", "")), str(e["entry"].get("time", "")))
        for e in _entries(files)
    )
    return LogView(lines[0], int(lines[1]), lines[2], signers, entries)


def _entries(files: ArtefactFiles) -> list[dict[str, Any]]:
    inclusion = files.json(INCLUSION)
    return [] if inclusion is None else list(inclusion["entries"])
