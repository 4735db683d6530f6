"""Wheels as components: what the metadata inside each says, without installing it."""

import zipfile
from collections.abc import Iterable
from importlib.metadata import PathDistribution
from pathlib import Path

from packaging.utils import canonicalize_name

from solblom_models.artefact_files.lock import Component, component_of, needs_of
from solblom_protocol.errors import IntegrityError


def wheel_components(wheels: Iterable[Path]) -> tuple[Component, ...]:
    """Return a component for each wheel, sorted by name; each needs only what is among them.

    `record` is what an installation of the wheel has too (see `lock.py`), so the lock of a machine that installed
    it can be compared.

    Raises:
        IntegrityError: SB-405, a file is no wheel.
    """
    found = {}
    for path in wheels:
        try:
            distribution = _distribution(path)
            found[canonicalize_name(distribution.metadata["Name"])] = distribution
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            raise IntegrityError("SB-405", f"{path.name} is no wheel that can be read") from None
    return tuple(
        component_of(
            name,
            found[name],
            code=None,
            needs=tuple(sorted(needs_of(found[name], extras=False) & found.keys())),
        )
        for name in sorted(found)
    )


def _distribution(path: Path) -> PathDistribution:
    archive = zipfile.ZipFile(path)
    folders = {name.partition("/")[0] for name in archive.namelist()}
    metadata = [name for name in folders if name.endswith(".dist-info")]
    if len(metadata) != 1:
        raise ValueError("a wheel has one folder of metadata")
    return PathDistribution(zipfile.Path(archive, f"{metadata[0]}/"))
