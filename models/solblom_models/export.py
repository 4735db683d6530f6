"""A verified model in another form: its ONNX file, its card, or the whole artefact as one RO-Crate. No torch.

What is written is what was verified: each file is compared with the signed statement once more as it is read.
"""

import base64
import contextlib
import os
import zipfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from solblom_protocol.errors import ConfigurationError, IntegrityError, RunError
from solblom_protocol.keys.key_files import write_new
from solblom_verify.canonical import digest, file_digest, parse_canonical

ATTESTATION = "attestations/model.dsse.json"
BESIDE = frozenset({ATTESTATION, "log/checkpoint.txt", "log/inclusion.json"})
"""Files that no statement names: they vouch for the others, and some come later."""
ONNX, CARD = "model/model.onnx", "README.md"
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


class Form(StrEnum):
    """What a model may be written as."""

    ONNX = "onnx"
    RO_CRATE = "ro-crate"
    CARD = "card"


def export_model(folder: Path, form: Form, out: Path) -> tuple[str, int]:
    """Write a model, just verified, into a new file; return the file's digest and its bytes.

    Raises:
        ConfigurationError: SB-113, the file exists; SB-101, it cannot be written.
        IntegrityError: SB-405, a file changed after it was verified.
        RunError: SB-431, the model has no ONNX file.
    """
    subjects = signed_files(folder)
    try:
        if form is Form.RO_CRATE:
            _write_zip(folder, subjects, out)
        else:
            name = ONNX if form is Form.ONNX else CARD
            if name not in subjects:
                raise RunError("SB-431", f"{folder.name} has no ONNX file: {_why_not(folder)}")
            write_new(out, _read(folder, name, subjects), mode=0o644)
    except OSError as error:
        raise ConfigurationError("SB-101", f"{out} cannot be written: {error.strerror}") from None
    return file_digest(out)


def signed_files(folder: Path) -> Mapping[str, str]:
    """Return what the statement names: path → digest. Its signature is checked by who verifies, not here."""
    try:
        envelope: Any = parse_canonical((folder / ATTESTATION).read_bytes())
        statement: Any = parse_canonical(base64.b64decode(envelope["payload"]))
        return {s["name"]: f"sha256:{s['digest']['sha256']}" for s in statement["subject"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise IntegrityError("SB-405", f"{ATTESTATION} changed after it was verified") from None


def _read(folder: Path, name: str, subjects: Mapping[str, str]) -> bytes:
    data = (folder / name).read_bytes()
    if name not in BESIDE and digest(data) != subjects.get(name):
        raise IntegrityError("SB-405", f"{name} changed after it was verified")
    return data


def _why_not(folder: Path) -> str:
    try:
        record: Any = parse_canonical((folder / "model/equivalence.json").read_bytes())
        return str(record["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "it was made by an earlier version"


def _write_zip(folder: Path, subjects: Mapping[str, str], out: Path) -> None:
    """Write all files, in order, without times and compression: the same artefact gives the same zip everywhere."""
    names = sorted(subjects.keys() | {name for name in BESIDE if (folder / name).is_file()})
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise ConfigurationError("SB-113", f"{out} exists already") from None
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as crate:
            for name in names:
                entry = zipfile.ZipInfo(name, _MOMENT)
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, a plain file
                crate.writestr(entry, _read(folder, name, subjects))
    except BaseException:
        with contextlib.suppress(OSError):
            out.unlink()  # half a crate is none
        raise
