"""The identity of the installed code: one digest over every source file of the parts that touch patient data.

A hospital approves a study together with this digest; code that changed since then refuses to train
(SB-211). The versions of the libraries that compute belong to it.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from solblom_verify.canonical import JsonValue, canonical_json, digest

NODE_PARTS = ("solblom_verify", "solblom_protocol", "solblom_models", "solblom_client")
LIBRARIES = ("cryptography", "dp-accounting", "numpy", "opacus", "torch")


def code_digest(packages: Iterable[str] = NODE_PARTS) -> str:
    """Return the SHA-256 of the canonical list of source files and library versions.

    Read once per process: it names the code that the process has loaded, not what an update put
    on disk since.
    """
    return _code_digest(tuple(sorted(set(packages))))


@lru_cache(maxsize=64)
def _code_digest(packages: tuple[str, ...]) -> str:
    entries: list[JsonValue] = [[*entry] for package in packages for entry in _files(package)]
    entries += [["library", name, _version(name)] for name in LIBRARIES]
    return digest(canonical_json(entries))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


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
