"""The Solblom folder: where runs, models and keys of one federation live on one machine."""

import os
from pathlib import Path

import typer

from solblom_protocol.errors import ConfigurationError
from solblom_verify.trust import HOME_MARKER

HOME_OPTION = typer.Option(
    None,
    "--home",
    help="Solblom folder (default: $SOLBLOM_HOME, else this folder if it is one, else ./solblom-demo)",
)
MARKER = HOME_MARKER


def find_home(given: Path | None) -> Path:
    """Return the Solblom folder: `--home`, `$SOLBLOM_HOME`, this folder if it is one, or the demo's folder here.

    Raises:
        ConfigurationError: SB-111.
    """
    here = Path() if Path(MARKER).is_file() else None
    candidates = [given, _from_environment(), here, Path("solblom-demo")]
    chosen = next(path for path in candidates if path is not None)
    if not (chosen / MARKER).is_file():
        raise ConfigurationError("SB-111", f"{chosen} is not a Solblom folder (no {MARKER} in it)")
    return chosen


def _from_environment() -> Path | None:
    value = os.environ.get("SOLBLOM_HOME")
    return Path(value) if value else None
