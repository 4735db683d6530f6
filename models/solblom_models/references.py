"""From a model's REF to its folder: `name`, `name@v3`, `sha256:…` or a folder. No torch."""

import re
from pathlib import Path
from shlex import quote

from solblom_models.life_cycle import RELEASED, stated_status
from solblom_protocol.errors import ConfigurationError, RefusedError, RunError
from solblom_protocol.home import find_home
from solblom_verify.canonical import file_digest
from solblom_verify.history import WITHDRAWN

NO_MANIFEST = "it has no manifest.json"
A_MODEL = "Name the model's own folder, such as solblom-demo/models/NAME-v1, or NAME and --home"
_FOLDER = re.compile(r"^(?P<name>.+)-v(?P<version>[1-9][0-9]*)$")


def find_artefact(ref: str, home: Path | None) -> Path:
    """Return the artefact folder of a REF.

    A name without a version means the newest that was released, else the newest; never one that was withdrawn.

    Raises:
        RefusedError: SB-420, every version of the name was withdrawn.
        RunError: SB-503, there is no such model.
        ConfigurationError: SB-111, no Solblom folder to look in.
    """
    folder = Path(ref)
    if folder.is_dir() and ("/" in ref or (folder / "manifest.json").exists()):
        if not (folder / "manifest.json").is_file():
            raise RunError("SB-503", f"{folder} is no model: {NO_MANIFEST}", A_MODEL)
        return folder
    try:
        models = find_home(home) / "models"
    except ConfigurationError:
        if folder.is_dir():  # named without a slash, and no model
            raise RunError("SB-503", f"{folder} is no model: {NO_MANIFEST}", A_MODEL) from None
        raise
    versions, wanted = registered(models), ""
    if ref.startswith("sha256:"):
        found = [p for _, _, p in versions if file_digest(p / "manifest.json")[0] == ref]
    else:
        name, _, wanted = ref.partition("@")
        found = [p for n, v, p in versions if n == name and wanted in ("", f"v{v}")]
    if not found:
        raise RunError("SB-503", f"There is no model {ref} in {models}")
    return found[-1] if ref.startswith("sha256:") or wanted else _latest(ref, found)


def _latest(name: str, found: list[Path]) -> Path:
    usable = newest_usable(found)
    if usable is None:
        version, home = found[-1].name.rpartition("-")[2], found[-1].parent.parent
        why = f"`solblom model status {quote(name)}@{version} --home {quote(str(home))}`"
        message = f"Every version of {name} was withdrawn"
        raise RefusedError("SB-420", message, f"{why} says who did it and why; ask the steward")
    return usable


def newest_usable(found: list[Path]) -> Path | None:
    """Return the newest released of some versions, else the newest not withdrawn; None: all were.

    Args:
        found: folders of one name, versions ascending.

    Raises:
        IntegrityError: SB-410, the home's log is damaged.
    """
    status = {path: stated_status(path) for path in found}
    usable = [path for path in found if status[path] != WITHDRAWN]
    return next(reversed([path for path in usable if status[path] == RELEASED] or usable), None)


def registered(models: Path) -> list[tuple[str, int, Path]]:
    """Return (name, version, folder) of all artefacts in a registry, versions ascending."""
    found = []
    for path in models.glob("*") if models.is_dir() else ():
        match = _FOLDER.match(path.name)
        if match and (path / "manifest.json").is_file():
            found.append((match["name"], int(match["version"]), path))
    return sorted(found)
