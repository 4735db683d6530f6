"""The identity of the installed code: one digest over every file of the parts that touch patient data.

A hospital approves a study together with this digest; code that changed since then refuses to train
(SB-211). The versions of the libraries that compute belong to it. Every file counts, whatever its
name: source, compiled code, and data that code may read. Only Python's own caches are left out,
since they follow from the source beside them; one that Python would load without looking at that
source counts (PEP 552).
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from solblom_protocol.errors import ConfigurationError
from solblom_verify.canonical import JsonValue, canonical_json, digest

NODE_PARTS = ("solblom_verify", "solblom_protocol", "solblom_models", "solblom_client")
_CACHE_NAME = re.compile(r".+\.[^.]+\.pyc(\.[0-9]+)?")  # digits: while it is written
_UNCHECKED = b"\x01\x00\x00\x00"  # flags of a cache that Python runs without looking at the source
LIBRARIES = ("cryptography", "dp-accounting", "numpy", "opacus", "torch")


def code_digest(packages: Iterable[str] = NODE_PARTS) -> str:
    """Return the SHA-256 of the canonical list of files and library versions.

    A package may be a regular one, a namespace package (all its folders count) or a single module.
    Read once per process: it names the code that the process has loaded, not what an update put
    on disk since.

    Raises:
        ConfigurationError: SB-114, the code is not in plain files.
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


def _files(package: str) -> Iterator[list[str]]:
    spec = _spec(package)
    if spec is None:
        yield [package, "not installed", ""]
        return
    # A package may have added folders to its own path since it was found.
    folders = getattr(sys.modules.get(package), "__path__", spec.submodule_search_locations)
    if folders is None:
        yield [package, "module", _file_digest(package, Path(spec.origin or package))]
        return
    for folder in map(Path, folders):  # in the order in which Python looks
        for path in sorted(_walk(package, folder)):
            yield [package, path.relative_to(folder).as_posix(), _file_digest(package, path)]


def _spec(package: str) -> ModuleSpec | None:
    try:
        return find_spec(package)
    except ValueError:  # a module that was made by hand, such as one typed into an interpreter
        raise _refusal(package, "it was not imported from a file") from None


def _walk(package: str, folder: Path) -> Iterator[Path]:
    """Yield the files that Python may load or that code may read, caches of source left out."""
    if not folder.is_dir():
        raise _refusal(package, "it is not in a folder of plain files")
    for where, folders, files in os.walk(folder):
        for name in folders:
            if (Path(where) / name).is_symlink():
                raise _refusal(package, f"its folder {name} is a symbolic link")
        for path in (Path(where) / name for name in files):
            if not _is_cache(path):
                yield path


def _is_cache(path: Path) -> bool:
    """Tell whether a file is a cache that Python compares with its source before it runs it (PEP 552).

    A name without the interpreter's tag is a module like any other, wherever it lies.
    """
    if path.parent.name != "__pycache__" or not _CACHE_NAME.fullmatch(path.name):
        return False
    with path.open("rb") as file:
        return file.read(8)[4:] != _UNCHECKED


def _file_digest(package: str, path: Path) -> str:
    if not path.is_file():
        raise _refusal(package, f"{path.name} is not a plain file")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refusal(package: str, why: str) -> ConfigurationError:
    return ConfigurationError("SB-114", f"The code of {package} has no digest: {why}")
