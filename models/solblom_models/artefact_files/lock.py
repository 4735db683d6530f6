"""code/lock.txt: what was installed where the artefact was written, by the metadata of installed distributions.

That is the coordinator's environment: Solblom's parts and whatever they need, extras included where they are installed.
It says nothing of the hospitals', whose receipts name their code and libraries by one digest.

No digest of a wheel is known once a wheel is installed. What is known is RECORD, the installer's list of files with
their digests (PEP 376, PEP 627). Without the lines that differ between two installations of one wheel it has a digest
that anybody can compare who installs the same version. The files themselves are not read again.
"""

import csv
import hashlib
import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, distributions

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from solblom_protocol.code_digest import code_digest
from solblom_verify.canonical import digest

PARTS = ("verify", "protocol", "models", "client", "server", "simulation")
_WRITTEN_BY_INSTALLERS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_LONGEST_LICENCE = 100  # characters: some metadata hold the whole text


@dataclass(frozen=True)
class Component:
    """An installed distribution.

    Attributes:
        name: in its normalised spelling (PEP 503).
        licence: as its metadata say: an SPDX expression, else a name, else None.
        record: digest of its RECORD, or None where the installer left none.
        code: of Solblom's own parts, the digest of the code that is loaded.
        needs: names of components that it needs, sorted.
    """

    name: str
    version: str
    licence: str | None
    record: str | None
    code: str | None
    needs: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is one of Solblom's parts."""
        return self.code is not None


@lru_cache(maxsize=1)  # what is loaded does not change while a process lives
def installed_components() -> tuple[Component, ...]:
    """Return Solblom's installed parts and all that they need, sorted by name."""
    installed: dict[str, Distribution] = {
        canonicalize_name(d.metadata["Name"]): d for d in distributions()
    }
    ours = {f"solblom-{part}": part for part in PARTS}
    waiting = [name for name in ours if name in installed]
    found: dict[str, Component] = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        needs = needs_of(installed[name], extras=name in ours) & installed.keys()
        code = code_digest((f"solblom_{ours[name]}",)) if name in ours else None
        found[name] = component_of(name, installed[name], code=code, needs=tuple(sorted(needs)))
        waiting += needs
    return tuple(found[name] for name in sorted(found))


def needs_of(distribution: Distribution, *, extras: bool) -> set[str]:
    """Return the names that a distribution requires here; with `extras`, those of all its extras too."""
    offered = distribution.metadata.get_all("Provides-Extra") or []
    named = ["", *offered] if extras else [""]
    found: set[str] = set()
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of a distribution older than PEP 508
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in named):
            found.add(canonicalize_name(requirement.name))
    return found


def component_of(
    name: str, distribution: Distribution, *, code: str | None, needs: tuple[str, ...]
) -> Component:
    """Return what a distribution's metadata say of it; of one with `code`, no RECORD."""
    return Component(
        name=name,
        version=distribution.version,
        licence=_licence(distribution),
        record=None if code else _record_digest(distribution.read_text("RECORD")),
        code=code,
        needs=needs,
    )


def _licence(distribution: Distribution) -> str | None:
    """Return the licence that the metadata name: expression (PEP 639), short field, or classifiers."""
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or []:
        return str(expression)
    named = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    field = "".join(metadata.get_all("License") or []).strip()
    is_name = 0 < len(field) <= _LONGEST_LICENCE and "\n" not in field and field != "UNKNOWN"
    if is_name:
        return field
    return "; ".join(sorted(set(named))) or None


def _record_digest(record: str | None) -> str | None:
    """Return the digest of the lines of a RECORD that follow from the wheel alone."""
    if record is None:
        return None
    lines = []
    for row in csv.reader(record.splitlines()):
        if len(row) != 3 or not row[1]:
            continue  # caches, and RECORD itself
        path, of_file, size = row
        folder, _, file = path.rpartition("/")
        # Scripts are written with the path of this environment's interpreter.
        if path.startswith(("../", "/")) or (
            folder.endswith(".dist-info") and file in _WRITTEN_BY_INSTALLERS
        ):
            continue
        lines.append(f"{path},{of_file},{size}\n")
    return f"sha256:{hashlib.sha256(''.join(sorted(lines)).encode()).hexdigest()}"


def lock_file(components: tuple[Component, ...]) -> bytes:
    """Return the lock as text that pip reads too; Solblom's parts are comments, since no index need have them."""
    lines = [
        "# What was installed where this artefact was written: Solblom's parts and all that they need.",
        "# From the metadata of installed distributions. The hospitals' environments are not known here.",
        "# record: SHA-256 over the installer's list of files (RECORD), without what an installation adds.",
        "# It is no digest of a wheel: pip cannot check it, and no file was read again for it.",
        f"# Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        *(f"# {c.name}=={c.version}  # code {c.code}" for c in components if c.is_ours),
        *(
            f"{c.name}=={c.version}  # record {c.record or 'none'}"
            for c in components
            if not c.is_ours
        ),
    ]
    return ("\n".join(lines) + "\n").encode()


def lock_digest(components: tuple[Component, ...]) -> str:
    """Return the digest of the lock."""
    return digest(lock_file(components))
