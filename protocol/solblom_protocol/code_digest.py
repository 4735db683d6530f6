"""The identity of the installed code: one digest over every source file of the parts that touch patient data.

A hospital approves a study together with this digest; code that changed since then refuses to train
(SB-211).
"""

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from solblom_verify.canonical import canonical_json, digest

NODE_PARTS = ("solblom_verify", "solblom_protocol", "solblom_models", "solblom_client")


def code_digest(packages: Iterable[str] = NODE_PARTS) -> str:
    """Return the SHA-256 of the canonical list of (package, file, SHA-256 of the file)."""
    entries = [entry for package in sorted(packages) for entry in _files(package)]
    return digest(canonical_json(entries))


def _files(package: str) -> list[list[str]]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return [[package, "not installed", ""]]
    root = Path(spec.origin).parent
    return [
        [package, path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in sorted(root.rglob("*"))
        if path.suffix in (".py", ".toml") and path.is_file()
    ]
