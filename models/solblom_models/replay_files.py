"""What an artefact keeps so that anybody can replay it (grade A), and under which names. Needs numpy only.

With local noise every update as it arrived, with shared noise the opened sum of every round; nothing where epsilon
is off (privacy.md rule 10). Names are the same in the run's folder and in the artefact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from solblom_protocol.study import StudyDocument

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
class ReplayFiles:
    """What a finished run kept.

    Attributes:
        grade: `A`, or why nothing is kept.
        files: each file by its name in the artefact.
    """

    grade: str
    files: Mapping[str, Path] = field(default_factory=dict)


def why_not_kept(document: StudyDocument) -> str | None:
    """Return why a study keeps nothing for replay; None where it does."""
    if document.study.privacy.epsilon == "off":
        return "not kept: epsilon is off, and updates without noise are not stored"
    if document.study.training.keep_updates is None:
        return "not kept: the study was signed before it could say so"
    if not document.study.training.keep_updates:
        return "not kept: the study says keep_updates = false"
    return None
