"""The life of a model: candidate → validated → released → withdrawn, as stewards decide in the coordinator's log.

`stated_status` reads what an artefact's own log/ says, unchecked: enough to choose a version or to refuse one.
Whatever is used is verified afterwards. No torch.
"""

import base64
import json
from pathlib import Path
from typing import Any

from solblom_protocol.errors import RefusedError
from solblom_verify.artefact import Verdict
from solblom_verify.canonical import parse_canonical, read_file
from solblom_verify.folder import INCLUSION
from solblom_verify.history import AFFECTED, CANDIDATE, WITHDRAWN

VALIDATED, RELEASED = "validated", "released"
NEXT: dict[str, tuple[str, ...]] = {
    CANDIDATE: (VALIDATED, WITHDRAWN),
    VALIDATED: (RELEASED, WITHDRAWN),
    RELEASED: (WITHDRAWN,),
    WITHDRAWN: (),
}


def stated_status(folder: Path) -> str:
    """Return the status that log/inclusion.json states; `candidate` where nothing readable stands there."""
    try:
        value: Any = parse_canonical(read_file(folder / INCLUSION))
        entries = [item["entry"] for item in value["entries"]]
        decided = [_decision(entry) for entry in entries if entry["kind"] == "status"]
    except (OSError, ValueError, KeyError, TypeError):
        return CANDIDATE
    decided = [status for status in decided if status != AFFECTED] or [CANDIDATE]
    return WITHDRAWN if WITHDRAWN in decided else decided[-1]


def _decision(entry: Any) -> str:
    return str(json.loads(base64.b64decode(entry["envelope"]["payload"]))["status"])


def require_released(verdict: Verdict) -> None:
    """Refuse a verified model for clinical use unless a steward has released it.

    Raises:
        RefusedError: SB-421.
    """
    if verdict.status != RELEASED:
        status = verdict.status or "of no log"
        raise RefusedError("SB-421", f"{verdict.name}@{verdict.version} is {status}, not released")
