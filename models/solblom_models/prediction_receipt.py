"""What a prediction leaves behind, so that it can be looked up later: which model, which input, which answer.

The input itself stays with whoever predicted. Its digest is keyed: a case has few enough findings that a plain digest
could be undone by trying them all.
"""

import datetime as dt
import hashlib
import hmac
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from solblom_models.artefact import LoadedModel
from solblom_models.recalibration import RecalibrationFile
from solblom_protocol.code_digest import code_digest
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.key_files import read_secret, write_new
from solblom_protocol.messages.message import as_json, timestamp
from solblom_verify.canonical import canonical_json, digest

KEY_BYTES = 32
PACKAGES = ("solblom-models", "torch", "numpy")
PARTS = ("solblom_models", "solblom_protocol", "solblom_verify")


def receipt_key(path: Path) -> bytes:
    """Return the key of the inputs' digests; a new file gets a new one that only its owner can read.

    Raises:
        ConfigurationError: the file holds no such key.
    """
    if not path.exists():
        write_new(path, os.urandom(KEY_BYTES))
    return read_secret(path, length=KEY_BYTES)


def prediction_receipt(
    model: LoadedModel,
    *,
    artefact: str,
    ref: str,
    inputs: bytes,
    outputs: Any,
    recalibration: RecalibrationFile | None,
    key: bytes,
    warnings: Sequence[str],
    now: dt.datetime,
) -> dict[str, Any]:
    """Return the receipt of one prediction.

    Args:
        model: that predicted.
        artefact: its digest, after it was verified.
        ref: its name and version.
        inputs: the input's bytes as they were read.
        outputs: JSON that was shown.
        recalibration: the hospital's own, if one was used.
        key: of the digests of input and recalibration.
        warnings: that were shown beside it.
        now: the present moment.
    """
    if len(key) != KEY_BYTES:
        raise ConfigurationError("SB-103", f"A receipt's key has {KEY_BYTES} bytes, not {len(key)}")
    return {
        "schema": "solblom.prediction/1",
        "model": artefact,
        "ref": ref,
        "study": model.document.digest,
        "contract": digest(canonical_json(as_json(model.contract))),
        "code": code_digest(PARTS),
        "runtime": runtime(),
        "input": keyed_digest(key, inputs),
        "recalibration": None
        if recalibration is None
        else keyed_digest(key, recalibration.payload()),
        "output": digest(canonical_json(outputs)),
        "use": "research",
        "warnings": list(warnings),
        "created": timestamp(now),
    }


def keyed_digest(key: bytes, data: bytes) -> str:
    """Return a digest that only the key's owner can make, so that few possible inputs cannot be tried."""
    return "hmac-sha256:" + hmac.new(key, data, hashlib.sha256).hexdigest()


def runtime() -> dict[str, Any]:
    """Return what runs a prediction here: Python and the packages that decide its digits."""
    from importlib.metadata import version

    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "packages": packages}
