"""Which models may be used: those that a trust file vouches for, after every byte was checked. No torch."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

from solblom_models.life_cycle import stated_status
from solblom_models.references import find_artefact
from solblom_models.withdrawn import refuse_withdrawn
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.history import WITHDRAWN
from solblom_verify.trust import Trust, TrustError, load_trust, trust_file_of_home

UNWITNESSED = (
    "Do not use it yet: `solblom coordinator cosign RUN`, where it was made, asks its hospitals to "
    "cosign the log and writes log/ anew; for a copy, ask the steward for the newest one"
)


def pinned_trust(folder: Path, given: Path | None) -> tuple[Path, Trust]:
    """Return the trust file that counts for a model, and what it says.

    Raises:
        ConfigurationError: SB-112; SB-424, a newer one stands in the Solblom folder of the model: an older one may
            name keys that have been replaced since.
    """
    try:
        path = given or trust_file_of_home(folder)
        trust = load_trust(path)
    except TrustError as error:
        raise ConfigurationError("SB-112", str(error)) from None
    own = None if given is None else _trust_at_home(folder)
    if own is not None and trust.version < own.version:
        message = (
            f"{path} is version {trust.version}, and the folder of the model has {own.version}"
        )
        raise ConfigurationError("SB-424", message)
    return path, trust


def _trust_at_home(folder: Path) -> Trust | None:
    try:
        return load_trust(trust_file_of_home(folder))
    except TrustError:
        return None


def verified_model(
    ref: str, home: Path | None, trust: Path | None, *, withdrawn_too: bool = False
) -> tuple[Path, Verdict]:
    """Return a model's folder and its verdict, which is good; with `withdrawn_too`, but for a withdrawal.

    Raises:
        IntegrityError: SB-401; SB-410, the home's log is damaged.
        RefusedError: SB-420, the model was withdrawn.
        RunError: SB-503, there is no such model.
        ConfigurationError: SB-111, SB-112 or SB-424.
    """
    folder = find_artefact(ref, home)
    pinned = pinned_trust(folder, trust)[1]
    is_withdrawn = stated_status(folder) == WITHDRAWN
    if is_withdrawn and not withdrawn_too:
        raise refuse_withdrawn(folder, pinned)
    verdict = verify_artefact(folder, pinned, now=dt.datetime.now(dt.UTC))
    failed = [check for check in verdict.checks if not check.ok]
    if failed and not (withdrawn_too and [check.name for check in failed] == ["status"]):
        reason = f"{folder.name}: {failed[0].name}: {failed[0].reason}"
        hint = UNWITNESSED if failed[0].name == "witnesses" else None
        raise IntegrityError("SB-401", reason, hint)
    # The folder may not know yet what the home's log says: a withdrawal was interrupted.
    return folder, replace(verdict, status=WITHDRAWN) if is_withdrawn else verdict
