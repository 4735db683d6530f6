"""The life of a model: candidate → validated → released → withdrawn, as stewards decide in the coordinator's log.

`stated_status` reads what an artefact's own log/ and the log of its home say, unchecked: enough to choose a version or
to refuse one. Whatever is used is verified afterwards. No torch.
"""

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_verify.artefact import Verdict
from solblom_verify.canonical import file_digest, parse_canonical, read_file
from solblom_verify.folder import INCLUSION
from solblom_verify.history import (
    AFFECTED,
    CANDIDATE,
    WITHDRAWN,
    ModelName,
    Status,
    read_history,
)
from solblom_verify.shape import JsonObject
from solblom_verify.trust import Trust

VALIDATED, RELEASED = "validated", "released"
NEXT: dict[str, tuple[str, ...]] = {
    CANDIDATE: (VALIDATED, WITHDRAWN),
    VALIDATED: (RELEASED, WITHDRAWN),
    RELEASED: (WITHDRAWN,),
    WITHDRAWN: (),
}


LOG_FILE = Path("log") / "transparency.sqlite"  # of the home


def stated_status(folder: Path) -> str:
    """Return the status that an artefact's log/ states; `withdrawn` where the log of its home says so.

    A withdrawal that was interrupted stands in the home's log and not yet in the artefact's folder.

    Raises:
        IntegrityError: SB-410, the home's log is damaged.
    """
    stated = status_in_folder(folder)
    return WITHDRAWN if stated != WITHDRAWN and _is_withdrawn_at_home(folder) else stated


def status_in_folder(folder: Path) -> str:
    """Return the status that log/inclusion.json states; `candidate` where nothing readable stands there."""
    try:
        value: Any = parse_canonical(read_file(folder / INCLUSION))
        entries = [item["entry"] for item in value["entries"]]
        decided = [_decision(entry) for entry in entries if entry["kind"] == "status"]
    except (OSError, ValueError, KeyError, TypeError):
        return CANDIDATE
    decided = [status for status in decided if status != AFFECTED] or [CANDIDATE]
    return WITHDRAWN if WITHDRAWN in decided else decided[-1]


def _is_withdrawn_at_home(folder: Path) -> bool:
    """Tell whether the log of HOME, where a folder is HOME/models/ARTEFACT, says that it is withdrawn."""
    return any(_withdraws(text) for text in _entries_at_home(folder))


def _entries_at_home(folder: Path) -> list[str]:
    """Return a model's entries in the log of HOME; a log that is not there, or may not be opened, has none."""
    models = folder.resolve().parent
    path = models.parent / LOG_FILE
    if models.name != "models" or not path.is_file():
        return []
    try:
        artefact = file_digest(folder / "manifest.json")[0]
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)
        ) as database:
            rows = database.execute(
                "SELECT entry FROM keys JOIN entries ON entries.seq = keys.seq WHERE artefact = ?"
                " ORDER BY entries.seq",
                (artefact,),
            ).fetchall()
    except (OSError, sqlite3.OperationalError):
        return []
    except sqlite3.Error:
        raise IntegrityError("SB-410", f"{LOG_FILE} cannot be read") from None
    return [str(row[0]) for row in rows]


def logged_decisions(folder: Path, trust: Trust) -> tuple[Status, ...]:
    """Return what stewards decided about a model, every signature checked with the trust file.

    Of its home's log and its own log/, the one that says more. That the log itself holds is not checked: a steward's
    signature is enough to tell who said what. Empty where nothing can be checked.

    Raises:
        IntegrityError: SB-410, the home's log is damaged.
    """
    try:
        manifest: Any = parse_canonical(read_file(folder / "manifest.json"))
        artefact = file_digest(folder / "manifest.json")[0]
        model = ModelName(artefact, str(manifest["name"]), str(manifest["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return max(
        (_checked(_entries_at_home(folder), model, trust), _checked(_own(folder), model, trust)),
        key=len,
    )


def _own(folder: Path) -> list[str]:
    try:
        value: Any = parse_canonical(read_file(folder / INCLUSION))
        return [json.dumps(item["entry"]) for item in value["entries"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _checked(entries: list[str], model: ModelName, trust: Trust) -> tuple[Status, ...]:
    try:
        read = [JsonObject.of(json.loads(text), "entry") for text in entries]
        return read_history(read, model, trust).statuses
    except (ValueError, RecursionError):
        return ()


def _withdraws(text: str) -> bool:
    try:
        entry = json.loads(text)
        return bool(entry["kind"] == "status" and _decision(entry) == WITHDRAWN)
    except (ValueError, KeyError, TypeError):
        return False


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
