"""The files that a slide is made of, and a digest of all of them."""

import hashlib
from pathlib import Path

from solblom_models.slides.dicom_series import series_of


def slide_files(path: Path) -> list[Path]:
    """Return a slide's files, the named one first.

    MIRAX keeps its pixels in a folder of the same name, DICOM in files beside it: those of the same series, as
    OpenSlide takes them whatever their names; where the named file does not tell its series, all `.dcm` beside it.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return [path, *sorted(p for p in path.with_suffix("").rglob("*") if p.is_file())]
    if suffix == ".dcm":
        series = series_of(path)
        beside = sorted(p for p in path.parent.iterdir() if p.name != path.name and p.is_file())
        return [path, *(p for p in beside if _belongs(p, series))]
    return [path]


def slide_digests(path: Path) -> bytes:
    """Return the SHA-256 of each file of a slide, one behind another, the named one first.

    Raises:
        OSError: one cannot be read.
    """
    found = []
    for file in slide_files(path):
        with file.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "sha256").digest())
    return b"".join(found)


def _belongs(file: Path, series: str | None) -> bool:
    return file.suffix.lower() == ".dcm" if series is None else series_of(file) == series
