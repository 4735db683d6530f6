"""A coordinator that changes a finished artefact and signs it anew, so that every digest and signature holds."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.messages.signing import sign_envelope
from solblom_verify.canonical import canonical_json, digest

ATTESTATION = "attestations/model.dsse.json"
Change = Callable[[Any], None]


def sign_anew(folder: Path, key: Ed25519PrivateKey, changes: dict[str, Change]) -> str:
    """Change JSON files of an artefact in place, make manifest and statement fit, and sign; return the new digest."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name, change in changes.items():
        if name == "manifest.json":
            continue
        value = json.loads((folder / name).read_bytes())
        change(value)
        data = canonical_json(value)
        (folder / name).write_bytes(data)
        if name in manifest["files"]:
            hexadecimal = hashlib.sha256(data).hexdigest()
            manifest["files"][name] = {"bytes": len(data), "sha256": hexadecimal}
    changes.get("manifest.json", lambda _: None)(manifest)
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    return sign_again(folder, key)


def sign_again(folder: Path, key: Ed25519PrivateKey) -> str:
    """Sign the files of an artefact as they stand; return its digest."""
    envelope = json.loads((folder / ATTESTATION).read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    outside = (ATTESTATION, "log/checkpoint.txt", "log/inclusion.json")
    names = sorted(
        name
        for path in folder.rglob("*")
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in outside
    )
    statement["subject"] = [
        {"name": n, "digest": {"sha256": hashlib.sha256((folder / n).read_bytes()).hexdigest()}}
        for n in names
    ]
    artefact = digest((folder / "manifest.json").read_bytes())
    statement["predicate"]["artefact"] = artefact
    signed = sign_envelope(canonical_json(statement), envelope["payloadType"], [key])
    (folder / ATTESTATION).write_bytes(signed)
    return artefact
