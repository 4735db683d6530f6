"""What an artefact keeps so that anybody can replay it (grade A), and under which names. Needs numpy only.

With local noise every update as it arrived, with shared noise the opened sum of every round; nothing where epsilon
is off (privacy.md rule 10). Names are the same in the run's folder and in the artefact.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from solblom_protocol.errors import IntegrityError
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import file_digest

GRADE_A = "A"
INITIAL = "training/initial.bin"  # flat little-endian float32 before round 1
UPDATES, SUMS = "training/updates", "training/sums"


def update_name(number: int, site: str) -> str:
    """Return where a hospital's update of a round stands: the bytes whose SHA-256 its receipt names."""
    return f"{UPDATES}/{number:03d}-{site}.bin"


def sum_name(number: int) -> str:
    """Return where the opened sum of a masked round stands, little-endian int64."""
    return f"{SUMS}/{number:03d}.bin"


@dataclass(frozen=True)
class KeptFile:
    """A file in the run's folder: `digest` is `sha256:…` of its bytes."""

    path: Path
    digest: str
    size: int  # bytes


@dataclass(frozen=True)
class ReplayFiles:
    """What a finished run kept; as large as its models, so files are copied and never held in memory.

    Attributes:
        grade: `A`, or why nothing is kept.
        files: each file by its name in the artefact. They are the same for the same work.
    """

    grade: str = "not kept: the run handed nothing over"
    files: Mapping[str, KeptFile] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        """Return the digest of each file."""
        return {name: kept.digest for name, kept in self.files.items()}

    def copy_into(self, folder: Path) -> None:
        """Copy all files to their names in an artefact.

        Raises:
            IntegrityError: SB-405, one has changed since it was compared.
        """
        for name, kept in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept.path, target)
            if file_digest(target)[0] != kept.digest:
                raise IntegrityError("SB-405", f"{name} has changed in the run's folder")


def why_not_kept(document: StudyDocument) -> str | None:
    """Return why a study keeps nothing for replay; None where it does."""
    if document.study.privacy.epsilon == "off":
        return "not kept: epsilon is off, and updates without noise are not stored"
    if document.study.training.keep_updates is None:
        return "not kept: the study was signed before it could say so"
    if not document.study.training.keep_updates:
        return "not kept: the study says keep_updates = false"
    return None
