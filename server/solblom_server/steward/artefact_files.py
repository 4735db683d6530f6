"""What a verified artefact says. Who asks has a good verdict; what is absent stays absent, never guessed."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from solblom_models.references import registered
from solblom_protocol.errors import IntegrityError, RunError
from solblom_verify.canonical import digest

VERSION = re.compile(r"v([1-9][0-9]{0,8})")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MAX_JSON = 64 * 1024**2
MAX_TEXT = 2 * 1024**2


@dataclass(frozen=True)
class ArtefactFiles:
    """An artefact folder whose every byte was found to be the signed one."""

    folder: Path

    def json(self, path: str) -> Any:
        """Return a JSON file's content; None where the artefact has no such file."""
        data = self._read(path, MAX_JSON)
        try:
            return None if data is None else json.loads(data)
        except (ValueError, RecursionError):
            raise IntegrityError("SB-401", f"{path} of the artefact is no JSON") from None

    def text(self, path: str) -> str | None:
        """Return a text file's content; None where the artefact has no such file."""
        data = self._read(path, MAX_TEXT)
        return None if data is None else data.decode("utf-8", errors="replace")

    def names(self, below: str) -> list[str]:
        """Return the names of the files in a folder of the artefact, sorted."""
        folder = self.folder / below
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_file())

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        value = self.json("manifest.json")
        if not isinstance(value, dict):
            raise IntegrityError("SB-401", "The artefact has no manifest")
        return value

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation report; empty where there is none."""
        value = self.json("evaluation/report.json")
        return value if isinstance(value, dict) else {}

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The privacy statement."""
        value = self.json("privacy/statement.json")
        return value if isinstance(value, dict) else {}

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """The lines of training/rounds.jsonl."""
        text = self._read("training/rounds.jsonl", MAX_JSON) or b""
        return [json.loads(line) for line in text.splitlines() if line]

    @property
    def envelope_digest(self) -> str:
        """Digest of the signed statement over the whole folder."""
        return digest(self._read("attestations/model.dsse.json", MAX_JSON) or b"")

    def _read(self, path: str, most: int) -> bytes | None:
        file = self.folder / path
        if not file.is_file():
            return None
        with file.open("rb") as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise IntegrityError("SB-401", f"{path} of the artefact is larger than the page reads")
        return data


def model_folder(models: Path, name: str, version: str) -> Path:
    """Return the folder of a version in the registry.

    Only a plain name and number make a path, so no request leaves the registry.

    Raises:
        RunError: SB-503, there is none.
    """
    number = VERSION.fullmatch(version)
    folder = models / f"{name}-{version}"
    if number is None or NAME.fullmatch(name) is None or not (folder / "manifest.json").is_file():
        raise RunError("SB-503", f"There is no model {name[:80]}@{version[:20]}")
    return folder


def folders_newest_first(models: Path) -> list[tuple[str, int, Path]]:
    """Return (name, version, folder) of everything in the registry, the highest versions first."""
    return sorted(registered(models), key=lambda found: (-found[1], found[0]))
