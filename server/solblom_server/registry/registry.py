"""The registry: versions v1, v2 … of each model, one folder each. Pure file work: no torch, no Flower."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from solblom_protocol.errors import IntegrityError
from solblom_verify.canonical import file_digest


def place(models: Path, name: str, version: int, write: Callable[[Path], str]) -> tuple[Path, str]:
    """Write an artefact beside its place and rename it into it; return (path, digest).

    A crash leaves either nothing or the whole artefact. The same version placed again must have the
    same digest.

    Raises:
        IntegrityError: SB-401, the version exists with other content.
    """
    target = models / f"{name}-v{version}"
    models.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=models))
    try:
        folder = partial / "artefact"
        folder.mkdir()
        artefact = write(folder)
        if not target.exists():
            folder.rename(target)
        elif file_digest(target / "manifest.json")[0] != artefact:
            raise IntegrityError("SB-401", f"{target.name} exists already with other content")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target, artefact
