"""The files that a slide is made of, and a digest of all of them."""

import hashlib
from pathlib import Path


def slide_files(path: Path) -> list[Path]:
    """Return a slide's files: MIRAX keeps its pixels in a folder of the same name, DICOM in files beside it."""
    if path.suffix.lower() == ".mrxs":
        return [path, *sorted(p for p in path.with_suffix("").rglob("*") if p.is_file())]
    if path.suffix.lower() == ".dcm":
        return sorted(path.parent.glob(f"*{path.suffix}"))
    return [path]


def slide_digests(path: Path) -> bytes:
    """Return the SHA-256 of each file of a slide, one behind another.

    Raises:
        OSError: one cannot be read.
    """
    found = []
    for file in slide_files(path):
        with file.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "sha256").digest())
    return b"".join(found)
