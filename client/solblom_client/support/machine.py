"""The machine and the installed packages, in words and versions of a fixed list."""

import os
import platform
import re
import sqlite3
import ssl
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from solblom_client.support.report import Installed, MachineFacts, Package, VersionText

_VERSION = TypeAdapter(VersionText)
_NUMBERS = re.compile(r"[0-9]{1,8}(\.[0-9]{1,8}){0,4}")
GIB = 2**30


def look_at_machine() -> MachineFacts:
    """Return what the node runs on."""
    release = _release()
    library, libc = platform.libc_ver()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return MachineFacts(
        system=one_of(MachineFacts, "system", platform.system()),
        processor=one_of(MachineFacts, "processor", platform.machine()),
        distribution=one_of(MachineFacts, "distribution", release.get("ID", "")),
        distribution_version=numbers(release.get("VERSION_ID", "")),
        kernel=numbers(platform.release()),  # without what whoever built it called it
        glibc=numbers(libc) if library == "glibc" else None,
        python=numbers(platform.python_version()) or "0",
        openssl=numbers(ssl.OPENSSL_VERSION.partition(" ")[2]) or "0",
        sqlite=sqlite3.sqlite_version,
        processors=os.cpu_count() or 1,
        memory_gib=round(memory / GIB),
        container=any(Path(path).exists() for path in ("/run/.containerenv", "/.dockerenv")),
        systemd=Path("/run/systemd/system").is_dir(),
    )


def look_at_packages() -> tuple[Installed, ...]:
    """Return the versions of the packages that matter."""
    return tuple(Installed(package=name, version=_version(name)) for name in get_args(Package))


def one_of(model: Any, field: str, text: object) -> Any:
    """Return a text where it is one of the words of a field; else `another`, or None where the field lacks that."""
    words = _words(model.model_fields[field].annotation)
    if text in words:
        return text
    return "another" if "another" in words else None


def _words(annotation: Any) -> set[object]:
    """Return the words of a field, also of one that may be None."""
    found: set[object] = set()
    for inner in get_args(annotation):
        found |= {inner} if isinstance(inner, str) else _words(inner)
    return found


def numbers(text: str) -> str | None:
    """Return the numbers with which a version begins; None where it begins otherwise."""
    found = _NUMBERS.match(text)
    return found[0] if found else None


def _version(name: str) -> str | None:
    try:
        return _VERSION.validate_python(version(name))
    except (PackageNotFoundError, ValidationError):
        return None


def _release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
