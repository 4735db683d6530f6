"""Which models may be used: those that a trust file vouches for, after every byte was checked. No torch."""

import datetime as dt
from pathlib import Path

from solblom_models.references import find_artefact
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.trust import Trust, TrustError, load_trust, trust_file_of_home


def pinned_trust(folder: Path, given: Path | None) -> tuple[Path, Trust]:
    """Return the trust file that counts for a model, and what it says.

    Raises:
        ConfigurationError: SB-112.
    """
    try:
        path = given or trust_file_of_home(folder)
        return path, load_trust(path)
    except TrustError as error:
        raise ConfigurationError("SB-112", str(error)) from None


def verified_model(ref: str, home: Path | None, trust: Path | None) -> tuple[Path, Verdict]:
    """Return a model's folder and its verdict, which is good.

    Raises:
        IntegrityError: SB-401.
        RunError: SB-503, there is no such model.
        ConfigurationError: SB-111 or SB-112.
    """
    folder = find_artefact(ref, home)
    verdict = verify_artefact(folder, pinned_trust(folder, trust)[1], now=dt.datetime.now(dt.UTC))
    if not verdict.ok:
        failed = next(check for check in verdict.checks if not check.ok)
        raise IntegrityError("SB-401", f"{folder.name}: {failed.name}: {failed.reason}")
    return folder, verdict
