"""What is known of the versions in a registry: verified or not, and why. No torch.

A folder can say of itself what it likes, so a status is given only where every byte was checked; `withdrawn` counts
whoever says so, since it can only keep a model from being used.
"""

import datetime as dt
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from solblom_models.life_cycle import stated_status
from solblom_models.trusted import pinned_trust
from solblom_protocol.errors import ConfigurationError
from solblom_verify.artefact import verify_artefact
from solblom_verify.history import CANDIDATE, WITHDRAWN

UNKNOWN = "unknown"
NOT_LOOKED_AT = "not checked: `solblom model verify REF`, or --verify for all"


@dataclass(frozen=True)
class Judged:
    """What is known of a version.

    Attributes:
        verified: whether every check passed; None where nobody looked.
        reason: why not; empty where it is verified.
        status: checked; `unknown` where it is not verified, unless it was withdrawn.
        stated: what its log/ says of itself, unchecked.
    """

    verified: bool | None
    reason: str
    status: str
    stated: str


def not_judged(folder: Path, reason: str = NOT_LOOKED_AT) -> Judged:
    """Return what is known of a version that nobody looked at."""
    stated = stated_status(folder)
    return Judged(None, reason, WITHDRAWN if stated == WITHDRAWN else UNKNOWN, stated)


def judge(folder: Path, artefact: str) -> Judged:
    """Verify a version that the registry knows under a digest.

    Raises:
        IntegrityError: SB-410, the home's log is damaged.
    """
    try:
        trust = pinned_trust(folder, None)[1]
    except ConfigurationError as error:
        return not_judged(folder, f"cannot be judged: {error.message}")
    verdict = verify_artefact(folder, trust, now=dt.datetime.now(dt.UTC))
    stated = stated_status(folder)
    bad = [check for check in verdict.checks if not check.ok]
    # A withdrawal is what matters most of a withdrawn model, whatever else does not hold.
    bad.sort(key=lambda check: check.name != "status" or stated != WITHDRAWN)
    failed = next(iter(bad), None)
    if failed is not None:
        reason = f"{failed.name}: {failed.reason}"
    elif verdict.artefact != artefact:  # another model, good in itself, was put in its place
        reason = f"another model: its digest is {verdict.artefact}, and {artefact} is registered"
    elif stated == WITHDRAWN:
        reason = "status: withdrawn, as the coordinator's log says"
    else:
        return Judged(True, "", verdict.status or CANDIDATE, stated)
    return Judged(False, reason, WITHDRAWN if stated == WITHDRAWN else UNKNOWN, stated)


def judge_within(versions: Iterable[tuple[Path, str]], seconds: float) -> dict[Path, Judged]:
    """Verify versions in this order as long as the time lasts; those that it did not last for are not judged."""
    end = time.monotonic() + seconds
    return {
        folder: judge(folder, artefact) if time.monotonic() < end else not_judged(folder)
        for folder, artefact in versions
    }
