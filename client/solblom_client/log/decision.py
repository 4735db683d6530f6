"""One decision of the hospital's log: what may stand in it, and in which shape.

No patient id, file name or text of an exception fits.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from solblom_protocol.errors import IntegrityError

Event = Literal[
    "received",  # an order of the pinned coordinator arrived
    "accepted",  # it passed the gate
    "reserved",  # its charge is on disk
    "held",  # its answer waits for a person
    "released",  # its answer left the vault
    "again",  # the same bytes left again
    "refused",
    "replayed",  # a person here had a round worked on again; nothing of it left
    "manual-release",
    "manual-reject",
    "approved",
    "revoked",
    "ended",  # a permit's date came: the study's noise root is wiped
    "clock-accepted",  # a person put right a clock that had run ahead
    "paused",
    "resumed",
    "pruned",
    "counted",  # how often a decision repeated within an hour
    "witnessed",  # a new head of the coordinator's log, which only grew since the last one
    "cosigned",  # a signature on such a head left
    "support-bundle",  # a person had a file made for help from outside
    "log-accepted",  # a person says that the log that stands is the one to go on from
]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHAPES: dict[str, re.Pattern[str]] = {
    "study": _DIGEST,
    "order": _DIGEST,
    "request": _DIGEST,
    "work": _DIGEST,
    "receipt": _DIGEST,
    "head": _DIGEST,
    "file": _DIGEST,
    "run": re.compile(r"[a-z0-9][a-z0-9-]{0,94}"),
    "kind": re.compile(r"[a-z]{1,16}"),
    "what": re.compile(r"[a-z-]{1,16}"),
    "code": re.compile(r"SB-[0-9]{3}"),
    "outside": re.compile(r"SB-[0-9]{3}"),
    "to": re.compile(r"[0-9a-f]{64}"),
    "by": re.compile(r"[^\W\d_][\w .,'@-]{0,79}"),  # a person of the hospital
}


@dataclass(frozen=True)
class Decision:
    """One decision. `code` is the inside code, `outside` the one that left; `by` names a person."""

    event: Event
    study: str | None = None
    run: str | None = None
    kind: str | None = None
    round: int | None = None
    order: str | None = None
    request: str | None = None
    work: str | None = None
    receipt: str | None = None
    code: str | None = None
    outside: str | None = None
    by: str | None = None
    what: str | None = None
    times: int | None = None
    size: int | None = None  # bytes of an answer
    values: int | None = None  # numbers in it
    to: str | None = None  # the coordinator's key
    entries: int | None = None  # of the coordinator's log
    head: str | None = None  # root over them
    file: str | None = None  # a file that was made for outside
    first: int | None = None  # number of the oldest entry that is kept

    def to_json(self) -> dict[str, Any]:
        """Return the members that are set.

        Raises:
            IntegrityError: SB-406, a text is neither a digest, a code nor a name.
        """
        members = {name: value for name, value in vars(self).items() if value is not None}
        for name, shape in _SHAPES.items():
            if name in members and not shape.fullmatch(str(members[name])):
                raise IntegrityError("SB-406", f"{name} cannot stand in the log of decisions")
        return members
